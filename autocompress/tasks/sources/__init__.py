"""Sources of samples: a file for each kind of data that a spec can name."""
