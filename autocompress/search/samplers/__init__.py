"""Samplers: which plan is tried next."""
