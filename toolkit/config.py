"""Every setting of a run, as documented, validated records; recipes are YAML files of this shape.

A key that does not exist, a value out of its range, or two values that cannot go together is one
:class:`~dmdkit.errors.ConfigError` naming the key as the user typed it.
"""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    Field,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from dmdkit.errors import ConfigError
from dmdkit.records import ModelShape, PerModality, PositiveInt, Record

__all__ = [
    "DataConfig",
    "DropoutConfig",
    "ModelConfig",
    "ModelShape",
    "PaddedSteps",
    "PerModality",
    "RunConfig",
    "TextEncoderConfig",
    "TokensFrom",
    "TrainingConfig",
    "flat_settings",
    "load_run_config",
    "plain_yaml",
    "recipe_names",
    "recipe_path",
    "shape_of",
    "validated",
]

RECIPES_DIR = Path(__file__).parent / "training" / "recipes"
_MAX_CONFIG_BYTES = 1 << 20

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
# Training multiplies these in float32, which ends at 3.4e38.
PositiveFloat = Annotated[float, Field(gt=0.0, le=1e30)]
Weight = Annotated[float, Field(ge=0.0, le=1e30)]


def _auto_or_checked(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    return value if value == "auto" else handler(value)


if TYPE_CHECKING:
    AutoInt = int | Literal["auto"]
    AutoBatch = int | Literal["auto"]
    AutoFloat = float | Literal["auto"]
    AutoShare = float | Literal["auto"]
    AutoFolds = int | Literal["auto"]
else:  # not a union: its errors would name both alternatives
    AutoInt = Annotated[PositiveInt, WrapValidator(_auto_or_checked), PlainSerializer(lambda value: value)]
    AutoBatch = Annotated[int, Field(ge=2, lt=2**31), WrapValidator(_auto_or_checked), PlainSerializer(lambda value: value)]
    AutoFloat = Annotated[PositiveFloat, WrapValidator(_auto_or_checked), PlainSerializer(lambda value: value)]
    AutoShare = Annotated[Probability, WrapValidator(_auto_or_checked), PlainSerializer(lambda value: value)]
    AutoFolds = Annotated[int, Field(ge=0, le=100), WrapValidator(_auto_or_checked), PlainSerializer(lambda value: value)]
TokensFrom = Literal["auto", "raw_text", "text_bert"]
PaddedSteps = Literal["zero", "encoded"]
T = TypeVar("T")


class DropoutConfig(Record):
    """Dropout probabilities, each applied only while training."""

    attention_text: Probability = Field(0.0, description="attention weights: source text, all memory blocks")
    attention_audio: Probability = Field(0.0, description="attention weights of blocks whose source is audio")
    attention_vision: Probability = Field(0.0, description="attention weights of blocks whose source is vision")
    embed: Probability = Field(0.0, description="scaled inputs plus positions")
    text: Probability = Field(0.0, description="raw text features")
    output: Probability = Field(0.0, description="heads and read-out")
    residual: Probability = Field(0.0, description="residual branches")
    relu: Probability = Field(0.0, description="inside the feed-forward")


class ModelConfig(Record):
    """The sizes a recipe chooses; what the data decides (widths, lengths, classes) is added in :class:`ModelShape`."""

    width: PositiveInt = Field(description="d, channels after the projection")
    heads: PositiveInt = Field(description="H, attention heads; divides width")
    levels: PositiveInt = Field(description="L, layers of self and cross-modal blocks; memory blocks have max(L, 3)")
    kernels: PerModality = Field(description="projection kernel k_m per modality")
    gd_homo_width: PositiveInt = Field(64, description="g of the GD-Unit on the common part")
    gd_hetero_width: PositiveInt = Field(32, description="g of the GD-Unit on the exclusive part")
    dropout: DropoutConfig = Field(default_factory=DropoutConfig)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        if self.width < 4:
            raise ValueError(f"width={self.width} leaves no room for sinusoidal positions; use 4 or more")
        return self


def shape_of(config: ModelConfig, feature_dims: dict[str, int], lengths: dict[str, int], num_outputs: int) -> ModelShape:
    """The shape of ``config``'s model for data of these widths and lengths.

    Raises:
        ConfigError: The sizes do not go together.
    """
    values = config.model_dump(exclude={"dropout"})
    return validated(
        ModelShape, {**values, "feature_dims": feature_dims, "lengths": lengths, "num_outputs": num_outputs}, "model"
    )


class DataConfig(Record):
    """Which file a run reads and how."""

    path: str | None = Field(None, description="feature file; set by --data")
    sha256: str | None = Field(None, description="hash of that file; written by the run")
    task: Literal["auto", "regression", "classification"] = "auto"
    label_range: tuple[float, float] | None = Field(None, description="low, high of a regression label; else inferred")
    nan_policy: Literal["refuse", "zero"] = Field("refuse", description="what a NaN or infinity in the features does")
    steps: Literal["padded", "real"] = Field(
        "padded",
        description="real: each sample's own steps come first, zeros behind, and the model reads the last real one, as a "
        "stream does; padded: every step of the file is the model's, padding too, as published",
    )
    normalisation: Literal["none", "standardise"] = Field(
        "none",
        description="standardise: zero mean, unit variance per column over the training steps that are not padding",
    )

    @model_validator(mode="after")
    def _range_is_ordered(self) -> DataConfig:
        if self.label_range is not None and not self.label_range[0] < self.label_range[1]:
            low, high = self.label_range
            raise ValueError(f"label_range={low:g}, {high:g}: expected low < high, as in -3, 3")
        return self


class TrainingConfig(Record):
    """How the model is optimised; the defaults are the published ones (docs/model.md section 7).

    What takes ``auto`` is then chosen from the number of training samples (:mod:`dmdkit.training.planning`).
    """

    losses: Literal["released", "paper"] = Field("released", description="objective of the published code, or of the paper")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    epochs: AutoInt = Field(100, description="at most this many; early stopping usually ends sooner")
    batch_size: AutoBatch = 16
    accumulate_batches: AutoInt = Field(10, description="batches whose gradients are summed before a step")
    incomplete_group: Literal["drop", "step"] = Field(
        "drop", description="whether batches that are fewer than a group at an epoch's end are dropped or make a step"
    )
    learning_rate: AutoFloat = 1e-4
    weight_decay: Weight = Field(0.0, description="share of a weight, times the learning rate, that a step takes away")
    clip_value: PositiveFloat = Field(0.6, description="gradients are clipped to +- this after every backward")
    plateau_patience: AutoInt = Field(5, description="epochs without a better validation loss before lr is halved")
    early_stop_patience: AutoInt = Field(10, description="epochs without a better validation loss before training stops")
    validation_window: AutoInt = Field(
        1, description="epochs whose validation losses are averaged before they choose the best epoch, the rate and the end"
    )
    schedule: Literal["auto", "validation", "fixed"] = Field(
        "validation",
        description="validation: its loss chooses the best epoch, halves the rate and ends the training; fixed: every planned "
        "epoch is trained at one rate and the last is kept; auto: fixed where a validation split is too small to choose",
    )
    folds: AutoFolds = Field(
        0,
        description="parts of a cross-validation over all training and validation samples that chooses the number of epochs, "
        "after which all of them train; 0: none; auto: 5 where there is no validation split",
    )
    weight_average: AutoShare = Field(
        0.0, description="share of its past that an exponential average of the weights keeps at a step; 0: no average"
    )
    readout_line: bool = Field(
        False, description="whether a slope and offset of the score are fitted to the validation split at the end (regression)"
    )
    distillation_weight: Weight = Field(0.05, description="weight of the GD-Units' terms")
    decoupling_weight: Weight = Field(0.1, description="weight of rec, cyc, and 0.1*(margin + ort)")
    modality_dropout: Probability = Field(
        0.0, description="chance that one modality of a training sample is zeroed, so that it may be absent at run time"
    )
    most_absent: Annotated[int, Field(ge=1, le=2)] = Field(
        1, description="modalities of a sample that modality_dropout zeroes at most: 1, or any subset of one or two"
    )
    absence_weight: Weight = Field(
        0.0,
        description="weight of the distance between the output of a sample without some modalities and the same model's output "
        "with all of them, its teacher",
    )
    stretch_dropout: Probability = Field(
        0.0, description="chance that a stretch of steps of one modality of a training sample is zeroed: a sensor that fails"
    )
    random_prefix: Probability = Field(
        0.0, description="chance that a training sample ends early, at any step, as a stream hears it (data.steps=real)"
    )
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="Lightning Fabric precision")

    @model_validator(mode="after")
    def _one_fold_is_none(self) -> TrainingConfig:
        if self.folds == 1:
            raise ValueError("folds=1 leaves nothing to train on; expected 0 for none, or 2 and more")
        return self


