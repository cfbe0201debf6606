"""Backends behind one runner contract; each is imported only when a graph is opened with it."""

from dmdkit.runtime.backends.base import Runner, TensorSpec

__all__ = ["Runner", "TensorSpec"]
