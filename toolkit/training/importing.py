"""A published checkpoint as a run."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from dmdkit.config import DataConfig, ModelConfig, ModelShape, RunConfig, TextEncoderConfig
from dmdkit.data.dataset import Task
from dmdkit.errors import ConfigError, RunError, WeightsError
from dmdkit.files import atomic_directory, locked_directory, write_bytes, write_json
from dmdkit.model.published import read_published
from dmdkit.model.text_encoder import TextEncoder
from dmdkit.training.checkpoint import model_bytes
from dmdkit.training.encoder_directory import (
    EncoderDirectory,
    encoder_sha256,
    read_encoder_directory,
    text_facts,
    write_encoder_directory,
)
from dmdkit.training.run import METRICS_FILE, MODEL_FILE, TEXT_DIR, Run, RunFacts
from dmdkit.training.run_directory import WRITING, check_target, write_beginning

__all__ = ["import_checkpoint"]


def import_checkpoint(
    weights: Path,
    heads: int,
    out: Path,
    *,
    label_range: tuple[float, float] = (-3.0, 3.0),
    drop_text_encoder: bool = False,
    text_encoder: Path | None = None,
    force: bool = False,
) -> Run:
    """Writes the run ``out`` from a published ``.pth`` or safetensors checkpoint.

    Args:
        weights: The checkpoint.
        heads: H; no tensor shows it.
        out: The run directory.
        label_range: Range of the regression label (ignored for a model with several outputs).
        drop_text_encoder: Whether ``text_model.*`` may be left out.
        text_encoder: Directory of the BERT that ``text_model.*`` was made from, for its config.json and tokenizer.
        force: Whether an existing run gives way.

    Raises:
        WeightsError: The checkpoint does not describe a DMD model.
        RunError: ``out`` exists or cannot be written; nothing is left behind.
    """
    check_target(out, force=force)
    if text_encoder is not None and drop_text_encoder:
        raise ConfigError("--text-encoder and --drop-text-encoder contradict each other; choose one")
    directory = read_encoder_directory(text_encoder) if text_encoder is not None else None
    published = read_published(weights, heads, drop_text_encoder=drop_text_encoder, keep_text_encoder=text_encoder is not None)
    shape = published.shape
    encoder, settings = None, None
    if directory is not None:
        encoder = directory.encoder("encoded", weights=published.text_encoder)
        settings = _settings(directory, encoder, shape, weights)
    regression = shape.num_outputs == 1
    model = ModelConfig(**shape.chosen)
    task: Task = "regression" if regression else "classification"
    config = RunConfig(
        data=DataConfig(task=task, label_range=label_range if regression else None), model=model, text_encoder=settings
    )
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
        text=text_facts(settings) if settings is not None else None,
    )
    with ExitStack() as held:
        there = out.exists()
        if there:  # a training may be writing there
            held.enter_context(locked_directory(out, RunError, busy=WRITING))
            check_target(out, force=force)
        target = held.enter_context(atomic_directory(out, RunError, replace=there))
        write_beginning(target, config, facts)
        write_json(target / METRICS_FILE, {"imported": True, "splits": {}}, RunError)
        if encoder is not None and directory is not None:
            write_encoder_directory(target / TEXT_DIR, encoder, directory.tokenizer)
        write_bytes(target / MODEL_FILE, model_bytes(published.state), RunError)
    return Run.open(out)


def _settings(directory: EncoderDirectory, encoder: TextEncoder, shape: ModelShape, weights: Path) -> TextEncoderConfig:
    """How the published code ran its encoder: padding last, and every step as the encoder gives it."""
    steps, width = shape.lengths.text, shape.feature_dims.text
    if encoder.shape.hidden_size != width:
        raise WeightsError(
            f"{weights}: its encoder gives {encoder.shape.hidden_size} features a step, the rest of the model takes {width}"
        )
    directory.sentence_tokenizer(steps, "encoded")
    return TextEncoderConfig(
        path=str(directory.path.resolve()), sha256=encoder_sha256(encoder), max_tokens=steps, padded_steps="encoded"
    )
