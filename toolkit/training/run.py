"""A run: what ``dmdkit train`` and ``dmdkit import`` leave behind and ``dmdkit export`` reads.

``config.yaml`` the recipe as used, ``model.safetensors`` the weights (written last, when the run is finished),
``facts.json`` what later stages must know about the training data, ``samples.json`` fingerprints of its training and
validation samples, ``history.csv``, ``metrics.json``, ``environment.json``, and ``last.ckpt`` to resume from.
How a directory becomes one is in :mod:`dmdkit.training.run_directory`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dmdkit.config import ModelShape, PaddedSteps, RunConfig, TokensFrom, plain_yaml, validated
from dmdkit.data.fingerprints import SeenSamples
from dmdkit.errors import ConfigError, RunError
from dmdkit.files import sha256_of_file
from dmdkit.printable import one_line
from dmdkit.records import PositiveInt, first_problem

__all__ = [
    "TEXT_DIR",
    "InputFacts",
    "Run",
    "RunFacts",
    "TextFacts",
    "installed_versions",
    "metrics_of",
    "newest_run",
    "read_config",
    "read_facts",
    "read_seen",
]

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"
FACTS_FILE = "facts.json"
METRICS_FILE = "metrics.json"
SAMPLES_FILE = "samples.json"
"""Fingerprints of the training and validation samples."""
HISTORY_FILE = "history.csv"
ENVIRONMENT_FILE = "environment.json"
CHECKPOINT_FILE = "last.ckpt"
FOLDS_FILE = "folds.json"
"""What a cross-validation found, where the run chose its epochs by one."""
FINISHED_FOLDS_FILE = "folds.npz"
"""What the folds found that are finished, while a cross-validation runs: a training that was killed goes on with the rest."""
TEXT_DIR = "text_encoder"
"""The text encoder in Hugging Face layout, where the run has one."""
PREVIOUS_FILE = "previous.ckpt"
"""The checkpoint before the last, while a training runs: where the last one is damaged, the training goes on from it."""

RUN_PAGE = "report.html"
"""What `dmdkit report` writes of a run."""

PASSING_FILES = (PREVIOUS_FILE, RUN_PAGE, FOLDS_FILE, FINISHED_FOLDS_FILE)
"""What a run directory may hold besides a run's files; they go when the run goes."""

RUN_FILES = (
    MODEL_FILE,
    CONFIG_FILE,
    FACTS_FILE,
    SAMPLES_FILE,
    METRICS_FILE,
    HISTORY_FILE,
    ENVIRONMENT_FILE,
    CHECKPOINT_FILE,
)


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

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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
    steps: Literal["padded", "real"] = Field("padded", description="real: the model reads the last real step, zeros are behind")

    @model_validator(mode="after")
    def _range_is_ordered(self) -> RunFacts:
        if self.label_range is not None and not self.label_range[0] < self.label_range[1]:
            low, high = self.label_range
            raise ValueError(f"label_range={low:g}, {high:g}: expected low < high, as in -3, 3")
        return self


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
            if read_facts(path).origin == "import":
                raise RunError(f"{path}: {MODEL_FILE} is missing; import it again with `dmdkit import ... --force`")
            raise RunError(f"{path}: training did not finish; continue it with: dmdkit train --resume --out {path}")
        config, facts = read_config(path), read_facts(path)
        _check_agreement(path, config, facts)
        return cls(path, config, facts)

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
        values = plain_yaml((path / CONFIG_FILE).read_text(encoding="utf-8"), CONFIG_FILE)
        return validated(RunConfig, values, CONFIG_FILE)
    except (OSError, UnicodeDecodeError, ConfigError) as cause:
        raise RunError(f"{path / CONFIG_FILE}: damaged: {' '.join(str(cause).split())}") from cause


