"""The student path and the GD-Units as ONNX graphs, the bundle that holds them, and the engines built from it.

Names are loaded when they are used: building an engine on a device must not need PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmdkit.export.bundle_writer import ExportOptions, ParityData, export_bundle
    from dmdkit.export.explain import ExplainModule
    from dmdkit.export.student import StudentModule

__all__ = ["ExplainModule", "ExportOptions", "ParityData", "StudentModule", "export_bundle"]

_HOME = {"ExplainModule": "explain", "StudentModule": "student"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'bundle_writer')}"), name)
