"""Reads the MMSA feature pickle: a dict of splits, each a dict of arrays and lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from dmdkit.data.dataset import MODALITIES, SPLITS
from dmdkit.data.raw import RawFile, RawSplit, data_error, described
from dmdkit.data.restricted_pickle import load_restricted_pickle

__all__ = ["read_mmsa"]

_LABEL_KEYS = {"regression": "regression_labels", "classification": "classification_labels"}
_LAYOUT = "an MMSA pickle is {'train', 'valid', 'test'} -> {'text', 'audio', 'vision', 'id', 'regression_labels', ...}"


def read_mmsa(
    path: Path,
    source: str,
    sha256: str,
    task: Literal["auto", "regression", "classification"],
    *,
    labels_needed: bool = True,
    for_model: bool = False,
) -> RawFile:
    """The splits of an MMSA pickle, unchecked.

    Args:
        path: The pickle.
        source: Its name in messages.
        sha256: Its content hash.
        task: Which labels to take; "auto" takes ``regression_labels`` where every split has them, else
            ``classification_labels``.
        labels_needed: Whether a split without them is refused.
        for_model: Whether ``task`` is that of a model which the file is for.

    Raises:
        DataError: The pickle is damaged or forbidden, holds no split, or lacks a key.
    """
    content = load_restricted_pickle(path)
    if not isinstance(content, dict):
        raise data_error(source, None, None, "a dict of splits", described(content), _LAYOUT)
    found = {name: content[name] for name in SPLITS if name in content}
    if not found:
        keys = ", ".join(repr(key) for key in list(content)[:8]) or "no key"
        raise data_error(source, None, None, "at least one split of train, valid, test", keys, _LAYOUT)
    for name, split in found.items():
        if not isinstance(split, dict):
            raise data_error(source, name, None, "a dict of arrays", described(split), _LAYOUT)

    labels_key = _labels_key(found, task)
    used = {
        *MODALITIES,
        "id",
        "raw_text",
        "text_bert",
        "step_labels",
        labels_key,
        *(f"{modality}_lengths" for modality in MODALITIES),
    }
    splits = {name: _raw_split(source, name, split, labels_key, labels_needed, for_model) for name, split in found.items()}
    notes = []
    other_splits = sorted(set(content) - set(found))
    if other_splits:
        notes.append(f"top-level keys not used: {', '.join(other_splits[:20])}")
    other_keys = sorted({key for split in found.values() for key in split} - used)
    if other_keys:
        notes.append(f"keys not used: {', '.join(other_keys[:20])}")
    return RawFile(
        source=source,
        sha256=sha256,
        splits=splits,
        labels_key=labels_key,
        ids_key="id",
        labels_are_classes=labels_key == _LABEL_KEYS["classification"],
        labels_needed=labels_needed,
        notes=notes,
    )


def _labels_key(splits: Mapping[str, Mapping[str, object]], task: str) -> str:
    if task in _LABEL_KEYS:
        return _LABEL_KEYS[task]
    for key in _LABEL_KEYS.values():
        if all(key in split for split in splits.values()):
            return key
    return _LABEL_KEYS["regression"]


def _raw_split(
    source: str, name: str, split: Mapping[str, object], labels_key: str, labels_needed: bool, for_model: bool
) -> RawSplit:
    for key in (*MODALITIES, "id", *((labels_key,) if labels_needed else ())):
        if key not in split:
            advice = "add it"
            other = next((k for k in _LABEL_KEYS.values() if k in split), None)
            if key == labels_key and other:
                has, lacks = (next(task for task, name in _LABEL_KEYS.items() if name == k) for k in (other, key))
                advice = f"add it, or train on {other!r}: dmdkit train --task {has}"
                if for_model:
                    advice = f"the labels are of {has}, the model was trained for {lacks}; add it, or name a file of its task"
            keys = ", ".join(repr(k) for k in sorted(split)[:20]) or "no key at all"
            raise data_error(source, name, key, "this key", f"only {keys}", advice)
    return RawSplit(
        ids=split["id"],
        features={modality: split[modality] for modality in MODALITIES},
        labels=split.get(labels_key),
        lengths={modality: split[f"{modality}_lengths"] for modality in MODALITIES if f"{modality}_lengths" in split},
        raw_text=split.get("raw_text"),
        text_bert=split.get("text_bert"),
        step_labels=split.get("step_labels"),
    )
