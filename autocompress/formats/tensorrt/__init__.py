"""ONNX files as TensorRT reads them: symmetric 8-bit integers between explicit Q/DQ pairs."""
