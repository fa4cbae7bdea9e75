"""Quantisation: rounding methods and cross-layer equalisation."""
