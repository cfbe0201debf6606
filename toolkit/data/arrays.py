"""Reads the two flat formats: ``.npz`` and ``.safetensors``, one array per key with a split name per sample."""

from __future__ import annotations

import json
import math
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import safetensors

from dmdkit.data.dataset import MODALITIES, SPLITS
from dmdkit.data.raw import MAX_ARRAY_BYTES, RawFile, RawSplit, array_from, data_error, described, rows_of, shortened
from dmdkit.errors import DataError

__all__ = ["METADATA_KEY", "read_npz", "read_safetensors"]

METADATA_KEY = "dmdkit"
"""The one safetensors metadata key: JSON ``{"format": 1, "ids": [...], "split": [...]}``, one entry per sample; ``raw_text``
may be there too."""

_LENGTHS = tuple(f"{modality}_lengths" for modality in MODALITIES)
_REQUIRED = (*MODALITIES, "labels", "split", "ids")
_OPTIONAL = (*_LENGTHS, "label_range", "raw_text", "text_bert", "step_labels")
_DEFLATE_MAX_RATIO = 1100  # deflate cannot pack tighter than 1032:1
_LAYOUT = f"the keys are {', '.join(_REQUIRED)} and optionally {', '.join(_OPTIONAL)}"
_DAMAGED = "fetch or save it again"


def read_npz(path: Path, source: str, sha256: str, *, labels_needed: bool = True) -> RawFile:
    """The splits of an ``.npz``, unchecked; pickled objects in it are refused.

    With ``labels_needed`` false, a file without labels is read too.

    Raises:
        DataError: The archive is damaged, declares more than it can hold, lacks a key, or names an unknown split.
    """
    values: dict[str, object] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename.removesuffix(".npy") for member in members]
            for key in (*_REQUIRED, *_OPTIONAL):
                if names.count(key) > 1:
                    raise data_error(source, None, key, "one array of this name", f"{names.count(key)}", _DAMAGED)
                if key in names:
                    values[key] = _npz_array(archive, members[names.index(key)], source, key)
    except (DataError, MemoryError):
        raise
    except Exception as cause:  # zipfile, zlib and numpy fail in a dozen ways on damaged input
        reason = " ".join(str(cause).split())[:200]
        raise DataError(f"{source} is not a readable .npz ({type(cause).__name__}: {reason}); {_DAMAGED}") from cause
    return _raw_file(source, sha256, values, sorted(set(names) - set(values)), labels_needed)


def _npz_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: str, key: str) -> npt.NDArray[Any]:
    """One member, after its declared sizes were found to agree with each other and with the archive."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
        raise data_error(source, None, key, "a stored or deflated array", "another compression or encryption", _DAMAGED)
    declared = member.file_size
    if declared > MAX_ARRAY_BYTES or declared > member.compress_size * _DEFLATE_MAX_RATIO + 1024:
        raise data_error(
            source, None, key, "at most 16 GiB that fit their compressed size",
            f"{declared} bytes declared in {member.compress_size} stored", _DAMAGED,
        )  # fmt: skip
    with archive.open(member) as stream:
        shape, is_fortran, dtype = _npy_header(stream)
        found = f"dtype {dtype}, shape {shape}"
        if dtype.hasobject or dtype.kind not in "biufSU":
            raise data_error(source, None, key, "an array of numbers or text", found, "save it without pickled objects")
        size_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size_bytes != declared - stream.tell():
            bytes_found = f"{found} = {size_bytes} bytes with {declared - stream.tell()} bytes of data"
            raise data_error(source, None, key, "a shape that agrees with the data", bytes_found, _DAMAGED)
        data = stream.read()  # reaching the end is what makes zipfile compare the checksum
    if len(data) != size_bytes:
        raise data_error(source, None, key, f"{size_bytes} bytes", f"{len(data)}", _DAMAGED)
    if not size_bytes:
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers written by Python 2 are fine, if slow
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"npy version {version}")


def read_safetensors(path: Path, source: str, sha256: str, *, labels_needed: bool = True) -> RawFile:
    """The splits of a ``.safetensors``, unchecked; ids and split names come from its metadata key ``dmdkit``.

    With ``labels_needed`` false, a file without labels is read too.

    Raises:
        DataError: The file is damaged, its metadata is absent or wrong, or a key is missing.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            keys = set(file.keys())
            wanted = [key for key in (*MODALITIES, "labels", *_OPTIONAL) if key in keys and key != "raw_text"]
            values: dict[str, object] = {key: file.get_tensor(key) for key in wanted}
    except OSError as cause:
        raise DataError(f"cannot read {source}: {cause.strerror or cause}") from cause
    except MemoryError:
        raise
    except Exception as cause:  # the reader raises its own error, and numpy's for dtypes that numpy lacks
        reason = " ".join(str(cause).split())[:200]
        raise DataError(f"{source} is not readable as safetensors ({reason}); {_DAMAGED}") from cause
    values.update(_names_from_metadata(source, metadata.get(METADATA_KEY)))
    return _raw_file(source, sha256, values, sorted(keys - set(wanted)), labels_needed)


