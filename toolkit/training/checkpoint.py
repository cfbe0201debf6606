"""The resumable state of a training, whole or absent on disk at any moment."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from dmdkit.errors import RunError
from dmdkit.files import atomic_path

__all__ = ["TrainingState", "keep_previous", "load_latest", "load_state", "model_bytes", "save_state"]

FORMAT = 1


@dataclass
class TrainingState:
    """Everything an epoch boundary needs to go on as if nothing had happened.

    Randomness is not in here: every epoch seeds its generators from (seed, epoch).

    Attributes:
        config: The recipe it was trained with, as plain values; None in a checkpoint of an earlier version.
    """

    next_epoch: int = 0
    best_epoch: int = -1
    best_loss: float = float("inf")
    stopped_early: bool = False
    history: list[dict[str, float | int | None]] = field(default_factory=list)
    model: dict[str, Tensor] = field(default_factory=dict)
    best_model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    average: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] | None = None


def save_state(state: TrainingState, path: Path) -> None:
    """Writes the state atomically.

    Raises:
        RunError: It cannot be written; what was there before is still there.
    """
    with atomic_path(path, RunError) as temporary:
        try:
            torch.save({"format": FORMAT, **{item.name: getattr(state, item.name) for item in fields(state)}}, temporary)
        except RuntimeError as cause:  # what torch makes of a full disk
            raise OSError(errno.ENOSPC, "not all of it could be written, the disk may be full") from cause


def keep_previous(path: Path, previous: Path) -> None:
    """Lets ``previous`` be what the checkpoint ``path`` is now; without links or room for a copy, there is none."""
    if not path.is_file():
        return
    with suppress(OSError):
        previous.unlink(missing_ok=True)
        try:
            os.link(path, previous)
        except OSError:
            shutil.copyfile(path, previous)


def load_latest(path: Path, previous: Path) -> TrainingState:
    """Reads the state ``path`` or, where that is damaged, the one before it.

    Raises:
        RunError: Neither can be read.
    """
    try:
        return load_state(path)
    except RunError:
        with suppress(RunError):
            return load_state(previous)
        raise


def model_bytes(state: dict[str, Tensor]) -> bytes:
    """Weights as safetensors, the same bytes for the same values (no metadata: its order is not fixed)."""
    return safetensors_bytes({name: value.detach().cpu().contiguous() for name, value in sorted(state.items())})


def load_state(path: Path) -> TrainingState:
    """Reads a state; nothing in the file is executed.

    Raises:
        RunError: Missing, damaged, or of another format.
    """
    if not path.is_file():
        raise RunError(f"{path.parent}: nothing to resume: no {path.name}; start it anew with --force")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError("another format")
        return TrainingState(**values)
    except Exception as cause:  # torch raises many kinds here, all of them meaning the file is not what it should be
        raise RunError(f"{path}: damaged or of another dmdkit; start the run anew with --force") from cause
