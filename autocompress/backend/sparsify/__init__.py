"""Sparsity: masks and optimal brain surgeon updates."""
