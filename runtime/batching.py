"""Samples in batches no larger than a graph takes, and their outputs joined again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["batches", "infer_batched"]

AnyArray = npt.NDArray[Any]
Array = npt.NDArray[np.float32]


def batches(feed: Mapping[str, AnyArray], size: int) -> Iterator[dict[str, AnyArray]]:
    """Consecutive samples of ``feed``, at most ``size`` at a time, C-contiguous.

    Args:
        feed: Input name -> (N, ...), one N for all.
        size: Largest batch.
    """
    for start in range(0, len(next(iter(feed.values()))), size):
        yield {name: np.ascontiguousarray(array[start : start + size]) for name, array in feed.items()}


def infer_batched(
    infer: Callable[[dict[str, AnyArray]], Mapping[str, Array]], feed: Mapping[str, AnyArray], size: int
) -> dict[str, Array]:
    """Output name -> (N, ...) of a graph that is run on at most ``size`` samples at a time.

    Args:
        infer: The graph: a batch of inputs -> its outputs.
        feed: Input name -> (N, ...), N >= 1.
        size: Largest batch.
    """
    parts = [infer(batch) for batch in batches(feed, size)]
    return dict(parts[0]) if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
