"""Statistics of the original on calibration data: moments, layer inputs, least squares, and their cache."""