class TextEncoderConfig(Record):
    """A BERT in front of the text input; without one, text features come ready-made from the file."""

    path: str = Field(description="local directory in Hugging Face layout: config.json, model.safetensors, tokenizer.json")
    sha256: str | None = Field(None, description="hash of its weights as training began; written by the run")
    fine_tune: bool = Field(True, description="whether the encoder is trained with the model, or kept as it is")
    learning_rate: PositiveFloat | None = Field(
        2e-5, description="of the encoder while it is fine-tuned; null: training.learning_rate, as in the published code"
    )
    max_tokens: Annotated[int, Field(ge=3, le=4096)] = Field(
        50, description="T of the input text; two of them are special tokens, a longer sentence is cut"
    )
    tokens_from: TokensFrom = Field("auto", description="auto: the file's raw_text, tokenised here; without it, its text_bert")
    padded_steps: PaddedSteps = Field(
        "zero",
        description="zero: padding comes first and is zero steps, as with other features; encoded: it comes last and is what "
        "the encoder makes of it, as in the published code",
    )


class RunConfig(Record):
    """A whole recipe: data, text encoder, model and training."""

    data: DataConfig = Field(default_factory=DataConfig)
    text_encoder: TextEncoderConfig | None = Field(None, description="a section, or just its path")
    model: ModelConfig
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    @model_validator(mode="after")
    def _real_steps_fit(self) -> RunConfig:
        if self.training.random_prefix and self.data.steps != "real":
            raise ValueError("training.random_prefix cuts real steps short; add --set data.steps=real")
        if self.data.steps == "real" and self.text_encoder is not None:
            raise ValueError("data.steps=real takes ready-made text features, one step a word; leave text_encoder out")
        return self

    @field_validator("text_encoder", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


def validated(record: type[T], values: Any, where: str) -> T:
    """``values`` as a ``record``, with every problem in one readable error.

    Raises:
        ConfigError: Naming each wrong key by its dotted path, what was wrong, and what was given.
    """
    try:
        return record.model_validate(values)  # type: ignore[attr-defined, no-any-return]
    except ValidationError as cause:
        problems = []
        for error in cause.errors(include_url=False):
            key = ".".join(str(part) for part in error["loc"]) or where
            reason = error["msg"].removeprefix("Value error, ")
            if error["type"] == "extra_forbidden":
                reason = "unknown key"
            given = error.get("input")
            problems.append(f"{key}: {reason}" + ("" if isinstance(given, dict) else f" (given {reprlib.repr(given):.80})"))
        raise ConfigError(f"{where}: " + "; ".join(problems)) from cause


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """Every setting by its dotted key, as ``--set`` names it, with plain values."""
    flat: dict[str, Any] = {}

    def add(values: dict[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = value

    add(config.model_dump(mode="json"), "")
    return flat


def recipe_names() -> list[str]:
    """Names of the recipes that come with dmdkit, without their suffix."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe given as a path, or as the name of one that comes with dmdkit (``small``, ``small.yaml``).

    Raises:
        ConfigError: Neither a file nor a known recipe.
    """
    path = Path(name)
    if path.is_file():
        return path
    embedded = RECIPES_DIR / f"{path.stem}.yaml"
    if path.name in {embedded.name, embedded.stem} and embedded.is_file():
        return embedded
    raise ConfigError(f"no config {name!r}: neither a file nor one of the recipes {', '.join(recipe_names())}")


class _Loader(yaml.SafeLoader):
    """YAML as plain values, in which no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice; keep one of them", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def plain_yaml(text: str, where: str) -> Any:
    """The plain values of a YAML text; it makes no objects.

    Args:
        text: The YAML.
        where: Where it stands, for the message.

    Raises:
        ConfigError: It is not valid YAML, repeats a key, or is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except RecursionError as cause:
        raise ConfigError(f"{where}: nested too deeply; expected the sections data, model, training of plain values") from cause
    except (yaml.YAMLError, ValueError) as cause:  # ValueError: a date or a number that is none
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(cause).split()):.300}") from cause


def load_run_config(path: Path, assignments: Sequence[str] = ()) -> RunConfig:
    """Reads a recipe and applies ``--set key.path=value`` assignments (values are YAML).

    Raises:
        ConfigError: Unreadable file, bad YAML, unknown key, wrong value, malformed assignment.
    """
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_CONFIG_BYTES} bytes, so it is no recipe")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise ConfigError(f"{path}: cannot be read: {cause}") from cause
    values = plain_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected the sections data, model, training, found {type(values).__name__}")
    if not assignments:
        return validated(RunConfig, values, str(path))
    changed = deepcopy(values)
    for assignment in assignments:
        _assign(changed, assignment)
    try:
        return validated(RunConfig, changed, f"settings given ({', '.join(assignments):.200})")
    except ConfigError:
        validated(RunConfig, values, str(path))  # where the recipe itself is wrong, that is the thing to say
        raise


def _assign(values: dict[str, Any], assignment: str) -> None:
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {assignment!r}: expected key=value, for example --set training.seed=2")
    value = plain_yaml(text, f"--set {assignment!r:.200}: the value")
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string; people mean the number
        with contextlib.suppress(ValueError):
            value = float(value)
    *parents, last = key.split(".")
    section: dict[str, Any] = values
    for parent in parents:
        child = section.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {assignment!r}: {parent} is not a section")
        section = child
    section[last] = value
