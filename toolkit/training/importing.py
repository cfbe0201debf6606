"""A published checkpoint as a run."""

from __future__ import annotations

from pathlib import Path

from dmdkit.config import DataConfig, ModelConfig, RunConfig
from dmdkit.data.dataset import Task
from dmdkit.errors import RunError
from dmdkit.files import atomic_directory, write_bytes, write_json
from dmdkit.model.published import read_published
from dmdkit.training.checkpoint import model_bytes
from dmdkit.training.run import METRICS_FILE, MODEL_FILE, Run, RunFacts, check_target, write_beginning

__all__ = ["import_checkpoint"]


def import_checkpoint(
    weights: Path,
    heads: int,
    out: Path,
    *,
    label_range: tuple[float, float] = (-3.0, 3.0),
    drop_text_encoder: bool = False,
    force: bool = False,
) -> Run:
    """Writes the run ``out`` from a published ``.pth`` or safetensors checkpoint.

    Args:
        weights: The checkpoint.
        heads: H; no tensor shows it.
        out: The run directory.
        label_range: Range of the regression label (ignored for a model with several outputs).
        drop_text_encoder: Whether ``text_model.*`` may be left out.
        force: Whether an existing run gives way.

    Raises:
        WeightsError: The checkpoint does not describe a DMD model.
        RunError: ``out`` exists or cannot be written; nothing is left behind.
    """
    check_target(out, force=force)
    published = read_published(weights, heads, drop_text_encoder=drop_text_encoder)
    shape = published.shape
    regression = shape.num_outputs == 1
    model = ModelConfig(
        width=shape.width,
        heads=heads,
        levels=shape.levels,
        kernels=shape.kernels,
        gd_homo_width=shape.gd_homo_width,
        gd_hetero_width=shape.gd_hetero_width,
    )
    task: Task = "regression" if regression else "classification"
    config = RunConfig(data=DataConfig(task=task, label_range=label_range if regression else None), model=model)
    notes = [f"imported from {weights.name} with {heads} heads"]
    if published.ignored:
        notes.append(f"ignored {len(published.ignored)} tensors that serve no output ({published.ignored[0]}, ...)")
    if not published.has_gd_units:
        notes.append("the checkpoint holds no GD-Units, so explanations have no edges")
    facts = RunFacts(
        origin="import",
        shape=shape,
        task=task,
        label_range=config.data.label_range,
        standardised=False,
        gd_units=published.has_gd_units,
        notes=notes,
    )
    with atomic_directory(out, RunError, replace=True) as directory:
        write_beginning(directory, config, facts)
        write_json(directory / METRICS_FILE, {"imported": True, "splits": {}}, RunError)
        write_bytes(directory / MODEL_FILE, model_bytes(published.state), RunError)
    return Run.open(out)
