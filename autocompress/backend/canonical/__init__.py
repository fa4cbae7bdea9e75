"""Canonical form: a network rewritten, with proof, into the layers that techniques know."""
