"""Writes a Dataset as ``.npz`` or ``.safetensors``: the same dataset gives the same bytes, on any day."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dmdkit.data.arrays import METADATA_KEY
from dmdkit.data.dataset import MODALITIES, SPLITS, Dataset
from dmdkit.data.step_labels import without_labels
from dmdkit.errors import DataError
from dmdkit.files import atomic_path

__all__ = ["sha256_as_npz", "write_dataset"]

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_dataset(dataset: Dataset, path: str | Path) -> None:
    """Writes ``dataset`` to ``path``, atomically and reproducibly; an existing file is replaced.

    Lengths are not written: padding is already zero in a Dataset. Nor are notes.

    Args:
        dataset: What to write.
        path: The file; its suffix, ``.npz`` or ``.safetensors``, chooses the format.

    Raises:
        DataError: The suffix is another, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise DataError(f"cannot write {path}: expected a name ending in .npz or .safetensors, found {path.suffix!r}")
    if path.is_dir():
        raise DataError(f"cannot write {path}: it is a directory; name a file in it")
    with atomic_path(path, DataError) as temporary:
        if path.suffix == ".npz":
            with temporary.open("wb") as stream:
                _write_npz(dataset, stream)
        else:
            _write_safetensors(dataset, temporary, path)


def sha256_as_npz(dataset: Dataset) -> str:
    """The SHA-256 that ``write_dataset`` would give the dataset's ``.npz``."""
    buffer = io.BytesIO()
    _write_npz(dataset, buffer)
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def _arrays(dataset: Dataset) -> dict[str, npt.NDArray[Any]]:
    splits = [dataset.splits[name] for name in SPLITS if name in dataset.splits]
    arrays: dict[str, npt.NDArray[Any]] = {
        modality: np.concatenate([split.features()[modality] for split in splits]).astype("<f4", copy=False)
        for modality in MODALITIES
    }
    dtype = "<f4" if dataset.task == "regression" else "<i8"
    arrays["labels"] = np.concatenate([split.labels for split in splits]).astype(dtype)
    if dataset.label_range is not None:
        arrays["label_range"] = np.array(dataset.label_range, dtype="<f8")
    tokens = [split.text_bert for split in splits if split.text_bert is not None]
    if len(tokens) == len(splits) and len({part.shape[2] for part in tokens}) == 1:
        arrays["text_bert"] = np.concatenate(tokens).astype("<i8")
    by_step = [split.step_labels for split in splits]
    if any(found is not None for found in by_step):
        filled = [
            without_labels(split.text.shape[:2], split.labels.dtype) if found is None else found
            for split, found in zip(splits, by_step, strict=True)
        ]
        arrays["step_labels"] = np.concatenate(filled).astype(dtype)
    return arrays


def _names(dataset: Dataset) -> dict[str, list[str]]:
    present = [name for name in SPLITS if name in dataset.splits]
    names = {
        "split": [name for name in present for _ in dataset.splits[name].ids],
        "ids": [text for name in present for text in dataset.splits[name].ids],
    }
    transcripts = [dataset.splits[name].raw_text for name in present]
    if None not in transcripts:
        names["raw_text"] = [text for rows in transcripts for text in rows or ()]
    return names


def _write_npz(dataset: Dataset, stream: IO[bytes]) -> None:
    # Stored, not deflated: zlib's output differs between its versions, and features hardly compress.
    texts = {key: np.array(rows, dtype=np.str_) for key, rows in _names(dataset).items()}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for key, array in (_arrays(dataset) | texts).items():
            member = zipfile.ZipInfo(f"{key}.npy", date_time=_ZIP_EPOCH)
            member.create_system, member.external_attr = 3, 0o644 << 16
            with archive.open(member, "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _write_safetensors(dataset: Dataset, path: Path, name: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # One metadata key only: safetensors keeps metadata in a map without order, so two would come in either order.
    metadata = json.dumps({"format": 1, **_names(dataset)}, separators=(",", ":"))
    try:
        save_file(_arrays(dataset), path, metadata={METADATA_KEY: metadata})
    except SafetensorError as cause:  # where the disk is full, it says so in an error of its own
        raise DataError(f"cannot write {name}: {cause}; choose a writable place with free space") from cause
    path.chmod(0o644)  # safetensors creates its file for the owner only
