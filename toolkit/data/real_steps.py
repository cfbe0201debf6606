"""Real steps first, zeros behind: what a stream sees of a sample, for a model that is trained on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dmdkit.data.dataset import Dataset, Split
from dmdkit.data.padding import PaddingSide
from dmdkit.errors import DataError
from dmdkit.records import PerModality, streams_problem

__all__ = ["real_split", "with_real_steps"]


def with_real_steps(dataset: Dataset, kernels: PerModality) -> Dataset:
    """``dataset`` with each sample's steps in front and their number in ``Split.steps``.

    Steps at either end that are zero in every modality are padding; a silence inside a sample is not.

    Args:
        dataset: Word-aligned features.
        kernels: The model's.

    Raises:
        DataError: Its modalities differ in steps or kernels or are padded on different sides, or a sample is shorter than its
            kernel.
    """
    problem = streams_problem(PerModality(**dataset.lengths), kernels)
    if problem:
        raise DataError(f"{dataset.source}: data.steps=real needs one step of every modality at a time, and {problem}")
    sides = {side for side in dataset.padding_side.values() if side != "none"}
    if len(sides) > 1:
        said = ", ".join(f"{name} {side}" for name, side in dataset.padding_side.items())
        raise DataError(
            f"{dataset.source}: its modalities are padded on different sides ({said}), so their steps do not go together"
        )
    splits = {name: real_split(dataset.source, name, split, kernels.text) for name, split in dataset.splits.items()}
    longest = dataset.lengths["text"]
    short = any(bool((split.steps < longest).any()) for split in splits.values() if split.steps is not None)
    side: PaddingSide = "right" if short else "none"
    return replace(dataset, splits=splits, padding_side=dict.fromkeys(dataset.padding_side, side))


def real_split(source: str, name: str, split: Split, kernel: int) -> Split:
    """``split`` with each sample's steps in front, as :func:`with_real_steps`.

    Args:
        source: The file, for messages.
        name: The split's name, likewise.
        split: Its samples.
        kernel: The model's.

    Raises:
        DataError: A sample is shorter than the kernel.
    """
    count, total, _ = split.text.shape
    filled = np.zeros((count, total), bool)
    for array in split.features().values():
        filled |= (array != 0).any(axis=2)
    first = filled.argmax(axis=1)
    steps = np.where(filled.any(axis=1), total - filled[:, ::-1].argmax(axis=1) - first, 0)
    short = steps < kernel
    if short.any():
        index = int(short.argmax())
        raise DataError(
            f"{source}: {name} sample {split.ids[index]!r} has {steps[index]} steps, fewer than the kernel of {kernel}: "
            f"no step of it has an answer; leave it out, or use kernels of at most {max(int(steps[index]), 1)}"
        )
    places = first[:, None] + np.arange(total)
    behind = np.arange(total) >= steps[:, None]
    rows = np.arange(len(split))[:, None]
    moved = {}
    for modality, array in split.features().items():
        moved[modality] = array[rows, np.minimum(places, total - 1)]
        moved[modality][behind] = 0.0
    return replace(split, **moved, steps=steps.astype(np.int64))
