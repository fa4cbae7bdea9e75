"""Metrics of quality: by name, of torchmetrics, or a user's function, each with its standard error."""
