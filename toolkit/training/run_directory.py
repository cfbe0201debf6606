"""How a directory becomes that of a run, and when a run gives way to another.

A run with weights or a checkpoint stays as it is until what replaces it is complete: the new training has its files in
``replacement`` inside the directory, and they take their places once it has finished. Whoever writes holds the lock of
:func:`~dmdkit.files.locked_directory` on the run directory.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from dmdkit.config import RunConfig, flat_settings
from dmdkit.errors import RunError
from dmdkit.files import write_json, write_text
from dmdkit.printable import is_utf8, visible
from dmdkit.training.run import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    FACTS_FILE,
    FOLDS_FILE,
    MODEL_FILE,
    PASSING_FILES,
    RUN_FILES,
    TEXT_DIR,
    RunFacts,
    installed_versions,
    read_config,
    read_facts,
)

__all__ = [
    "WRITING",
    "check_resumable",
    "check_target",
    "remove_leftovers",
    "start_directory",
    "take_over",
    "training_directory",
    "write_beginning",
    "write_config",
]

REPLACEMENT_DIR = "replacement"
"""A training that takes the place of the run around it once it has finished."""

WRITING = "another training is writing there; wait for it, or choose another --out"
"""What a run directory that is locked is refused with."""

_TEXT_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_RECORDED_PACKAGES = ("dmdkit", "torch", "lightning-fabric", "numpy", "safetensors", "transformers", "tokenizers")


def is_leftover(name: str) -> bool:
    """Whether ``name`` is that of a temporary file which a killed training left behind."""
    files = (*RUN_FILES, *PASSING_FILES, *_TEXT_FILES)
    return any(fnmatchcase(name, f".{Path(file).stem}-????????.tmp{Path(file).suffix}") for file in files)


def remove_leftovers(path: Path) -> None:
    """Deletes temporary files which a killed training left in the run directory ``path``."""
    for folder in (path, path / TEXT_DIR):
        for entry in folder.iterdir() if folder.is_dir() else ():
            if is_leftover(entry.name) and entry.is_file():
                entry.unlink(missing_ok=True)


def _foreign(path: Path) -> Iterator[str]:
    """Names of the entries of a run directory that are not a run's."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink() and entry.name == REPLACEMENT_DIR:
            yield from (f"{REPLACEMENT_DIR}/{name}" for name in _foreign(entry))
        elif entry.is_dir() and not entry.is_symlink() and entry.name == TEXT_DIR:
            known = (item.is_file() and (item.name in _TEXT_FILES or is_leftover(item.name)) for item in entry.iterdir())
            yield from () if all(known) else (entry.name,)
        elif entry.is_dir() or not (entry.name in (*RUN_FILES, *PASSING_FILES) or is_leftover(entry.name)):
            yield entry.name


def training_directory(path: Path) -> Path:
    """Where the files of the latest training of the run directory ``path`` are: itself, or ``replacement`` inside."""
    inner = path / REPLACEMENT_DIR
    return inner if (inner / CONFIG_FILE).is_file() else path


def check_resumable(path: Path) -> Path:
    """Checks that there is a training to go on with in the run directory ``path``, and gives the directory of its files.

    Raises:
        RunError: There is none.
    """
    place = training_directory(path)
    if (path / REPLACEMENT_DIR / MODEL_FILE).is_file():  # killed while it took over
        return place
    if not (place / CONFIG_FILE).is_file():
        found = any((place / name).exists() for name in RUN_FILES)
        advice = "start it anew with --force" if found else "start it without --resume"
        raise RunError(f"{path}: nothing to resume: no {CONFIG_FILE}; {advice}")
    if (place / CHECKPOINT_FILE).is_file():
        return place
    advice = "train into another --out, or replace this run with --force"
    if (place / FACTS_FILE).is_file() and read_facts(place).origin == "import":
        raise RunError(f"{path}: nothing to resume: it was imported, not trained; {advice}")
    if (place / MODEL_FILE).is_file():
        raise RunError(f"{path}: nothing to resume: it has weights, but no {CHECKPOINT_FILE} to go on from; {advice}")
    return place


def check_target(path: Path, *, force: bool) -> None:
    """Checks that a new run may be written to ``path``: nothing is there, or with ``force`` nothing but a run.

    Raises:
        RunError: It exists without ``force``, or holds anything that is not a run's.
    """
    if not is_utf8(str(path)):
        raise RunError(f"{visible(str(path))}: expected a path that is UTF-8; choose another --out")
    if path.is_symlink() and not path.exists():
        raise RunError(f"{path} is a broken link; choose another --out")
    if not path.exists():
        return
    if not path.is_dir():
        raise RunError(f"{path} is a file; choose another --out")
    try:
        foreign = list(_foreign(path))
        holds = not {entry.name for entry in path.iterdir()}.isdisjoint((*RUN_FILES, REPLACEMENT_DIR))
    except OSError as cause:
        raise RunError(f"cannot read {path}: {cause.strerror or cause}; choose another --out") from cause
    if foreign:
        shown = ", ".join(sorted(foreign)[:5])
        raise RunError(f"{path} holds what is not a run's ({shown}), so it is left alone; choose another --out")
    if holds and not force:
        resume = ""
        with suppress(RunError):
            check_resumable(path)
            resume = f"continue it with: dmdkit train --resume --out {path}, "
        raise RunError(f"{path} holds a run; choose another --out, {resume}or replace it with --force")


