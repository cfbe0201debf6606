"""Backends behind one runner contract; each is imported only when a graph is opened with it."""

from dmdkit.runtime.backends.base import Runner, TensorSpec
from dmdkit.runtime.backends.registry import BACKENDS, BackendName, backend_version, installed_backends, proof_name

__all__ = ["BACKENDS", "BackendName", "Runner", "TensorSpec", "backend_version", "installed_backends", "proof_name"]
