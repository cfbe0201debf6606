"""Runs commands in this process or in one of their own, and builds feature files that are wrong in one way each."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dmdkit.cli import main
from tests.conftest import ROOT, TINY_SETTINGS

Arrays = dict[str, np.ndarray]
TINY_FLAGS = ["--device", "cpu", *(part for setting in TINY_SETTINGS for part in ("--set", setting))]

COMMANDS = (
    "train",
    "import",
    "evaluate",
    "reproduce",
    "export",
    "check",
    "predict",
    "inspect",
    "report",
    "doctor",
    "demo",
    "bench",
    "targets",
    "add-precision",
    "build",
    "triton",
    "data inspect",
    "data sample",
    "data convert",
)


def in_process(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def python(code: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a Python of its own, from the repository root unless told otherwise."""
    command = [sys.executable, "-c", code, *(str(argument) for argument in arguments)]
    options.setdefault("cwd", ROOT)
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def dmdkit(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own."""
    return python("import sys; from dmdkit.cli import main; sys.exit(main())", *arguments, **options)


class Forbidden:
    """What an attacker would put into a pickle."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


def _with_value(value: float) -> Callable[[Arrays], Arrays]:
    def change(arrays: Arrays) -> Arrays:
        arrays["audio"][3, 4, 1] = value
        return arrays

    return change


def _one_sample(arrays: Arrays) -> Arrays:
    first = {name: int(np.flatnonzero(arrays["split"] == name)[0]) for name in ("train", "valid", "test")}
    return {name: array[list(first.values())] for name, array in arrays.items() if array.ndim}


def _without(key: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: array for name, array in arrays.items() if name != key}


def _changed(**change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: change[name](array) if name in change else array for name, array in arrays.items()}


def _first_label(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda labels: np.concatenate([np.array([value], labels.dtype), labels[1:]])


WRONG_ARRAYS: dict[str, Callable[[Arrays], Arrays]] = {
    "missing key": _without("audio"),
    "unknown key": lambda arrays: {**arrays, "speech": arrays["audio"]},
    "wrong rank": _changed(audio=lambda a: a[:, 0]),
    "fewer rows": _changed(audio=lambda a: a[:-1]),
    "text for numbers": _changed(audio=lambda a: a.astype(str)),
    "lengths beyond the array": lambda arrays: {**arrays, "audio_lengths": np.full(len(arrays["ids"]), 99)},
    "nan": _with_value(np.nan),
    "+inf": _with_value(np.inf),
    "-inf": _with_value(-np.inf),
    "zero samples": lambda arrays: {name: array[:0] for name, array in arrays.items() if array.ndim},
    "label outside the range": _changed(labels=_first_label(3.5)),
    "label nan": _changed(labels=_first_label(np.nan)),
    "duplicate ids": _changed(ids=lambda ids: np.full_like(ids, "same")),
    "ids that are not UTF-8": _changed(ids=lambda ids: np.concatenate([np.array(["a\udcff"], ids.dtype), ids[1:]])),
    "unknown split": _changed(split=lambda split: np.full_like(split, "dev")),
}

WRONG_FOR_A_MODEL: dict[str, Callable[[Arrays], Arrays]] = {
    "wrong width": _changed(audio=lambda a: a[:, :, :-1]),
    "wrong length": _changed(audio=lambda a: a[:, :-1]),
}


def wrong_files(good: Path, folder: Path) -> dict[str, Path]:
    """By what is wrong with it, a file; ``good`` is a valid ``.npz``."""
    files = {"missing file": folder / "absent.npz", "directory": folder / "directory.pkl"}
    files["directory"].mkdir(parents=True)
    contents = {
        "empty file.npz": b"",
        "random bytes.npz": np.random.default_rng(0).bytes(4096),
        "random bytes called pickle.pkl": np.random.default_rng(1).bytes(4096),
        "half a file.npz": good.read_bytes()[: good.stat().st_size // 2],
        "forbidden class.pkl": pickle.dumps({"train": Forbidden()}),
        "ragged.pkl": pickle.dumps(_ragged()),
    }
    for name, content in contents.items():
        path = folder / name.replace(" ", "-")
        path.write_bytes(content)
        files[name.partition(".")[0]] = path
    for name, change in {**WRONG_ARRAYS, **WRONG_FOR_A_MODEL}.items():
        with np.load(good) as archive:
            arrays = {key: archive[key].copy() for key in archive.files}
        path = folder / f"{name.replace(' ', '-').replace('+', 'plus-')}.npz"
        np.savez(path, **change(arrays))
        files[name] = path
    return files


def _ragged() -> dict[str, dict[str, object]]:
    generator = np.random.default_rng(0)
    rows = [generator.normal(size=(steps, 4)) for steps in (6, 5, 6, 6)]
    split = {"text": rows, "audio": rows, "vision": rows, "id": list("abcd"), "regression_labels": np.zeros(4)}
    return dict.fromkeys(("train", "valid", "test"), split)
