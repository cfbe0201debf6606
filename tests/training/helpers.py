"""Small trainings, and a look at a directory that tells whether anything in it changed."""

from __future__ import annotations

from pathlib import Path

from dmdkit.config import RunConfig, load_run_config, recipe_path
from dmdkit.data import Dataset
from dmdkit.files import sha256_of_file
from dmdkit.training.run import Run
from dmdkit.training.trainer import train
from tests.conftest import tiny_dataset

TINY = (
    "model.width=8",
    "model.heads=2",
    "model.levels=1",
    "training.epochs=2",
    "training.batch_size=16",
    "training.accumulate_batches=1",
    "training.incomplete_group=drop",
    "training.learning_rate=1e-3",
    "training.plateau_patience=4",
    "training.early_stop_patience=12",
    "training.validation_window=1",
    "training.schedule=validation",
    "training.weight_average=0",
    "training.readout_line=false",
)
NO_DROPOUT = "model.dropout={}"


def tiny_config(*assignments: str) -> RunConfig:
    return load_run_config(recipe_path("small"), [*TINY, *assignments])


def train_tiny(out: Path, *assignments: str, dataset: Dataset | None = None, **options: object) -> Run:
    return train(tiny_config(*assignments), dataset or tiny_dataset(), out, device="cpu", **options)


def tree(path: Path) -> dict[str, str]:
    """Every file and directory under ``path``, hidden ones too, with the content's hash."""
    return {
        str(entry.relative_to(path)): sha256_of_file(entry) if entry.is_file() else "directory"
        for entry in sorted(path.rglob("*"))
    }
