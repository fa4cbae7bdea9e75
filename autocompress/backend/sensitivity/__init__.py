"""Predicted loss of every option, from Fisher products of gradients and weight changes."""
