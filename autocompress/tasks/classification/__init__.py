"""Classification: one of several classes for each sample."""