def _names_from_metadata(source: str, text: str | None) -> dict[str, object]:
    expected = f'metadata {METADATA_KEY!r} = {{"format": 1, "ids": [...], "split": [...]}} with one text per sample'
    advice = "write the file with dmdkit.data.write_dataset, or see docs/data.md"
    if text is None:
        raise data_error(source, None, None, expected, "none", advice)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise data_error(source, None, None, expected, "no JSON", advice) from cause
    if not isinstance(content, dict) or content.get("format") != 1:
        raise data_error(source, None, None, expected, "another format", advice)
    names: dict[str, object] = {}
    for key in ("ids", "split", *(("raw_text",) if "raw_text" in content else ())):
        entry = content.get(key)
        if not isinstance(entry, list) or not all(isinstance(item, str) for item in entry):
            raise data_error(source, None, key, expected, described(entry), advice)
        names[key] = entry
    return names


def _text_rows(source: str, key: str, value: object) -> list[str]:
    rows = rows_of(value)
    if not isinstance(rows, list):
        raise data_error(source, None, key, "one text per sample", described(value), _LAYOUT)
    try:
        return [row.decode() if isinstance(row, bytes) else str(row) for row in rows]
    except UnicodeDecodeError as cause:
        raise data_error(source, None, key, "UTF-8 text", "other bytes", "save it as text") from cause


def _raw_file(source: str, sha256: str, values: Mapping[str, object], unused: list[str], labels_needed: bool) -> RawFile:
    for key in _REQUIRED:
        if key not in values and (labels_needed or key != "labels"):
            found = ", ".join(repr(name) for name in sorted([*values, *unused])[:20]) or "no key at all"
            raise data_error(source, None, key, "this key", f"only {found}", _LAYOUT)
    split_names = _text_rows(source, "split", values["split"])
    ids = _text_rows(source, "ids", values["ids"])
    keys = (*MODALITIES, "labels", *_LENGTHS, "text_bert", "step_labels")
    arrays = {key: array_from(source, "all", key, values[key]) for key in keys if key in values}
    transcripts = _text_rows(source, "raw_text", values["raw_text"]) if "raw_text" in values else None
    count = len(split_names)
    shapes = {key: array.shape for key, array in arrays.items()} | {"ids": (len(ids),)}
    shapes |= {"raw_text": (len(transcripts),)} if transcripts is not None else {}
    for key, shape in shapes.items():
        if not shape or shape[0] != count:
            expected = f"{count} samples as in 'split'"
            raise data_error(source, None, key, expected, f"shape {shape}", "give every key one row per sample")
    for index, name in enumerate(split_names):
        if name not in SPLITS:
            found = f"{shortened(name)} at sample {index} ({shortened(ids[index])})"
            raise data_error(source, None, "split", "train, valid or test for every sample", found, "rename the split")
    if not count:
        raise data_error(source, None, "split", "at least one sample", "none", "an empty file cannot be used")
    labels = arrays.get("labels")
    notes = [f"keys not used: {', '.join(unused[:20])}"] if unused else []
    return RawFile(
        source=source,
        sha256=sha256,
        splits=_by_split(split_names, ids, arrays, transcripts),
        labels_key="labels",
        ids_key="ids",
        labels_are_classes=None if labels is None or labels.dtype.kind == "f" else True,
        labels_needed=labels_needed,
        label_range=values.get("label_range"),
        notes=notes,
    )


def _by_split(
    split_names: list[str], ids: list[str], arrays: Mapping[str, npt.NDArray[Any]], transcripts: list[str] | None
) -> dict[str, RawSplit]:
    splits = {}
    for name in SPLITS:
        rows = [index for index, split in enumerate(split_names) if split == name]
        if rows:
            splits[name] = RawSplit(
                ids=[ids[row] for row in rows],
                features={modality: arrays[modality][rows] for modality in MODALITIES},
                labels=arrays["labels"][rows] if "labels" in arrays else None,
                lengths={m: arrays[f"{m}_lengths"][rows] for m in MODALITIES if f"{m}_lengths" in arrays},
                raw_text=None if transcripts is None else [transcripts[row] for row in rows],
                text_bert=arrays["text_bert"][rows] if "text_bert" in arrays else None,
                step_labels=arrays["step_labels"][rows] if "step_labels" in arrays else None,
            )
    return splits