def start_directory(path: Path, config: RunConfig, facts: RunFacts, *, force: bool) -> Path:
    """Writes what is known of a new run before its first epoch, and gives the directory for the rest.

    With ``force``, an existing run stays until :func:`take_over`; only what was trained to replace it before is removed.

    Raises:
        RunError: See :func:`check_target`, or it cannot be written; then nothing is left behind.
    """
    check_target(path, force=force)
    inner = path / REPLACEMENT_DIR
    try:
        if (inner / MODEL_FILE).is_file():  # killed while it took over
            take_over(path)
        _remove_run_files(inner)
        place = inner if any((path / name).exists() for name in (MODEL_FILE, CHECKPOINT_FILE)) else path
        place.mkdir(exist_ok=True)
        restart_directory(place, config, facts)
    except OSError as cause:
        raise RunError(f"cannot write {path}: {cause.strerror or cause}; choose a writable --out") from cause
    return place


def restart_directory(place: Path, config: RunConfig, facts: RunFacts, *, keep: Collection[str] = ()) -> None:
    """Begins anew in ``place``, which holds no weights and no checkpoint; the files named in ``keep`` stay.

    Raises:
        RunError: It cannot be written; then nothing is left there.
    """
    _remove_run_files(place, itself=False, keep=keep)
    try:
        write_beginning(place, config, facts)
    except BaseException:
        _remove_run_files(place, itself=place.name == REPLACEMENT_DIR)
        raise


def take_over(path: Path) -> None:
    """Puts the finished run in ``path / "replacement"`` into the place of the run around it.

    The old weights go first and the new ones come last, so a directory with weights is always one run; after a kill
    half-way, ``--resume`` calls this again.
    """
    inner = path / REPLACEMENT_DIR
    try:
        (path / MODEL_FILE).unlink(missing_ok=True)
        if (inner / CONFIG_FILE).is_file():  # moved after all but the weights
            for name in PASSING_FILES:
                (path / name).unlink(missing_ok=True)
            _take_over_text(path, inner)
        first = (FOLDS_FILE, *(name for name in RUN_FILES if name not in (CONFIG_FILE, MODEL_FILE)))
        for name in (*first, CONFIG_FILE, MODEL_FILE):
            if (inner / name).is_file():
                (inner / name).replace(path / name)
        _remove_run_files(inner)
    except OSError as cause:
        raise RunError(f"cannot write {path}: {cause.strerror or cause}; the finished run is in {inner}") from cause


def _take_over_text(path: Path, inner: Path) -> None:
    if read_config(inner).text_encoder is None:
        _remove_text(path)
        return
    (path / TEXT_DIR).mkdir(exist_ok=True)
    for name in _TEXT_FILES:
        if (inner / TEXT_DIR / name).is_file():
            (inner / TEXT_DIR / name).replace(path / TEXT_DIR / name)


def _remove_text(path: Path) -> None:
    if (path / TEXT_DIR).is_dir():
        for name in _TEXT_FILES:
            (path / TEXT_DIR / name).unlink(missing_ok=True)
        (path / TEXT_DIR).rmdir()


def _remove_run_files(path: Path, *, itself: bool = True, keep: Collection[str] = ()) -> None:
    """Deletes a run's files from ``path`` and, with ``itself``, the directory, where it is there."""
    if not path.is_dir():
        return
    remove_leftovers(path)
    for name in (*RUN_FILES, *PASSING_FILES):
        if name not in keep:
            (path / name).unlink(missing_ok=True)
    _remove_text(path)
    if itself:
        path.rmdir()


def write_beginning(path: Path, config: RunConfig, facts: RunFacts) -> None:
    """Writes what is known of a run before its first epoch."""
    write_config(path, config)
    write_json(path / FACTS_FILE, facts.model_dump(mode="json"), RunError)
    write_environment(path)


def write_config(path: Path, config: RunConfig) -> None:
    """Writes the recipe of the run ``path`` as used."""
    for key, value in flat_settings(config).items():
        if isinstance(value, str) and not is_utf8(value):
            raise RunError(f"{key}: expected a path that is UTF-8, as a run records it, found {visible(value)}; rename it")
    write_text(path / CONFIG_FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), RunError)


def _cpu_name() -> str:
    with suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_environment(path: Path) -> None:
    """Writes ``environment.json``: versions, machine and time, so that a result can be traced."""
    value: dict[str, Any] = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": installed_versions(_RECORDED_PACKAGES),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        value["cpu"] = f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
        value["torch_threads"] = torch.get_num_threads()
        value["cuda_device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    write_json(path / ENVIRONMENT_FILE, value, RunError)
