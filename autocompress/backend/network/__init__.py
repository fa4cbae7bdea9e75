"""The compressed network: quantised weights, masks, folding of norms, checkpoints."""
