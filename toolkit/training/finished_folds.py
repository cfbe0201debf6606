"""What a cross-validation has found so far, on disk: after a kill it goes on with the folds that are left."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from dmdkit.config import RunConfig
from dmdkit.data.dataset import Split
from dmdkit.data.hashing import sample_hashes
from dmdkit.errors import RunError
from dmdkit.files import write_bytes
from dmdkit.training.run import FINISHED_FOLDS_FILE

__all__ = ["FinishedFolds"]


def _identity(config: RunConfig, train: Split) -> str:
    """A digest of everything that decides what a fold finds: the recipe, the samples and their labels."""
    recipe = config.model_dump(mode="json")
    recipe["data"].pop("path")  # a file that moved is the same file
    (recipe["text_encoder"] or {}).pop("path", None)
    digest = hashlib.sha256(json.dumps([recipe, sample_hashes(train), list(train.ids)], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(train.labels).tobytes())
    return digest.hexdigest()


class FinishedFolds:
    """The losses and outputs of the folds that are finished, in fold order; what is on disk is of the same recipe and samples.

    Args:
        place: The run directory.
        config: The recipe, with numbers.
        train: All samples that the folds divide.
    """

    def __init__(self, place: Path, config: RunConfig, train: Split) -> None:
        self._file = place / FINISHED_FOLDS_FILE
        self._identity = _identity(config, train)
        self._found: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]] = []
        with suppress(OSError, ValueError, EOFError, KeyError, BadZipFile):  # none yet, or damaged: they train anew
            self._read()

    def _read(self) -> None:
        with np.load(io.BytesIO(self._file.read_bytes()), allow_pickle=False) as arrays:
            if str(arrays["identity"]) == self._identity:
                self._found = [(arrays[f"losses{fold}"], arrays[f"outputs{fold}"]) for fold in range(int(arrays["folds"]))]

    def of(self, fold: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]] | None:
        """Losses (epochs, N) and outputs (epochs, N, C) of the samples of ``fold``, from 0; None where it is not finished."""
        return self._found[fold] if fold < len(self._found) else None

    def add(self, losses: npt.NDArray[np.float64], outputs: npt.NDArray[np.float32]) -> None:
        """Keeps what the next fold found.

        Raises:
            RunError: It cannot be written; what was there before is still there.
        """
        self._found.append((losses, outputs))
        named: dict[str, Any] = {f"losses{fold}": found for fold, (found, _) in enumerate(self._found)}
        named |= {f"outputs{fold}": found for fold, (_, found) in enumerate(self._found)}
        content = io.BytesIO()
        np.savez(content, identity=np.array(self._identity), folds=np.array(len(self._found)), **named)
        write_bytes(self._file, content.getvalue(), RunError)
