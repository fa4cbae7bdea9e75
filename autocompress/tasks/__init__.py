"""What the user brings: a model and data, and the embedded task used when nothing is brought."""
