"""Recovery by training: distillation, block-wise reconstruction, warm starts, averaging."""
