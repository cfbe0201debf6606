"""Sentences through a text graph, grouped by length, so that nobody pays for the longest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dmdkit.runtime.backends.base import Runner
from dmdkit.runtime.text.tokenizer import TokenBatch

__all__ = ["LENGTH_GROUP", "encode", "length_groups", "takes_any_length"]

Array = npt.NDArray[np.float32]

LENGTH_GROUP = 8
"""Sentences whose lengths, rounded up to a multiple of this, are equal run together: at most 7 steps of a sentence are padding,
and a batch of sentences of up to 50 tokens is at most 7 runs."""


def takes_any_length(runner: Runner) -> bool:
    """Whether an opened text graph takes sentences of any length up to the longest, not that one alone."""
    return runner.inputs[0].shape[1] < 0


def length_groups(lengths: Sequence[int]) -> list[list[int]]:
    """The places of sentences that run together, groups of short sentences first; one rule for Python and C++.

    Args:
        lengths: Tokens of each sentence, 1 or more.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        groups[-(-length // LENGTH_GROUP)].append(index)
    return [groups[key] for key in sorted(groups)]


def encode(runner: Runner, batch: TokenBatch) -> Array:
    """The features (B, T, D) of tokens laid out to T.

    A graph that takes any length gets each group of sentences at the length of its longest, and what is left of T is zeros,
    which is what such a graph makes of padding.

    Raises:
        InputError: The runner refuses.
    """
    if not takes_any_length(runner):
        return runner.infer(batch.feed())["text"]
    steps = batch.input_ids.shape[1]
    lengths: list[int] = batch.attention_mask.sum(1).tolist()
    result: Array | None = None
    for places in length_groups(lengths):
        first = steps - max(lengths[place] for place in places)
        feed = {name: np.ascontiguousarray(array[places, first:]) for name, array in batch.feed().items()}
        found = runner.infer(feed)["text"]
        if first == 0 and len(places) == len(lengths):
            return found
        if result is None:
            result = np.zeros((len(lengths), steps, found.shape[2]), np.float32)
        result[places, first:] = found
    assert result is not None, "a batch has at least one sentence"
    return result
