"""Channel pruning: importance of channels."""
