"""The NVIDIA GPU of this machine, asked of its driver directly, so that nothing need be installed to get an answer."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from dmdkit.errors import EngineError

__all__ = ["Gpu", "NoGpuError", "find_gpu"]

_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18  # CUdevice_attribute: compute capability, and memory shared with the CPU


class NoGpuError(EngineError):
    """There is no NVIDIA driver or GPU here; the text says which."""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: Product name as the driver reports it.
        capability: Compute capability, "8.7".
        driver: CUDA version of the driver, "13.0".
        integrated: Whether it shares memory with the CPU.
    """

    name: str
    capability: str
    driver: str
    integrated: bool


def find_gpu() -> Gpu:
    """The first GPU.

    Raises:
        NoGpuError: With the reason.
    """
    try:
        cuda = ctypes.CDLL(_LIBRARY)
    except OSError as cause:
        raise NoGpuError(f"no NVIDIA driver: {_LIBRARY} cannot be loaded") from cause
    status = cuda.cuInit(0)
    if status != 0:
        raise NoGpuError(f"no NVIDIA driver: cuInit returned error {status}")
    number, device = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(number)) != 0 or number.value == 0:
        raise NoGpuError("no NVIDIA GPU: the driver lists none")
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDriverGetVersion(ctypes.byref(number))
    driver = number.value

    def attribute(which: int) -> int:
        cuda.cuDeviceGetAttribute(ctypes.byref(number), which, device)
        return number.value

    return Gpu(
        name.value.decode("utf-8", "replace"),
        f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
        f"{driver // 1000}.{driver % 1000 // 10}",
        bool(attribute(_INTEGRATED)),
    )
