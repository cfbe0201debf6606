"""The student path and the GD-Units as ONNX graphs, and the bundle that holds them."""

from dmdkit.export.bundle_writer import ExportOptions, ParityData, export_bundle
from dmdkit.export.explain import ExplainModule
from dmdkit.export.student import StudentModule

__all__ = ["ExplainModule", "ExportOptions", "ParityData", "StudentModule", "export_bundle"]
