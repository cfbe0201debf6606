"""ONNX Runtime, the backend that runs everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnxruntime as ort

from dmdkit.errors import BundleError, InputError
from dmdkit.runtime.backends.base import Array, Runner, TensorSpec

__all__ = ["PROVIDERS", "OnnxRuntimeRunner", "available_devices"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_LOG_ERRORS_ONLY = 3


def available_devices() -> list[str]:
    """Devices this installation of ONNX Runtime has a provider for."""
    present = ort.get_available_providers()
    return [device for device, provider in PROVIDERS.items() if provider in present]


class OnnxRuntimeRunner(Runner):
    """A graph in an ONNX Runtime session.

    Args:
        name: The graph's name.
        model: The ONNX file's bytes, already checked against their hash.
        session_options: Session config entries that the manifest asks for.
        threads: Intra-op threads.
        device: cpu or cuda.

    Raises:
        BundleError: ONNX Runtime cannot load the graph.
    """

    def __init__(
        self, name: str, model: bytes, session_options: Mapping[str, str], *, threads: int = 1, device: str = "cpu"
    ) -> None:
        super().__init__(name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_ERRORS_ONLY
        for key, value in session_options.items():
            options.add_session_config_entry(key, value)
        providers = [PROVIDERS[device]] + ([PROVIDERS["cpu"]] if device != "cpu" else [])
        try:
            self._session = ort.InferenceSession(model, options, providers=providers)
        except Exception as cause:  # ONNX Runtime raises many kinds, none of them documented as a base
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load {name}: {str(cause).splitlines()[0]:.300}"
            ) from cause
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = tuple(TensorSpec(i.name, (-1, *(int(size) for size in i.shape[1:]))) for i in self._session.get_inputs())

    @property
    def backend(self) -> str:
        """What runs the graph, with its version."""
        return f"onnxruntime {ort.__version__}"

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs, in the graph's order."""
        return self._inputs

    def _infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        try:
            values = self._session.run(self._outputs, dict(feed))
        except Exception as cause:  # see above
            raise InputError(f"{self.name}: ONNX Runtime failed: {str(cause).splitlines()[0]:.300}") from cause
        return dict(zip(self._outputs, values, strict=True))

    def _close(self) -> None:
        del self._session
