"""The same sample in two splits: one rule for reading, calibrating and proving.

Content decides. Names are compared too between files, where a re-extracted feature may differ in its last digits, but only
where they are names: many files number the samples of each split anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dmdkit.data.dataset import Dataset, Split
from dmdkit.data.hashing import sample_hashes
from dmdkit.data.sketches import SketchSpace, sample_sketches
from dmdkit.errors import DataError

__all__ = [
    "content_keys",
    "distinct_samples",
    "ids_are_names",
    "ids_are_row_numbers",
    "refuse_trained_samples",
    "same_samples",
    "stands_in",
]

_PROBES = 64


def content_keys(split: Split) -> list[str]:
    """A key per sample, equal where a model is given the same.

    That is the hash of the features (:func:`sample_hashes`); where the text features are zero, they stand for words that an
    encoder reads, so the transcript or its tokens belong to the content.
    """
    keys = sample_hashes(split)
    if split.tokens is not None:
        return keys
    for index in np.flatnonzero(~split.text.any(axis=(1, 2))):
        if split.raw_text is not None:
            keys[index] += f" {split.raw_text[index]}"
        elif split.text_bert is not None:
            keys[index] += f" {split.text_bert[index].tolist()}"
    return keys


def _probes(split: Split) -> list[bytes]:
    """A few bytes per sample that are equal where the content is, to hash only what may be the same."""
    rows = []
    for name, array in split.features().items():
        if name == "text" and split.tokens is not None:
            continue
        flat = array.reshape(len(split), -1)
        rows.append(np.ascontiguousarray(flat[:, :: max(1, flat.shape[1] // _PROBES)], dtype="<f4"))
    return [b"".join(part[index].tobytes() for part in rows) for index in range(len(split))]


def _candidates(split: Split, probes: Sequence[bytes], others: Collection[bytes]) -> Split:
    return split.take(np.array([index for index, probe in enumerate(probes) if probe in others], np.int64))


def same_samples(first: Split, second: Split) -> list[tuple[str, str]]:
    """Pairs of equal content, as (id in ``first``, id in ``second``), one for each such sample of ``second``, in its order.

    Where several samples of ``first`` are the same, the one with the same id is named.
    """
    probes = _probes(first), _probes(second)
    first, second = _candidates(first, probes[0], set(probes[1])), _candidates(second, probes[1], set(probes[0]))
    known: dict[str, list[str]] = {}
    for key, sample in zip(content_keys(first), first.ids, strict=True):
        known.setdefault(key, []).append(sample)
    pairs = []
    for key, sample in zip(content_keys(second), second.ids, strict=True):
        if key in known:
            pairs.append((sample if sample in known[key] else known[key][0], sample))
    return pairs


def stands_in(split: Split, other: Split, *, by_name: bool) -> npt.NDArray[np.bool_]:
    """Per sample of ``split``, whether it stands in ``other`` too: by content, and by id if ``by_name``."""
    same = {text for _, text in same_samples(other, split)}
    if by_name:
        same.update(other.ids)
    return np.array([text in same for text in split.ids], np.bool_)


def distinct_samples(split: Split, space: SketchSpace | None = None) -> int:
    """How many samples differ in content: copies of one, or all but copies, prove no more than it does.

    Args:
        split: The samples.
        space: How far apart the samples are that trained the model; None: these themselves say it.
    """
    sketches = sample_sketches(split)
    return (space or SketchSpace.of(sketches)).distinct(sketches)


def ids_are_row_numbers(ids: Sequence[str]) -> bool:
    """Whether the ids only count the samples, from 0 or from 1."""
    return any(all(text == str(index) for index, text in enumerate(ids, start)) for start in (0, 1))


def ids_are_names(splits: Mapping[str, Split]) -> bool:
    """Whether an id of one split says anything about another: it names one sample in all of them, and not a row."""
    together = [text for split in splits.values() for text in split.ids]
    return len(set(together)) == len(together) and not any(ids_are_row_numbers(split.ids) for split in splits.values())


def refuse_trained_samples(dataset: Dataset, name: str) -> None:
    """Checks that the samples of a split are not those of the training split under other names.

    Args:
        dataset: The feature file.
        name: The split to judge on; the training split itself is what it is called.

    Raises:
        DataError: Some are, so nothing judged on them would be held-out.
    """
    if name == "train" or name not in dataset.splits or "train" not in dataset.splits:
        return
    same = same_samples(dataset.splits["train"], dataset.splits[name])
    if same:
        raise DataError(
            f"{dataset.source}: {len(same)} of {len(dataset.splits[name])} {name} samples have the same features as training "
            f"samples (such as {same[0][1]!r} and {same[0][0]!r}): a verdict on them is not one on held-out samples; drop them "
            "from one split"
        )
