"""Calibration sets and the INT8 forms of a graph."""

from dmdkit.calibration.graph.weight_storage import check_scales, store_weights_int8
from dmdkit.calibration.lowerings import Lowering, lower_for_cpu
from dmdkit.calibration.samples import CalibrationSet, calibration_set

__all__ = [
    "CalibrationSet",
    "Lowering",
    "calibration_set",
    "check_scales",
    "lower_for_cpu",
    "store_weights_int8",
]
