"""OpenVINO on x86 and ARM CPUs: an optional backend (the extra ``openvino``) for graphs that passed parity on it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dmdkit.errors import BundleError, InputError, MissingDependencyError
from dmdkit.runtime.backends.base import Array, Runner, TensorSpec
from dmdkit.telemetry import import_openvino

__all__ = ["OpenVinoRunner"]

_CONFIG = {
    # Left alone, OpenVINO computes in bfloat16 where the CPU has it, and that is not the graph whose parity was measured.
    "INFERENCE_PRECISION_HINT": "f32",
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    # An application decides where its threads run, not a library inside it.
    "ENABLE_CPU_PINNING": "NO",
}


class _Compiled:
    """A compiled model and its idle requests; a request serves one call at a time, so calls take turns or a new one."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    def infer(self, feed: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        with self._lock:
            request = self._idle.pop() if self._idle else None
        if request is None:
            request = self._model.create_infer_request()
        values = request.infer(dict(feed), share_inputs=True, share_outputs=True)
        # The request writes its next outputs into the same memory, so the caller gets copies.
        found = {name: np.array(values[name], np.float32) for name in outputs}
        with self._lock:
            self._idle.append(request)
        return found


class OpenVinoRunner(Runner):
    """A graph compiled by OpenVINO for the CPU, in fp32 with one stream.

    Single samples run on a copy compiled for a batch of exactly 1, which is faster because every shape is then known;
    other batches run on a second one with a dynamic batch. Each is compiled when first needed.

    Args:
        name: The graph's name.
        model: The ONNX file's bytes, already checked against their hash.
        threads: Threads inside one inference.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        BundleError: It cannot load the graph.
    """

    def __init__(self, name: str, model: bytes, *, threads: int = 1) -> None:
        super().__init__(name)
        try:
            openvino = import_openvino()
        except ImportError as cause:
            raise MissingDependencyError("openvino", "openvino", "the OpenVINO backend") from cause
        self._version = openvino.__version__.split("-", maxsplit=1)[0]
        self._core = openvino.Core()
        self._config = {**_CONFIG, "INFERENCE_NUM_THREADS": str(threads)}
        self._lock = threading.Lock()
        self._compiled: dict[bool, _Compiled] = {}
        self._model = model
        try:
            graph = self._core.read_model(model, b"")
            self._inputs = tuple(
                TensorSpec(
                    port.any_name,
                    (-1, *(size.get_length() for size in list(port.partial_shape)[1:])),
                    "int64" if port.element_type == openvino.Type.i64 else "float32",
                )
                for port in graph.inputs
            )
            self._outputs = [port.any_name for port in graph.outputs]
            self._compile(single=True)
        except RuntimeError as cause:  # all that OpenVINO raises derives from it
            raise BundleError(f"OpenVINO {self._version} cannot load {name}: {_first_line(cause)}") from cause

    @property
    def backend(self) -> str:
        """What runs the graph, with its version."""
        return f"openvino {self._version}"

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs, in the graph's order."""
        return self._inputs

    @property
    def outputs(self) -> Sequence[str]:
        """The names of the outputs, in the graph's order."""
        return self._outputs

    def _compile(self, *, single: bool) -> _Compiled:
        with self._lock:
            if self._closed:  # by another thread, since infer looked
                raise InputError(f"{self.name} is closed")
            if single not in self._compiled:
                # Reshaping changes a model in place, so each form is read anew; reading takes milliseconds.
                graph = self._core.read_model(self._model, b"")
                if single:
                    graph.reshape({spec.name: [1, *spec.shape[1:]] for spec in self._inputs})
                self._compiled[single] = _Compiled(self._core.compile_model(graph, "CPU", self._config))
            return self._compiled[single]

    def _infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        single = all(feed[spec.name].shape[0] == 1 for spec in self._inputs)
        named = {spec.name: feed[spec.name] for spec in self._inputs}
        try:
            return self._compile(single=single).infer(named, self._outputs)
        except RuntimeError as cause:
            raise InputError(f"{self.name}: OpenVINO failed: {_first_line(cause)}") from cause

    def _close(self) -> None:
        with self._lock:
            self._compiled.clear()  # a run in another thread keeps what it uses until it ends


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Its messages begin with the place in OpenVINO's own source; what went wrong comes last.
    return f"{lines[-1]:.300}" if lines else type(error).__name__