def read_facts(path: Path) -> RunFacts:
    """The facts a run directory holds."""
    try:
        return RunFacts.model_validate_json((path / FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as cause:
        raise RunError(f"{path / FACTS_FILE}: damaged: {' '.join(str(cause).split()):.300}") from cause


def read_seen(path: Path) -> SeenSamples | None:
    """Fingerprints of the training and validation samples of a run directory; None of an imported or older run.

    Raises:
        RunError: They are damaged.
    """
    file = path / SAMPLES_FILE
    if not file.exists():
        return None
    try:
        return SeenSamples.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as cause:
        advice = "delete it, and the run opens without"
        raise RunError(f"{file}: damaged: {' '.join(str(cause).split()):.300}; {advice}") from cause


def _check_agreement(path: Path, config: RunConfig, facts: RunFacts) -> None:
    """Refuses two records of one run of which somebody changed one: they would describe another model, or other labels."""
    recipe: dict[str, Any] = {f"model.{name}": value for name, value in config.model.model_dump(exclude={"dropout"}).items()}
    found: dict[str, Any] = {f"model.{name}": value for name, value in facts.shape.chosen.items()}
    recipe["data.steps"], found["data.steps"] = config.data.steps, facts.steps
    recipe["data.normalisation"] = config.data.normalisation
    found["data.normalisation"] = "standardise" if facts.standardised else "none"
    if config.data.task != "auto":
        recipe["data.task"], found["data.task"] = config.data.task, facts.task
    if config.data.label_range is not None and facts.task == "regression":
        recipe["data.label_range"], found["data.label_range"] = config.data.label_range, facts.label_range
    text, read = config.text_encoder, facts.text
    recipe["text_encoder"], found["text_encoder"] = text is not None, read is not None
    if text is not None and read is not None:
        for name, value in (
            ("max_tokens", text.max_tokens),
            ("padded_steps", text.padded_steps),
            ("tokens_from", text.tokens_from),
            ("fine_tune", text.fine_tune),
        ):
            recipe[f"text_encoder.{name}"] = value
            found[f"text_encoder.{name}"] = read.fine_tuned if name == "fine_tune" else getattr(read, name)
    different = [key for key in recipe if recipe[key] != found[key]]
    if different:
        said = "; ".join(f"{key} is {recipe[key]} in the one and {found[key]} in the other" for key in different[:5])
        raise RunError(
            f"{path}: {CONFIG_FILE} and {FACTS_FILE} disagree, so one of them was changed: {said}; put back what was there, "
            "or make the run again with --force"
        )


def installed_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of the installed ones among ``names``."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


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


_Values = dict[str, float | None]
_ByName = dict[str, _Values]


class _Comparison(BaseModel):
    sentence: str


class _Metrics(BaseModel):
    """What is read of ``metrics.json``; earlier versions wrote only some of it, an import only empty splits."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    splits: _ByName
    best_epoch: PositiveInt | None = None
    epochs: PositiveInt | None = None
    baselines: dict[str, _ByName] = {}
    against_ridge: dict[str, _Comparison] = {}
    subsets: dict[str, Annotated[_ByName, Field(min_length=1)]] = {}
    warnings: list[str] = []

    @model_validator(mode="after")
    def _the_best_epoch_is_one_of_them(self) -> _Metrics:
        if self.best_epoch is not None and (self.epochs is None or self.best_epoch > self.epochs):
            raise ValueError(f"best_epoch={self.best_epoch}: expected one of epochs={self.epochs}")
        return self


def metrics_of(path: Path) -> dict[str, Any]:
    """``metrics.json`` of a run.

    Raises:
        RunError: It is missing, or something in it is not what a training writes.
    """
    try:
        loaded: dict[str, Any] = json.loads((path / METRICS_FILE).read_text(encoding="utf-8"))
        _Metrics.model_validate(loaded)
    except OSError as cause:
        raise RunError(f"{path / METRICS_FILE}: cannot be read: {cause.strerror or cause}") from cause
    except (ValueError, RecursionError) as cause:
        problem = first_problem(cause) if isinstance(cause, ValidationError) else f"no JSON ({cause})"
        raise RunError(
            f"{path / METRICS_FILE}: damaged: {one_line(problem)}; measure the run with `dmdkit evaluate`, or train it anew"
        ) from cause
    return loaded
