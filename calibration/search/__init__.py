"""Which layers compute in INT8, by which calibration method, on which target."""
