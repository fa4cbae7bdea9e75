"""ONNX files, entropy-coded: smaller to keep and to send, opened in memory."""
