"""A run directory: what ``dmdkit train`` and ``dmdkit import`` leave behind and ``dmdkit export`` reads.

``config.yaml`` the recipe as used, ``model.safetensors`` the weights (written last, when the run is finished),
``facts.json`` what later stages must know about the training data, ``history.csv``, ``metrics.json``,
``environment.json``, and ``last.ckpt`` to resume from.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmdkit.config import ModelShape, PaddedSteps, RunConfig, TokensFrom, validated
from dmdkit.errors import ConfigError, RunError
from dmdkit.files import sha256_of_file, write_json, write_text

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "TEXT_DIR",
    "InputFacts",
    "Run",
    "RunFacts",
    "TextFacts",
    "check_target",
    "installed_versions",
    "metrics_of",
    "newest_run",
    "read_config",
    "read_facts",
    "sole_writer",
    "start_directory",
]

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"
FACTS_FILE = "facts.json"
METRICS_FILE = "metrics.json"
HISTORY_FILE = "history.csv"
ENVIRONMENT_FILE = "environment.json"
CHECKPOINT_FILE = "last.ckpt"
TEXT_DIR = "text_encoder"
"""The text encoder in Hugging Face layout, where the run has one."""

_TEXT_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_RECORDED_PACKAGES = ("dmdkit", "torch", "lightning-fabric", "numpy", "safetensors", "transformers", "tokenizers")
RUN_FILES = (MODEL_FILE, CONFIG_FILE, FACTS_FILE, METRICS_FILE, HISTORY_FILE, ENVIRONMENT_FILE, CHECKPOINT_FILE)


class InputFacts(BaseModel):
    """What one modality looked like in training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    padding_side: Literal["left", "right", "none"]
    empty_share: float = Field(ge=0, le=1, description="share of training samples whose features are all zero")
    minimum: list[float] = Field(description="per column, over steps that are not padding")
    maximum: list[float] = Field(description="per column, over steps that are not padding")
    trained_absent: bool = Field(description="whether the model saw enough samples without this modality")


class TextFacts(BaseModel):
    """What later stages must know of a run's text encoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(ge=1)
    padded_steps: PaddedSteps
    fine_tuned: bool
    tokens_from: TokensFrom
    source: str = Field(description="name of the directory it came from")


class RunFacts(BaseModel):
    """What later stages must know about a run and its training data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: Literal["train", "import"]
    shape: ModelShape
    task: Literal["regression", "classification"]
    label_range: tuple[float, float] | None
    standardised: bool
    gd_units: bool
    train_samples: int | None = Field(None, description="None for an imported checkpoint, whose data is not known")
    inputs: dict[str, InputFacts] | None = None
    notes: list[str] = Field(default_factory=list)
    text: TextFacts | None = Field(None, description="None: text features come ready-made")


@dataclass(frozen=True)
class Run:
    """An existing, finished run."""

    path: Path
    config: RunConfig
    facts: RunFacts

    @classmethod
    def open(cls, path: Path) -> Run:
        """Reads a finished run.

        Raises:
            RunError: Not a run, unfinished, or damaged.
        """
        if not path.is_dir():
            raise RunError(f"{path}: no such run directory; make one with `dmdkit train` or `dmdkit import`")
        if not (path / CONFIG_FILE).is_file() or not (path / FACTS_FILE).is_file():
            raise RunError(f"{path}: not a run: {CONFIG_FILE} or {FACTS_FILE} is missing")
        if not (path / MODEL_FILE).is_file():
            raise RunError(f"{path}: training did not finish; continue it with: dmdkit train --resume --out {path}")
        return cls(path, read_config(path), read_facts(path))

    @property
    def model_file(self) -> Path:
        """The weights."""
        return self.path / MODEL_FILE

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the weights file."""
        return sha256_of_file(self.model_file)


def read_config(path: Path) -> RunConfig:
    """The recipe a run directory holds."""
    try:
        values = yaml.safe_load((path / CONFIG_FILE).read_text(encoding="utf-8"))
        return validated(RunConfig, values, str(path / CONFIG_FILE))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ConfigError) as cause:
        raise RunError(f"{path / CONFIG_FILE}: damaged: {' '.join(str(cause).split())}") from cause


def read_facts(path: Path) -> RunFacts:
    """The facts a run directory holds."""
    try:
        return RunFacts.model_validate_json((path / FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as cause:
        raise RunError(f"{path / FACTS_FILE}: damaged: {' '.join(str(cause).split()):.300}") from cause


def is_leftover(name: str) -> bool:
    """Whether ``name`` is that of a temporary file which a killed training left behind."""
    files = (*RUN_FILES, *_TEXT_FILES)
    return any(fnmatchcase(name, f".{Path(file).stem}-????????.tmp{Path(file).suffix}") for file in files)


def remove_leftovers(path: Path) -> None:
    """Deletes temporary files which a killed training left in the run directory ``path``."""
    for folder in (path, path / TEXT_DIR):
        for entry in folder.iterdir() if folder.is_dir() else ():
            if is_leftover(entry.name) and entry.is_file():
                entry.unlink(missing_ok=True)


def _is_own(entry: Path) -> bool:
    """Whether an entry of a run directory is the run's: one of its files, what is left of one, or its text encoder."""
    if entry.name == TEXT_DIR and entry.is_dir() and not entry.is_symlink():
        return all(item.is_file() and (item.name in _TEXT_FILES or is_leftover(item.name)) for item in entry.iterdir())
    return not entry.is_dir() and (entry.name in RUN_FILES or is_leftover(entry.name))


