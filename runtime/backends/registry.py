"""Which backends there are and which are installed, without importing any of them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal, get_args

__all__ = ["BACKENDS", "BackendName", "backend_version", "installed_backends", "proof_name"]

BackendName = Literal["onnxruntime", "openvino", "native"]

BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
"""The first is the one every bundle was recorded with; the others answer to it."""

# The distributions that may bring a backend's package.
_DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}


def _native_version() -> str | None:
    from dmdkit.runtime.backends.native import native_version  # only the standard library and numpy

    return native_version()


def installed_backends() -> list[BackendName]:
    """The backends whose package, or library, is here and usable, in the order of :data:`BACKENDS`."""
    return [name for name in BACKENDS if (_native_version() if name == "native" else find_spec(name)) is not None]


def proof_name(name: BackendName, precision: str) -> str:
    """The name under which a graph's verdict on a backend stands.

    That of the backend, except where native kernels have 7 bits for an activation here: then INT8 is another arithmetic, which
    another machine's verdict says nothing of.
    """
    narrow = name == "native" and precision != "fp32" and "7-bit" in (_native_version() or "")
    return "native-7bit" if narrow else name


def backend_version(name: BackendName) -> str | None:
    """The installed version of a backend; None where it is absent or does not say."""
    if name == "native":
        return _native_version()
    if find_spec(name) is None:
        return None
    for distribution in _DISTRIBUTIONS[name]:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
