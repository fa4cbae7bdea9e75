"""TensorFlow Lite files, written operator by operator and run in LiteRT."""
