"""The end of a training: the kept epoch is measured, and its weights are written last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmdkit.errors import RunError
from dmdkit.files import atomic_path, sha256_of_bytes, sha256_of_file, write_json
from dmdkit.training.checkpoint import TrainingState, model_bytes
from dmdkit.training.encoder_directory import TrainingEncoder, encoded_split, write_encoder_directory
from dmdkit.training.evaluation import subset_metrics
from dmdkit.training.folds import read_folds
from dmdkit.training.outcome import outcome, seen_samples
from dmdkit.training.readout_line import ReadoutLine
from dmdkit.training.run import (
    FACTS_FILE,
    FINISHED_FOLDS_FILE,
    METRICS_FILE,
    MODEL_FILE,
    PREVIOUS_FILE,
    SAMPLES_FILE,
    TEXT_DIR,
)
from dmdkit.training.statistics import dropped_share, input_facts

if TYPE_CHECKING:
    from dmdkit.training.trainer import LiveTraining

__all__ = ["finish"]


def _subset_metrics(trainer: LiveTraining, split: str) -> dict[str, dict[str, float | None]]:
    facts = trainer.facts
    return subset_metrics(trainer.model, trainer.features_of(split), facts.task, facts.label_range, trainer.fabric.device)


def finish(trainer: LiveTraining, state: TrainingState, out: Path, text: TrainingEncoder | None) -> None:
    """Measures the best epoch and puts the weights in their place last, because they say that the run is finished."""
    facts, settings, best = trainer.facts, trainer.settings, state.best_model
    trainer.load(best)
    line = None
    folds = read_folds(out) if settings.folds else None
    if settings.readout_line and not trainer.classes:
        unseen, labels = (trainer.predict("valid"), "valid") if folds is None else (folds.outputs(), "train")
        line = ReadoutLine.fitted(unseen, trainer.dataset.splits[labels].labels.astype(np.float32))
        best = line.applied(best)
        trainer.load(best)
    outputs = {"valid": trainer.predict("valid")} if folds is None else {}
    warnings = []
    if "test" in trainer.dataset.splits:
        try:
            outputs["test"] = trainer.predict("test")
        except RunError as cause:  # test data chooses nothing, so it does not take the weights away either
            warnings = [f"the test split could not be measured: {str(cause).partition(';')[0]}; look at its features"]
    metrics = outcome(state, trainer.schedule, settings, trainer.dataset, outputs, folds)
    metrics["warnings"] += warnings
    metrics["subsets"] = {name: _subset_metrics(trainer, name) for name in ("test",) if name in outputs}
    metrics["readout_line"] = None if line is None else vars(line)
    if trainer.encode is not None:
        learnt = encoded_split(trainer.dataset.splits["train"], trainer.encode, trainer.fabric.device)
        changed = replace(trainer.dataset, splits={"train": learnt})
        facts = facts.model_copy(update={"inputs": input_facts(changed, dropped_share(settings))})
    weights = model_bytes(trainer.of_model(best))
    model = out / MODEL_FILE
    with atomic_path(model, RunError) as complete:
        complete.write_bytes(weights)
        if model.is_file() and sha256_of_file(model) != sha256_of_bytes(weights):
            model.unlink()  # an earlier end of this run: its weights must not stand beside the new metrics
        if text is not None:
            write_json(out / FACTS_FILE, facts.model_dump(mode="json"), RunError)
            write_encoder_directory(out / TEXT_DIR, text.encoder, text.directory.tokenizer)
        write_json(out / SAMPLES_FILE, seen_samples(trainer.dataset).model_dump(mode="json"), RunError)
        write_json(out / METRICS_FILE, metrics, RunError)
    for passing in (PREVIOUS_FILE, FINISHED_FOLDS_FILE):
        (out / passing).unlink(missing_ok=True)