def check_target(path: Path, *, force: bool) -> None:
    """Checks that a new run may be written to ``path``: nothing is there, or with ``force`` nothing but a run.

    Raises:
        RunError: It exists without ``force``, or holds anything that is not a run's.
    """
    if path.is_symlink() and not path.exists():
        raise RunError(f"{path} is a broken link; choose another --out")
    if not path.exists():
        return
    if not path.is_dir():
        raise RunError(f"{path} is a file; choose another --out")
    try:
        entries = list(path.iterdir())
        foreign = [entry.name for entry in entries if not _is_own(entry)]
    except OSError as cause:
        raise RunError(f"cannot read {path}: {cause.strerror or cause}; choose another --out") from cause
    if foreign:
        shown = ", ".join(sorted(foreign)[:5])
        raise RunError(f"{path} holds what is not a run's ({shown}), so it is left alone; choose another --out")
    if any(entry.name in RUN_FILES for entry in entries) and not force:
        raise RunError(f"{path} holds a run; choose another --out, continue it with --resume, or replace it with --force")


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keeps a second training out of an existing run directory for as long as this one writes there.

    The lock lies on the directory itself: no file is left, and the system lets go of it however the process ends. Where
    the file system or the platform has no such locks, there is none.

    Raises:
        RunError: Another process holds it.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            raise RunError(f"{path}: another training is writing there; wait for it, or choose another --out") from cause
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def start_directory(path: Path, config: RunConfig, facts: RunFacts, *, force: bool) -> None:
    """Makes ``path`` the directory of a new run and writes what is known before the first epoch.

    An existing run is removed only with ``force``, and only when the directory holds nothing else.

    Raises:
        RunError: See :func:`check_target`, or it cannot be written; then nothing is left behind.
    """
    check_target(path, force=force)
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        _remove_run_files(path)
    except OSError as cause:
        raise RunError(f"cannot write {path}: {cause.strerror or cause}; choose a writable --out") from cause
    try:
        write_beginning(path, config, facts)
    except BaseException:
        _remove_run_files(path)
        if is_new:
            path.rmdir()
        raise


def _remove_run_files(path: Path) -> None:
    for name in RUN_FILES:
        (path / name).unlink(missing_ok=True)
    if (path / TEXT_DIR).is_dir():
        for name in _TEXT_FILES:
            (path / TEXT_DIR / name).unlink(missing_ok=True)
        (path / TEXT_DIR).rmdir()


def write_beginning(path: Path, config: RunConfig, facts: RunFacts) -> None:
    """Writes what is known of a run before its first epoch."""
    write_config(path, config)
    write_json(path / FACTS_FILE, facts.model_dump(mode="json"), RunError)
    write_environment(path)


def write_config(path: Path, config: RunConfig) -> None:
    """Writes the recipe of the run ``path`` as used."""
    write_text(path / CONFIG_FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), RunError)


def installed_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of the installed ones among ``names``."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_environment(path: Path) -> None:
    """Writes ``environment.json``: versions, machine and time, so that a result can be traced."""
    value: dict[str, Any] = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": installed_versions(
            ("dmdkit", "torch", "lightning-fabric", "numpy", "safetensors", "transformers", "tokenizers")
        ),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        value["torch_threads"] = torch.get_num_threads()
        value["cuda_device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    write_json(path / ENVIRONMENT_FILE, value, RunError)


def newest_run(parent: Path) -> Run:
    """The most recently finished run under ``parent``.

    Raises:
        RunError: There is none.
    """
    finished = sorted(
        (entry / MODEL_FILE for entry in parent.glob("*") if (entry / MODEL_FILE).is_file() and (entry / FACTS_FILE).is_file()),
        key=lambda file: file.stat().st_mtime,
    )
    if not finished:
        raise RunError(f"no finished run under {parent}/; name one, or make one with `dmdkit train`")
    return Run.open(finished[-1].parent)


def metrics_of(path: Path) -> dict[str, Any]:
    """``metrics.json`` of a run."""
    try:
        loaded = json.loads((path / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise RunError(f"{path / METRICS_FILE}: cannot be read: {cause}") from cause
    splits = loaded.get("splits") if isinstance(loaded, dict) else None
    if not isinstance(splits, dict) or not all(isinstance(values, dict) for values in splits.values()):
        raise RunError(f"{path / METRICS_FILE}: damaged: expected metrics by split; measure the run with `dmdkit evaluate`")
    assert isinstance(loaded, dict)
    return loaded
