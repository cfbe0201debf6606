"""dmdkit: DMD emotion models, trained, exported, quantised and proven."""

from dmdkit.telemetry import switch_off_onnxruntime

__version__ = "0.1.0"

__all__ = ["__version__"]

# Here, because ONNX Runtime starts its telemetry while it is imported, and packages that dmdkit uses import it too.
switch_off_onnxruntime()
