"""ONNX: written with ONNX Runtime's operators, run in ONNX Runtime."""
