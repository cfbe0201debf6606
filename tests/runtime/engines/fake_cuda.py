"""A stand-in for cuda-python and an engine: real memory, real arithmetic by ONNX Runtime, CUDA's rules about capture."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np

from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.record import EngineRecord
from dmdkit.runtime.engines.tensorrt_api import OpenEngine


class Status(IntEnum):
    cudaSuccess = 0  # noqa: N815 - CUDA's own names
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorStreamCaptureUnsupported = 900  # noqa: N815


class FakeCudaRuntime:
    """The functions of ``cuda.bindings.runtime`` that the backend calls."""

    class cudaMemcpyKind(IntEnum):  # noqa: N801
        cudaMemcpyHostToDevice = 1  # noqa: N815
        cudaMemcpyDeviceToHost = 2  # noqa: N815

    class cudaStreamCaptureMode(IntEnum):  # noqa: N801
        cudaStreamCaptureModeThreadLocal = 1  # noqa: N815

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.calls: list[str] = []
        self.capture_fails = False
        self.allocations_left = 1 << 30
        self.live_graphs = self.live_streams = 0

    def submit(self, work: Callable[[], None]) -> None:
        if self.recording is not None:
            self.recording.append(work)
        else:
            work()

    def _new(self, size: int) -> tuple[Status, int]:
        self.allocations_left -= 1
        if self.allocations_left < 0:
            return Status.cudaErrorMemoryAllocation, 0
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return Status.cudaSuccess, ctypes.addressof(buffer)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Status, int]:  # noqa: N802
        return self._new(size)

    def cudaMalloc(self, size: int) -> tuple[Status, int]:  # noqa: N802
        self.calls.append("malloc")
        return self._new(size)

    def cudaHostGetDevicePointer(self, host: int, flags: int) -> tuple[Status, int]:  # noqa: N802
        return Status.cudaSuccess, host

    def _free(self, address: int) -> tuple[Status]:
        del self.memory[address]
        return (Status.cudaSuccess,)

    cudaFree = cudaFreeHost = _free  # noqa: N815

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Status, int]:  # noqa: N802
        self.live_streams += 1
        return Status.cudaSuccess, 77

    def cudaStreamDestroy(self, stream: int) -> tuple[Status]:  # noqa: N802
        self.live_streams -= 1
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Status]:  # noqa: N802
        assert self.recording is None, "synchronising a stream that is captured is an error"
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[Status]:  # noqa: N802
        self.calls.append("copy")
        self.submit(lambda: ctypes.memmove(target, source, size) and None)
        return (Status.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Status]:  # noqa: N802
        self.recording = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Status, Any]:  # noqa: N802
        recorded, self.recording = self.recording, None
        if self.capture_fails:
            return Status.cudaErrorStreamCaptureUnsupported, None
        return Status.cudaSuccess, recorded

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Status, Any]:  # noqa: N802
        self.live_graphs += 1
        return Status.cudaSuccess, list(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Status]:  # noqa: N802
        return (Status.cudaSuccess,)

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Status]:  # noqa: N802
        self.live_graphs -= 1
        return (Status.cudaSuccess,)

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[Status]:  # noqa: N802
        self.calls.append("launch")
        for work in graph:
            work()
        return (Status.cudaSuccess,)

    def cudaGetLastError(self) -> tuple[Status]:  # noqa: N802
        return (Status.cudaSuccess,)


class FakeContext:
    """Reads and writes the addresses it was given, as an engine does."""

    def __init__(self, bundle: Bundle, record: EngineRecord, cuda: FakeCudaRuntime, offset: float) -> None:
        graph = bundle.graph(record.graph)
        self.session = OnnxRuntimeRunner(record.graph, bundle.read(graph.file), graph.session_options)
        self.record, self.cuda, self.offset = record, cuda, offset
        self.address: dict[str, int] = {}
        self.shape: dict[str, tuple[int, ...]] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        known = {tensor.name for tensor in (*self.record.inputs, *self.record.outputs)}
        assert name not in self.address, "addresses are bound once"
        self.address[name] = address
        return name in known

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape[name] = shape
        lengths = self.record.lengths
        return shape[0] <= self.record.batch[2] and (lengths is None or lengths[0] <= shape[1] <= lengths[2])

    def _view(self, name: str, shape: tuple[int, ...]) -> Any:
        count = int(np.prod(shape))
        kinds = {tensor.name: tensor.dtype for tensor in (*self.record.inputs, *self.record.outputs)}
        kind: Any = ctypes.c_int64 if kinds[name] == "INT64" else ctypes.c_float
        return np.ctypeslib.as_array((kind * count).from_address(self.address[name])).reshape(shape)

    def execute_async_v3(self, stream: int) -> bool:
        self.cuda.submit(self._run)
        return True

    def _run(self) -> None:
        feed = {tensor.name: self._view(tensor.name, self.shape[tensor.name]).copy() for tensor in self.record.inputs}
        found = self.session.infer(feed)
        for tensor in self.record.outputs:
            self._view(tensor.name, found[tensor.name].shape)[:] = found[tensor.name] + self.offset


class FakeInspector:
    def __init__(self, text: str) -> None:
        self.text = text

    def get_engine_information(self, form: object) -> str:
        return self.text


class FakeEngine:
    def __init__(self, text: str) -> None:
        self.text = text

    def create_engine_inspector(self) -> FakeInspector:
        return FakeInspector(self.text)


def fake_open(bundle: Bundle, record: EngineRecord, cuda: FakeCudaRuntime, inspector: str, offset: float = 0.0) -> OpenEngine:
    return OpenEngine(FakeEngine(inspector), FakeContext(bundle, record, cuda, offset), False, None, ())
