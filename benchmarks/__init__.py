"""Measurements, as ratios taken in one run; nothing here is a test."""

import dmdkit  # noqa: F401 - before any benchmark imports ONNX Runtime, whose telemetry it switches off
