"""ONNX graphs as calibration sees them: their products and weights, Q/DQ placement, and INT8 weight storage."""
