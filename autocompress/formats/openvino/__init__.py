"""ONNX files run in OpenVINO."""
