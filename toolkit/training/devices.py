"""Which device to compute on, and one readable error where it is not there or not large enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from dmdkit.errors import ConfigError, RunError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["checked_device", "fabric_on", "readable_memory_errors"]

_CPU_ALLOCATION_FAILED = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")


def checked_device(name: str) -> torch.device:
    """The device called ``name``: auto (the fastest there is), cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: Not such a name, or no such device here.
    """
    kind, separator, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (separator and (kind != "cuda" or not index.isdecimal())):
        raise ConfigError(f"--device {name!r}: expected auto, cpu, cuda, cuda:N or mps")
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if kind == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    if kind == "cuda" and not has_cuda:
        raise ConfigError(f"--device {name}: PyTorch sees no NVIDIA GPU here; use --device cpu, or see `dmdkit doctor`")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise ConfigError(f"--device {name}: PyTorch sees GPUs 0 to {last} here; name one of them")
    if kind == "mps" and not has_mps:
        raise ConfigError("--device mps: PyTorch sees no Apple GPU here; use --device cpu, or see `dmdkit doctor`")
    return torch.device(name)


def fabric_on(device: str, precision: Literal["32-true", "bf16-mixed"]) -> Fabric:
    """Lightning Fabric on a device, as :func:`checked_device` names them, at a precision.

    Raises:
        ConfigError: There is no such device, or the two do not go together.
    """
    from lightning_fabric import Fabric

    place = checked_device(device)
    try:
        return Fabric(accelerator=place.type, devices=[place.index] if place.index is not None else 1, precision=precision)
    except Exception as cause:  # Fabric raises many kinds, all of them meaning that these two do not go together
        raise ConfigError(f"--device {device} with training.precision={precision}: {cause}") from cause


@contextmanager
def readable_memory_errors(advice: str) -> Iterator[None]:
    """Turns an allocation that failed, on any device, into one line ending in ``advice``.

    Raises:
        RunError: The memory did not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as cause:
        exhausted = isinstance(cause, (MemoryError, torch.OutOfMemoryError))
        if not exhausted and not any(text in str(cause) for text in _CPU_ALLOCATION_FAILED):
            raise
        raise RunError(f"it does not fit into memory; {advice}") from cause
