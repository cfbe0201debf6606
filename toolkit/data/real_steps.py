"""Real steps first, zeros behind: what a stream sees of a sample, for a model that is trained on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from dmdkit.data.dataset import Dataset, LabelArray, Split, TokenArray
from dmdkit.data.padding import PaddingSide
from dmdkit.data.step_labels import is_labelled, own_steps, without_labels
from dmdkit.errors import DataError
from dmdkit.records import PerModality, streams_problem

__all__ = ["Beginnings", "beginnings", "prefixes", "real_split", "with_real_steps"]


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
    total = split.text.shape[1]
    first, steps = own_steps(split.features())
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
    labels = split.step_labels
    if labels is not None:
        labels = labels[rows, np.minimum(places, total - 1)]
        labels[behind] = without_labels((), labels.dtype)
    return replace(split, **moved, steps=steps.astype(np.int64), step_labels=labels)


@dataclass(frozen=True)
class Beginnings:
    """The beginnings of samples that have an answer, sample by sample, from the shortest on.

    Attributes:
        rows: int64 (n,), the sample of each.
        steps: int64 (n,), how many of its steps.
        labels: (n,), the label of its last step where the split has one, else the sample's.
        known: Boolean (n,), whether that is its own: of the step, or the split has no labels by step.
    """

    rows: TokenArray
    steps: TokenArray
    labels: LabelArray
    known: npt.NDArray[np.bool_]


def beginnings(split: Split, kernel: int) -> Beginnings:
    """Those of samples with their real steps in front, or, without ``steps``, of full length, for a model's kernel."""
    whole = split.steps if split.steps is not None else np.full(len(split), split.text.shape[1], np.int64)
    rows = np.repeat(np.arange(len(split)), np.maximum(whole - kernel + 1, 0))
    steps = np.concatenate([np.arange(kernel, last + 1) for last in whole]).astype(np.int64)
    labels = split.labels[rows]
    if split.step_labels is None:
        return Beginnings(rows, steps, labels, np.ones(len(rows), bool))
    own = split.step_labels[rows, steps - 1]
    known = is_labelled(own)
    return Beginnings(rows, steps, cast(LabelArray, np.where(known, own, labels)), known)


def prefixes(split: Split, kernel: int, *, labelled: bool = False) -> Split:
    """Each sample once for every beginning of it that has an answer, with its number of steps and its label.

    Args:
        split: Samples with their real steps in front, or, without ``steps``, of full length; a few, because each is repeated.
        kernel: The model's.
        labelled: Whether beginnings without a label of their own are left out, where the split has labels by step.
    """
    found = beginnings(split, kernel)
    chosen = np.flatnonzero(found.known) if labelled else np.arange(len(found.rows))
    many = replace(split.take(found.rows[chosen]), steps=found.steps[chosen], labels=found.labels[chosen])
    return replace(
        many, ids=tuple(f"{name} after {count} steps" for name, count in zip(many.ids, found.steps[chosen], strict=True))
    )
