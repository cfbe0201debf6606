"""Turns what a reader found into a Dataset, or says in one sentence what is wrong with it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from dmdkit.data.dataset import MODALITIES, Dataset, FloatArray, Split
from dmdkit.data.labels import checked_labels
from dmdkit.data.overlap import same_samples
from dmdkit.data.padding import apply_lengths, padding_side_of
from dmdkit.data.raw import RawFile, RawSplit, array_from, data_error, described, rows_of, shortened
from dmdkit.data.step_labels import checked_step_labels
from dmdkit.data.transcripts import checked_raw_text, checked_text_bert
from dmdkit.data.values import NanPolicy, apply_nan_policy
from dmdkit.printable import is_utf8

__all__ = ["dataset_from_raw"]

_MAX_ID_CHARACTERS = 512


def dataset_from_raw(raw: RawFile, *, task: str, label_range: tuple[float, float] | None, nan_policy: NanPolicy) -> Dataset:
    """The checked Dataset of a raw file.

    Args:
        raw: What the reader found.
        task: "auto", "regression" or "classification".
        label_range: The range of a regression task when the caller knows it.
        nan_policy: What to do with NaN and infinities in features.

    Raises:
        DataError: Anything breaks the schema; the message names split, key, what was expected and what was found.
    """
    notes = list(raw.notes)
    ids = {name: _checked_ids(raw, name, split) for name, split in raw.splits.items()}
    features = {
        name: {modality: _checked_features(raw, name, modality, split, len(ids[name]), notes) for modality in MODALITIES}
        for name, split in raw.splits.items()
    }
    _check_widths_agree(raw, features)
    sides = {}
    for modality in MODALITIES:
        arrays = {name: features[name][modality] for name in features}
        lengths = {name: split.lengths[modality] for name, split in raw.splits.items() if modality in split.lengths}
        sides[modality] = apply_lengths(raw.source, modality, arrays, lengths, notes)
    apply_nan_policy(raw.source, features, ids, nan_policy, notes)
    for modality, side in sides.items():
        if side is None:
            sides[modality] = padding_side_of([features[name][modality] for name in features])

    labels = checked_labels(raw, ids, task=task, label_range=label_range, notes=notes)
    splits = {
        name: Split(
            ids=ids[name],
            text=features[name]["text"],
            audio=features[name]["audio"],
            vision=features[name]["vision"],
            labels=labels.by_split[name],
            raw_text=checked_raw_text(split.raw_text, len(ids[name]), name, notes),
            text_bert=checked_text_bert(split.text_bert, len(ids[name]), name, notes),
            step_labels=checked_step_labels(
                raw, name, ids[name], features[name], labels, declared=(label_range or raw.label_range) is not None, notes=notes
            ),
        )
        for name, split in raw.splits.items()
    }
    _check_overlap(raw, splits, notes)
    if "train" not in splits:
        notes.append("no train split: a model can be measured with the file, but neither trained nor calibrated")
    return Dataset(
        source=raw.source,
        sha256=raw.sha256,
        task=labels.task,
        label_range=labels.label_range,
        num_classes=labels.num_classes,
        padding_side={modality: side or "none" for modality, side in sides.items()},
        splits=splits,
        notes=tuple(notes),
    )


def _checked_ids(raw: RawFile, name: str, split: RawSplit) -> tuple[str, ...]:
    key = raw.ids_key
    rows = rows_of(split.ids)
    if not isinstance(rows, list):
        raise data_error(raw.source, name, key, "a list of sample names", described(split.ids), "save one per sample")
    ids = []
    for index, row in enumerate(rows):
        text = row.decode("utf-8", "backslashreplace") if isinstance(row, bytes) else row
        text = str(text) if isinstance(text, (int, str)) else ""
        if not 0 < len(text) <= _MAX_ID_CHARACTERS:
            found = f"{shortened(row)} at index {index}"
            raise data_error(raw.source, name, key, "a text of 1 to 512 characters", found, "name every sample")
        if not is_utf8(text):  # in no CSV, report or bundle could it be written, nor be read back in C++
            found = f"{shortened(text)} at index {index}"
            raise data_error(raw.source, name, key, "sample names that are UTF-8", found, "rename the sample")
        ids.append(text)
    if not ids:
        raise data_error(raw.source, name, key, "at least one sample", "none", "leave the empty split out of the file")
    duplicate = _first_duplicate(ids)
    if duplicate is not None:
        first, second = [index for index, text in enumerate(ids) if text == duplicate][:2]
        found = f"{shortened(duplicate)} at indices {first} and {second}"
        raise data_error(raw.source, name, key, "a name for each sample of its own", found, "rename or drop one of them")
    return tuple(ids)


def _first_duplicate(ids: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for text in ids:
        if text in seen:
            return text
        seen.add(text)
    return None


def _checked_features(raw: RawFile, name: str, modality: str, split: RawSplit, count: int, notes: list[str]) -> FloatArray:
    """A writable float32 (N, T, D) copy."""
    array = array_from(raw.source, name, modality, split.features[modality])
    expected = f"float32 ({count}, T, D) with T and D at least 1"
    if array.dtype.kind == "b":
        raise data_error(raw.source, name, modality, expected, described(array), "save the features as float32")
    if array.ndim != 3:
        advice = "pooled features are one step: reshape (N, D) to (N, 1, D)" if array.ndim == 2 else "reshape it"
        raise data_error(raw.source, name, modality, expected, described(array), advice)
    if array.shape[0] != count:
        advice = f"every key needs one row for each of the {count} entries of {raw.ids_key!r}"
        raise data_error(raw.source, name, modality, expected, described(array), advice)
    if 0 in array.shape:
        raise data_error(raw.source, name, modality, expected, described(array), "an absent modality is one zero step")
    with np.errstate(over="ignore", invalid="ignore"):
        features: FloatArray = np.array(array, dtype=np.float32, order="C", copy=True)
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        overflowed = int(np.count_nonzero(np.isinf(features))) - int(np.count_nonzero(np.isinf(array)))
        if overflowed:
            notes.append(f"{name} {modality}: {overflowed} values of {array.dtype} overflow float32 and became infinite")
    return features


def _check_widths_agree(raw: RawFile, features: dict[str, dict[str, FloatArray]]) -> None:
    reference, *others = features
    for modality in MODALITIES:
        _, steps, width = features[reference][modality].shape
        for name in others:
            found = features[name][modality].shape
            if found[1:] != (steps, width):
                expected = f"(N, {steps}, {width}) as in split {reference!r}"
                advice = "use one extractor for all splits and pad them to one length"
                raise data_error(raw.source, name, modality, expected, f"{found}", advice)


def _check_overlap(raw: RawFile, splits: dict[str, Split], notes: list[str]) -> None:
    """The same sample under one name in two splits is an error; under two names, or a name of two samples, is worth saying."""
    for first, second in itertools.combinations(splits, 2):
        pairs = same_samples(splits[first], splits[second])
        same = [text for text, other in pairs if text == other]
        if same:
            found = f"{len(same)} in both {first!r} and {second!r}, such as {shortened(same[0])}"
            advice = "drop them from one split, or scores on it mean nothing"
            raise data_error(raw.source, None, raw.ids_key, "every sample in one split only", found, advice)
        if pairs:
            notes.append(
                f"{len(pairs)} of {len(splits[second])} {second} samples have the same features as {first} samples under other "
                f"names, such as {shortened(pairs[0][1])} and {shortened(pairs[0][0])}: drop them from one split, or scores on "
                "it mean nothing"
            )
        shared = sorted(set(splits[first].ids) & set(splits[second].ids))
        if shared:
            notes.append(f"{len(shared)} ids are in both {first} and {second} with different features, such as {shared[0]!r}")
