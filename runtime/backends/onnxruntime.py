"""ONNX Runtime, the backend that runs everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import onnxruntime as ort

from dmdkit.errors import BundleError, InputError
from dmdkit.runtime.backends.base import Array, Feed, Runner, TensorSpec
from dmdkit.runtime.backends.huge_pages import weights_on_huge_pages

__all__ = ["PROVIDERS", "OnnxRuntimeRunner", "available_devices", "cpu_session", "session_options"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_LOG_ERRORS_ONLY = 3
_DTYPES: dict[str, Literal["float32", "int64"]] = {"tensor(float)": "float32", "tensor(int64)": "int64"}


def available_devices() -> list[str]:
    """Devices this installation of ONNX Runtime has a provider for."""
    present = ort.get_available_providers()
    return [device for device, provider in PROVIDERS.items() if provider in present]


def session_options(entries: Mapping[str, str] | None = None, *, threads: int = 1) -> ort.SessionOptions:
    """Session options that log errors only.

    Args:
        entries: Session configuration entries.
        threads: Intra-op threads.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    return options


def cpu_session(model: bytes, entries: Mapping[str, str] | None = None, *, threads: int = 1) -> ort.InferenceSession:
    """A session on the CPU, for graphs of ours that no user named: its errors are ONNX Runtime's own.

    Args:
        model: A serialised ONNX model.
        entries: Session configuration entries.
        threads: Intra-op threads.
    """
    return ort.InferenceSession(model, session_options(entries, threads=threads), providers=[PROVIDERS["cpu"]])


class OnnxRuntimeRunner(Runner):
    """A graph in an ONNX Runtime session.

    Args:
        name: The graph's name.
        model: The ONNX file's bytes, already checked against their hash.
        entries: Session configuration entries that the manifest asks for.
        threads: Intra-op threads.
        device: cpu or cuda.

    Raises:
        BundleError: ONNX Runtime cannot load the graph, or not on that device.
    """

    def __init__(self, name: str, model: bytes, entries: Mapping[str, str], *, threads: int = 1, device: str = "cpu") -> None:
        super().__init__(name)
        providers = [PROVIDERS[device]] + ([PROVIDERS["cpu"]] if device != "cpu" else [])
        try:
            with weights_on_huge_pages(len(model) if device == "cpu" else 0):
                session = ort.InferenceSession(model, session_options(entries, threads=threads), providers=providers)
            self._inputs = tuple(_spec(node.name, node.type, node.shape) for node in session.get_inputs())
        except Exception as cause:  # ONNX Runtime raises many kinds, none of them documented as a base
            raise BundleError(f"ONNX Runtime {ort.__version__} cannot load {name}: {_first_line(cause)}") from cause
        if PROVIDERS[device] not in session.get_providers():  # it falls back to the CPU in silence
            raise BundleError(f"ONNX Runtime {ort.__version__} cannot run {name} on {device}; its libraries may be missing")
        session.disable_fallback()  # an error is an error, not a second try on the CPU
        self._outputs = [output.name for output in session.get_outputs()]
        self._session: ort.InferenceSession | None = session

    @property
    def backend(self) -> str:
        """What runs the graph, with its version."""
        return f"onnxruntime {ort.__version__}"

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs, in the graph's order."""
        return self._inputs

    @property
    def outputs(self) -> Sequence[str]:
        """The names of the outputs, in the graph's order."""
        return self._outputs

    def _infer(self, feed: Feed) -> dict[str, Array]:
        session = self._session  # a close from another thread waits, through this reference, for the run to end
        if session is None:
            raise InputError(f"{self.name} is closed")
        try:
            values = session.run(self._outputs, feed)
        except Exception as cause:  # see above
            raise InputError(f"{self.name}: ONNX Runtime failed: {_first_line(cause)}") from cause
        return dict(zip(self._outputs, values, strict=True))

    def _close(self) -> None:
        self._session = None


def _spec(name: str, dtype: str, shape: Sequence[int | str | None]) -> TensorSpec:
    sizes = [size if isinstance(size, int) else -1 for size in shape[1:]]
    # Tokens alone may have a dynamic length.
    if dtype not in _DTYPES or (-1 in sizes and (_DTYPES[dtype] != "int64" or len(sizes) != 1)):
        raise ValueError(f"input {name!r} is {dtype} {shape}; expected float32 or int64 with only the batch dynamic")
    return TensorSpec(name, (-1, *sizes), _DTYPES[dtype])


def _first_line(cause: Exception) -> str:
    return f"{(str(cause).splitlines() or [type(cause).__name__])[0]:.300}"
