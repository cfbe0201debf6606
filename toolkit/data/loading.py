"""Opens a feature file of any accepted format."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal, get_args

from dmdkit.data.arrays import read_npz, read_safetensors
from dmdkit.data.checks import dataset_from_raw
from dmdkit.data.dataset import Dataset, Task
from dmdkit.data.labels import refuse_other_task
from dmdkit.data.mmsa import read_mmsa
from dmdkit.data.values import NanPolicy
from dmdkit.errors import DataError
from dmdkit.files import sha256_of_file
from dmdkit.printable import is_utf8, visible

__all__ = ["FileFormat", "TaskChoice", "format_of", "load_dataset"]

TaskChoice = Literal["auto", "regression", "classification"]
FileFormat = Literal["pickle", "npz", "safetensors"]

_ACCEPTED = "an MMSA pickle, an .npz or a .safetensors"


def load_dataset(
    path: str | Path,
    *,
    task: TaskChoice = "auto",
    label_range: tuple[float, float] | None = None,
    nan_policy: NanPolicy = "refuse",
    labels_needed: bool = True,
    model_task: Task | None = None,
) -> Dataset:
    """The checked content of a feature file.

    Example:
        >>> dataset = load_dataset("mosi.pkl", nan_policy="zero")  # doctest: +SKIP

    Args:
        path: An MMSA pickle, an ``.npz`` or a ``.safetensors``; the content decides, not the suffix.
        task: What the labels are; "auto" goes by the file (docs/data.md).
        label_range: (low, high) of a regression task; else the file's own, else inferred from the training labels.
        nan_policy: "refuse" NaN and infinities in features, replace them by "zero", or "keep" them, to be counted only.
        labels_needed: Whether every sample must have a label. Else a sample without one, and every sample of a file without
            the key, has NaN (regression) or -1 (classes) as its label.
        model_task: Task of the model the file is for, instead of ``task``: of labels of both kinds its own are taken, and a
            file that only has labels of the other kind is refused.

    Raises:
        DataError: The file is missing, damaged, forbidden, does not follow its schema, or has labels of another task than
            ``model_task``.
    """
    for value, choices, name in ((task, TaskChoice, "task"), (nan_policy, NanPolicy, "nan_policy")):
        if value not in get_args(choices):
            raise DataError(f"{name} must be one of {', '.join(get_args(choices))}, not {value!r}")
    path, source = Path(path), str(path)
    if not is_utf8(source):
        raise DataError(f"{visible(source)}: expected a path that is UTF-8, as runs and bundles record it; rename the file")
    kind = format_of(path)
    try:
        sha256 = sha256_of_file(path)
    except OSError as cause:
        raise DataError(f"cannot read {source}: {cause.strerror or cause}") from cause
    try:
        task = model_task or task
        if kind == "pickle":
            raw = read_mmsa(path, source, sha256, task, labels_needed=labels_needed, for_model=model_task is not None)
        elif kind == "npz":
            raw = read_npz(path, source, sha256, labels_needed=labels_needed)
        else:
            raw = read_safetensors(path, source, sha256, labels_needed=labels_needed)
        if model_task is not None:
            refuse_other_task(raw, model_task)
        return dataset_from_raw(raw, task=task, label_range=label_range, nan_policy=nan_policy)
    except MemoryError as cause:
        raise DataError(f"{source} does not fit in memory; split it, or use a machine with more") from cause


def format_of(path: Path) -> FileFormat:
    """The format of a file by its first bytes.

    Raises:
        DataError: The file cannot be read or is of no accepted format.
    """
    if path.is_dir():
        raise DataError(f"{path} is a directory; name the feature file in it: {_ACCEPTED}")
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():  # reading a pipe waits, and a device never ends
            raise DataError(f"{path} is not a file but a pipe or a device; expected {_ACCEPTED}: save it to a file first")
        with path.open("rb") as stream:
            head = stream.read(16)
            size_bytes = path.stat().st_size
    except FileNotFoundError as cause:
        raise DataError(f"{path} does not exist; expected {_ACCEPTED}, or make one with: dmdkit data sample") from cause
    except OSError as cause:
        raise DataError(f"cannot read {path}: {cause.strerror or cause}") from cause
    if not head:
        raise DataError(f"{path} is empty; expected {_ACCEPTED}; fetch or save it again")
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "npz"
    # A safetensors file begins with its header's length, so its first byte may be any, that of a pickle included.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size_bytes - 8:
        return "safetensors"
    if (head[0] == 0x80 and head[1:2] <= b"\x05") or path.suffix in (".pkl", ".pickle"):
        return "pickle"
    hint = {b"\x93NUM": "a single .npy array", b"\x89HDF": "HDF5", b"\x1f\x8b\x08\x00": "gzip, unpack it first"}.get(head[:4])
    raise DataError(f"{path}: expected {_ACCEPTED}, found {hint or f'a file that begins with {head[:8]!r}'}")
