"""The runner contract that every backend keeps: open, describe inputs, infer, close."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dmdkit.errors import InputError
from dmdkit.records import MODALITIES

__all__ = ["Feed", "Runner", "TensorSpec", "steps_of"]

Array = npt.NDArray[np.float32]
Feed = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output; the batch, the first axis of ``shape``, is -1, as is the length of a text graph that takes any."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "int64"] = "float32"


class Runner(ABC):
    """One opened graph. ``infer`` may be called from several threads at once.

    Args:
        name: The graph's name, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._closed = False

    @property
    @abstractmethod
    def backend(self) -> str:
        """What runs the graph, with its version."""

    @property
    @abstractmethod
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs, in the graph's order."""

    @property
    @abstractmethod
    def outputs(self) -> Sequence[str]:
        """The names of the outputs, in the graph's order."""

    @abstractmethod
    def _infer(self, feed: Feed) -> dict[str, Array]:
        """Runs the graph on checked arrays."""

    def _close(self) -> None:  # noqa: B027 - a backend without resources has nothing to do
        """Releases what the backend holds."""

    def infer(self, feed: Feed) -> dict[str, Array]:
        """Output name -> float32 array, for C-contiguous inputs of the described shapes and types.

        Raises:
            InputError: A wrong name, dtype or shape, or the runner is closed.
        """
        for spec in self.inputs:
            if spec.name == "steps" and "steps" not in feed:
                feed = {**feed, "steps": steps_of(feed)}
            array = feed.get(spec.name)
            if array is None:
                raise InputError(f"{self.name}: input {spec.name!r} is missing; it takes {self.signature}")
            if array.dtype != spec.dtype or not _fits(array.shape, spec.shape):
                raise InputError(
                    f"{self.name}: input {spec.name!r} is {array.dtype} {array.shape}, expected {spec.dtype} {_text(spec)}"
                )
        return self.infer_checked(feed)

    def infer_checked(self, feed: Feed) -> dict[str, Array]:
        """The same for a caller that has made sure of names, dtypes and shapes; anything else is undefined.

        Raises:
            InputError: The runner is closed.
        """
        self.check_open()
        return self._infer(feed)

    def check_open(self) -> None:
        """Raises InputError where the runner is closed."""
        if self._closed:
            raise InputError(f"{self.name} is closed")

    @property
    def signature(self) -> str:
        """The inputs in words."""
        return ", ".join(f"{spec.name} {_text(spec)}" for spec in self.inputs)

    def close(self) -> None:
        """Releases the graph; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and (shape[1:] == wanted[1:] or (wanted[1] < 0 and shape[2:] == wanted[2:]))


def steps_of(features: Feed) -> npt.NDArray[np.int64]:
    """How many steps of each sample are real, int64 (B,): up to the last that holds anything in any modality."""
    filled = np.any([(features[name] != 0).any(axis=2) for name in MODALITIES], axis=0)
    counts = filled.shape[1] - filled[:, ::-1].argmax(axis=1)
    found: npt.NDArray[np.int64] = np.where(filled.any(axis=1), counts, filled.shape[1]).astype(np.int64)
    return found


def _text(spec: TensorSpec) -> str:
    return (
        "("
        + ", ".join(("batch" if axis == 0 else "length") if size < 0 else str(size) for axis, size in enumerate(spec.shape))
        + ")"
    )
