"""The few CUDA calls the engine backend makes, over cuda-python: pinned memory, a stream, copies, graph capture."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from dmdkit.errors import EngineError, MissingDependencyError

__all__ = ["Cuda", "load_cuda"]

_MAPPED, _NON_BLOCKING, _THREAD_LOCAL = 2, 1, 1  # cudaHostAllocMapped, cudaStreamNonBlocking, capture mode ThreadLocal


def load_cuda() -> Cuda:
    """CUDA calls, through cuda-python.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime  # cuda-python before 12.6
        except ImportError as cause:
            raise MissingDependencyError("cuda", "tensorrt", "running engines") from cause
    return Cuda(runtime)


class Cuda:
    """Checked calls; every one raises with its own name and CUDA's words.

    Args:
        runtime: ``cuda.bindings.runtime``, or a stand-in with its functions.
    """

    def __init__(self, runtime: Any) -> None:
        self._rt = runtime

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._rt, name)(*arguments)
        if int(status) != 0:
            raise EngineError(f"{name} failed: CUDA error {int(status)} ({getattr(status, 'name', status)})")
        return values[0] if len(values) == 1 else None

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, mapped: bool) -> tuple[int, npt.NDArray[Any]]:
        """Page-locked host memory as an address and an array of ``shape`` and ``dtype``."""
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call("cudaHostAlloc", size_bytes, _MAPPED if mapped else 0))
        memory = (ctypes.c_uint8 * size_bytes).from_address(address)
        return address, np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def free_pinned(self, address: int) -> None:
        """Gives page-locked memory back."""
        self._call("cudaFreeHost", address)

    def device_address(self, host: int) -> int:
        """Where the GPU sees mapped host memory."""
        return int(self._call("cudaHostGetDevicePointer", host, 0))

    def allocate(self, size_bytes: int) -> int:
        """Device memory."""
        return int(self._call("cudaMalloc", size_bytes))

    def free(self, address: int) -> None:
        """Gives device memory back."""
        self._call("cudaFree", address)

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self._call("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def destroy_stream(self, stream: Any) -> None:
        """Gives a stream back."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: Any) -> None:
        """Waits for everything on the stream."""
        self._call("cudaStreamSynchronize", stream)

    def to_device(self, target: int, source: int, size_bytes: int, stream: Any) -> None:
        """Copies host to device on the stream."""
        self._call("cudaMemcpyAsync", target, source, size_bytes, self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def to_host(self, target: int, source: int, size_bytes: int, stream: Any) -> None:
        """Copies device to host on the stream."""
        self._call("cudaMemcpyAsync", target, source, size_bytes, self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def begin_capture(self, stream: Any) -> None:
        """Records what follows on the stream instead of doing it."""
        self._call("cudaStreamBeginCapture", stream, self._rt.cudaStreamCaptureMode(_THREAD_LOCAL))

    def end_capture(self, stream: Any) -> Any:
        """What was recorded, ready to launch."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def abandon_capture(self, stream: Any) -> None:
        """Ends a capture that failed, whatever its state, and clears the error it left."""
        status, *values = self._rt.cudaStreamEndCapture(stream)
        if int(status) == 0 and values and values[0]:
            self._rt.cudaGraphDestroy(values[0])
        self._rt.cudaGetLastError()

    def launch(self, graph: Any, stream: Any) -> None:
        """Launches a recorded graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Gives a recorded graph back."""
        self._call("cudaGraphExecDestroy", graph)
