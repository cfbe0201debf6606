"""Engines of every TensorRT flavour: buffers bound once, pinned host memory, one stream, CUDA graphs where they can be had."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dmdkit.errors import DmdkitError, EngineError
from dmdkit.files import write_bytes
from dmdkit.runtime.backends.base import Array, Runner, TensorSpec
from dmdkit.runtime.batching import infer_batched
from dmdkit.runtime.engines.cuda import Cuda, load_cuda
from dmdkit.runtime.engines.record import Engine, TensorRecord
from dmdkit.runtime.engines.tensorrt_api import OpenEngine, inspect_engine, open_engine

__all__ = ["TensorRtRunner"]

_LOG = logging.getLogger(__name__)
_DTYPES: dict[str, Literal["float32", "int64"]] = {"FLOAT": "float32", "INT64": "int64"}
"""TensorRT's name -> what the graphs take and give: features and scores, and tokens."""


@dataclass(frozen=True)
class _Buffer:
    """One tensor: pinned host memory for the largest batch, and the address the engine was given."""

    name: str
    host: int
    array: npt.NDArray[Any]
    device: int

    def view(self, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The start of it as so many samples, and of so many tokens where ``shape`` says."""
        whole = (*shape, *self.array.shape[len(shape) :])
        return self.array.reshape(-1)[: math.prod(whole)].reshape(whole)


class TensorRtRunner(Runner):
    """A plan that passed its preflight. Calls from several threads take turns.

    The first call with a batch size runs plainly (the warm-up that capture needs), the second is captured into a CUDA
    graph, later ones launch it. Where capture fails, every call runs plainly and ``backend`` says so.

    Args:
        name: The graph's name.
        engine: The sidecar with its plan.
        mapped: Whether CPU and GPU share memory, so that buffers are mapped and nothing is copied.
        kernels: File that keeps TensorRT-RTX's compiled kernels between openings; None keeps none.
        cuda: CUDA calls; without it, cuda-python's.

    Raises:
        EngineError: The plan is damaged, TensorRT refuses it, or CUDA fails.
        MissingDependencyError: cuda-python is not installed.
    """

    def __init__(
        self, name: str, engine: Engine, *, mapped: bool = False, kernels: Path | None = None, cuda: Cuda | None = None
    ) -> None:
        super().__init__(name)
        self._record, self._mapped, self._kernels = engine.record, mapped, kernels
        self._cuda = cuda if cuda is not None else load_cuda()
        self._lock = threading.Lock()
        self._buffers: dict[str, _Buffer] = {}
        self._stream: Any = None
        self._graph: Any = None
        self._shape: tuple[int, ...] = (0,)
        self._warm = False
        self._no_capture: str | None = None
        self.last_latency_ms = 0.0
        """Time of the last call, copies included."""
        known = kernels.read_bytes() if kernels is not None and kernels.is_file() else None
        self._opened: OpenEngine | None = open_engine(self._record.flavour, engine.plan(), engine.name, known)
        if self._opened.captures_itself:
            self._no_capture = "the engine records its own"
        try:
            self._stream = self._cuda.stream()
            for tensor in (*self._record.inputs, *self._record.outputs):
                self._buffers[tensor.name] = self._bind(tensor)
            self._run_once({t.name: np.zeros((1, *t.shape[1:]), _DTYPES[t.dtype]) for t in self._record.inputs})
        except DmdkitError:
            self._close()
            raise

    def _bind(self, tensor: TensorRecord) -> _Buffer:
        assert self._opened is not None
        if tensor.dtype not in _DTYPES:
            known = " or ".join(_DTYPES)
            raise EngineError(f"{self.name}: {tensor.name} is {tensor.dtype}, expected {known}; build the engine again")
        shape = (self._record.batch[2], *tensor.shape[1:])
        host, array = self._cuda.pinned(shape, _DTYPES[tensor.dtype], mapped=self._mapped)
        device = 0
        try:
            device = self._cuda.device_address(host) if self._mapped else self._cuda.allocate(array.nbytes)
            if not self._opened.context.set_tensor_address(tensor.name, device):
                raise EngineError(f"{self.name}: the engine has no tensor {tensor.name!r}; build it again")
        except DmdkitError:
            if device and not self._mapped:
                self._cuda.free(device)
            self._cuda.free_pinned(host)
            raise
        return _Buffer(tensor.name, host, array, device)

    @property
    def backend(self) -> str:
        """What runs the graph, with its version."""
        how = "CUDA graph" if self._graph is not None else "plain" + (f": {self._no_capture}" if self._no_capture else "")
        return f"{self._record.flavour} {self._record.version} ({how})"

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs, in the graph's order."""
        any_length = self._record.lengths is not None
        shapes = {tensor.name: (-1, -1) if any_length else tuple(tensor.shape) for tensor in self._record.inputs}
        return tuple(TensorSpec(tensor.name, shapes[tensor.name], _DTYPES[tensor.dtype]) for tensor in self._record.inputs)

    @property
    def outputs(self) -> Sequence[str]:
        """The names of the outputs, in the graph's order."""
        return tuple(tensor.name for tensor in self._record.outputs)

    def inspect(self) -> str:
        """The engine inspector's JSON."""
        assert self._opened is not None
        return inspect_engine(self._record.flavour, self._opened)

    def _enqueue(self) -> None:
        assert self._opened is not None
        for tensor in self._record.inputs if not self._mapped else ():
            buffer = self._buffers[tensor.name]
            self._cuda.to_device(buffer.device, buffer.host, buffer.view(self._shape).nbytes, self._stream)
        if not self._opened.context.execute_async_v3(int(self._stream)):
            raise EngineError(f"{self.name}: the engine refused to run {self._in_words()}")
        for tensor in self._record.outputs if not self._mapped else ():
            buffer = self._buffers[tensor.name]
            self._cuda.to_host(buffer.host, buffer.device, buffer.view(self._shape).nbytes, self._stream)

    def _capture(self) -> None:
        try:
            self._cuda.begin_capture(self._stream)
            self._enqueue()
            self._graph = self._cuda.end_capture(self._stream)
        except EngineError as cause:
            self._cuda.abandon_capture(self._stream)
            self._no_capture = f"no CUDA graph, {cause}"
            _LOG.warning("%s: running without a CUDA graph: %s", self.name, cause)

    def _in_words(self) -> str:
        tokens = f" of {self._shape[1]} tokens" if len(self._shape) > 1 else ""
        return f"a batch of {self._shape[0]}{tokens}"

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        assert self._opened is not None
        if shape == self._shape:
            return
        if self._graph is not None:
            self._cuda.destroy_graph(self._graph)
            self._graph = None
        self._shape, self._warm = shape, False
        for tensor in self._record.inputs:
            if not self._opened.context.set_input_shape(tensor.name, (*shape, *tensor.shape[len(shape) :])):
                refused, self._shape = self._in_words(), (0,)
                raise EngineError(f"{self.name}: the engine refuses {refused}")

    def _run_once(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        first = next(iter(feed.values()))
        self._set_shape(first.shape[:2] if self._record.lengths is not None else first.shape[:1])
        for name, array in feed.items():
            np.copyto(self._buffers[name].view(self._shape), array)
        if self._graph is None and self._warm and self._no_capture is None:
            self._capture()
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
        self._cuda.synchronize(self._stream)
        self._warm = True
        return {tensor.name: self._buffers[tensor.name].view(self._shape).copy() for tensor in self._record.outputs}

    def _infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        start = time.perf_counter()
        wanted = {spec.name: feed[spec.name] for spec in self.inputs}
        with self._lock:
            if self._closed:
                raise EngineError(f"{self.name} is closed")
            found = infer_batched(self._run_once, wanted, self._record.batch[2])
            self.last_latency_ms = (time.perf_counter() - start) * 1e3
        return found

    def _close(self) -> None:
        with self._lock:
            if self._graph is not None:
                self._cuda.destroy_graph(self._graph)
                self._graph = None
            self._keep_kernels()
            self._opened = None  # context and engine go before the memory they were given
            for buffer in self._buffers.values():
                if not self._mapped:
                    self._cuda.free(buffer.device)
                self._cuda.free_pinned(buffer.host)
            self._buffers = {}
            if self._stream is not None:
                self._cuda.destroy_stream(self._stream)
                self._stream = None

    def _keep_kernels(self) -> None:
        blob = self._opened.compiled_kernels() if self._opened is not None and self._kernels is not None else None
        if blob is None or self._kernels is None:
            return
        try:
            write_bytes(self._kernels, blob, EngineError)
        except EngineError as cause:
            _LOG.warning("%s: compiled kernels are not kept: %s", self.name, cause)
