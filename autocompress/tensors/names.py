"""Names of tensors where a network's own code gives none."""

# Name of the only output of a network that returns a tensor.
OUTPUT = "output"
