"""Core ML programs, converted by coremltools and read back in torch where Core ML is not there."""
