"""Which backends there are and which are installed, without importing any of them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal, get_args

__all__ = ["BACKENDS", "BackendName", "backend_version", "installed_backends"]

BackendName = Literal["onnxruntime", "openvino"]

BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
"""The first is the one every bundle was recorded with; the others answer to it."""

# The distributions that may bring a backend's package.
_DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}


def installed_backends() -> list[BackendName]:
    """The backends whose package is here, in the order of :data:`BACKENDS`."""
    return [name for name in BACKENDS if find_spec(name) is not None]


def backend_version(name: BackendName) -> str | None:
    """The installed version of a backend; None where it is absent or does not say."""
    if find_spec(name) is None:
        return None
    for distribution in _DISTRIBUTIONS[name]:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
