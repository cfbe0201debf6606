"""The bundle's schema: everything a reader of ``manifest.json`` may rely on (docs/bundle.md says it in prose).

Export writes through these records and the runtime reads through them, so the format has one owner.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from dmdkit.errors import BundleError
from dmdkit.files import write_json
from dmdkit.printable import one_line
from dmdkit.records import ModelShape, Record, first_problem, read_bounded, streams_problem
from dmdkit.runtime.format_version import (
    REAL_STEPS,
    SCHEMA_MINOR,
    RequirementRecord,
    in_oldest_minor,
    version_problem,
    without_unknown,
)
from dmdkit.runtime.graph_records import (
    OPTIONAL_BACKENDS,
    Count,
    GraphRecord,
    Modality,
    Sha256,
    Size,
    StateRecord,
    StreamRecord,
    VerdictRecord,
)

__all__ = [
    "MANIFEST_FILE",
    "OPTIONAL_BACKENDS",
    "TEXT_INPUTS",
    "CalibrationRecord",
    "FileRecord",
    "GoldenRecord",
    "GraphRecord",
    "InputRecord",
    "Manifest",
    "OutputRecord",
    "SourceRecord",
    "StateRecord",
    "StreamRecord",
    "TextRecord",
    "VerdictRecord",
    "read_manifest",
    "write_manifest",
]

MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20
_SAFE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_FLOAT32_MAX = 3.4e38

Limit = Annotated[float, Field(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)]

_GRAPH_ORDER: tuple[Modality, ...] = ("text", "vision", "audio")
_GRAPH_EDGES = [(student, teacher) for student in _GRAPH_ORDER for teacher in _GRAPH_ORDER if student != teacher]
# How every graph that was ever exported lays its outputs out. No graph says so itself: another order only mislabels answers.

TEXT_INPUTS = ("input_ids", "attention_mask")
"""What the graphs ``text.*`` take, in this order, int64 (batch, length)."""


class FileRecord(Record):
    """A file of the bundle."""

    sha256: Sha256
    size_bytes: Count


class InputRecord(Record):
    """One input of the graphs: float32 (batch, steps, features), raw features."""

    steps: Size
    features: Size
    dtype: Literal["float32"] = "float32"
    padding_side: Literal["left", "right", "none", "unknown"] = "unknown"
    normalisation: Literal["none", "standardise"] = Field(
        "none", description="standardise: the graph itself applies the training statistics"
    )
    trained_absent: bool = Field(False, description="whether the modality may be absent at run time")
    minimum: list[Limit] | None = Field(None, description="training minimum per feature; None: not known")
    maximum: list[Limit] | None = Field(None, description="training maximum per feature; None: not known")
    provenance: dict[str, str] = Field(default_factory=dict, description="extractor, version, rate, where known")

    @model_validator(mode="after")
    def _ranges_fit(self) -> InputRecord:
        for name, values in (("minimum", self.minimum), ("maximum", self.maximum)):
            if values is not None and len(values) != self.features:
                raise ValueError(f"{name} has {len(values)} values for {self.features} features")
        if (self.minimum is None) != (self.maximum is None):
            raise ValueError("minimum and maximum are known together or not at all")
        if any(low > high for low, high in zip(self.minimum or [], self.maximum or [], strict=True)):
            raise ValueError("a minimum is above its maximum")
        return self


class OutputRecord(Record):
    """One output of a graph."""

    meaning: str
    shape: list[int | str] = Field(description="'batch' for the dynamic axis")
    order: list[str] | None = Field(None, description="what each entry of the axis after batch stands for")
    range: tuple[float, float] | None = None


class CalibrationRecord(Record):
    """Which samples chose the INT8 ranges, and how."""

    method: str = Field(description="of the ranges; where the text encoder's is another: `percentile, text: mse`")
    sample_ids: list[str]
    content_sha256: Sha256 = Field(description="over the samples' features, in this order")
    data_sha256: Sha256
    used_by: list[str] = Field(description="graphs whose activation ranges came from these samples")


class GoldenRecord(Record):
    """The samples a device replays to check itself."""

    file: str
    kind: Literal["real", "synthetic"]
    samples: Size
    ids: list[str]


class TextRecord(Record):
    """The text encoder in front of the graphs: tokens in, the steps of the input ``text`` out.

    The graphs ``text.*`` take ``input_ids`` and ``attention_mask``, int64 (batch, length) as ``lengths`` says.
    """

    tokenizer: str = Field(description="file of the tokenizer, in the layout of Hugging Face's tokenizers library")
    max_tokens: Size = Field(description="tokens of a sentence, the two special ones included; a longer one is cut")
    vocabulary_size: Size
    pad_id: Count = Field(description="token that stands where the mask is 0")
    padding_side: Literal["left", "right"] = Field(description="where a shorter sentence is filled up with pad_id")
    padded_steps: Literal["zero", "encoded"] = Field(
        description="zero: steps without a token come out as zeros; encoded: as the encoder gives them (published code)"
    )
    lengths: Literal["fixed", "dynamic"] = Field(
        "fixed", description="of the graphs' inputs: max_tokens always, or that of the sentences; absent means fixed"
    )
    fine_tuned: bool = Field(description="whether the encoder was trained with the model")
    encoder_sha256: Sha256 = Field(description="of the encoder's weights in the run")

    @model_validator(mode="after")
    def _pad_is_a_token(self) -> TextRecord:
        if self.pad_id >= self.vocabulary_size:
            raise ValueError(f"pad_id {self.pad_id} is not one of {self.vocabulary_size} tokens")
        if self.lengths == "dynamic" and (self.padded_steps != "zero" or self.padding_side != "left"):
            raise ValueError("lengths: only where padding is on the left and comes out as zeros are they dynamic")
        return self


class SourceRecord(Record):
    """Where the weights came from."""

    run: str
    origin: Literal["train", "import"]
    model_sha256: Sha256
    data_sha256: Sha256 | None
    created: str


class Manifest(Record):
    """``manifest.json``."""

    schema_version: Literal[1] = 1
    schema_minor: Count = Field(0, description="the least that has every field used here; absent means 0")
    requires: list[RequirementRecord] = Field(default_factory=list, description="what a reader must know; absent means nothing")
    name: str
    created: str
    tools: dict[str, str] = Field(description="versions of what made the bundle")
    source: SourceRecord
    model: ModelShape
    task: Literal["regression", "classification"]
    label_range: tuple[float, float] | None
    output_sd: Annotated[float, Field(ge=0)] = Field(description="standard deviation of the reference score, for tolerances")
    modality_order: list[Modality] = Field(description="order of the modality axis of explain's outputs")
    edge_order: list[tuple[Modality, Modality]] = Field(description="(student, teacher) per edge")
    inputs: dict[str, InputRecord]
    text: TextRecord | None = Field(None, description="None: the model's text features are made elsewhere")
    outputs: dict[str, OutputRecord]
    graphs: dict[str, GraphRecord] = Field(description="keyed KIND.PRECISION")
    stream: StreamRecord | None = Field(None, description="None: no step graph was exported")
    calibration: CalibrationRecord | None
    golden: GoldenRecord
    files: dict[str, FileRecord]

    _ignored: tuple[str, ...] = PrivateAttr(())

    @property
    def ignored(self) -> tuple[str, ...]:
        """Places of what a later version wrote and this one left out."""
        return self._ignored

    @property
    def real_steps(self) -> bool:
        """Whether the model was trained on real steps first and reads the last of them: graphs take ``steps``."""
        return any(entry.name == REAL_STEPS for entry in self.requires)

    @field_validator("files")
    @classmethod
    def _paths_stay_inside(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for path in files:
            if not _SAFE_PATH.fullmatch(path):
                raise ValueError(f"file name {path!r:.100} is not a plain relative path")
        return files

    @model_validator(mode="after")
    def _is_consistent(self) -> Manifest:
        if set(self.inputs) != {"text", "audio", "vision"}:
            raise ValueError(f"inputs: expected text, audio, vision, found {', '.join(self.inputs)}")
        if self.modality_order != list(_GRAPH_ORDER) or self.edge_order != _GRAPH_EDGES:
            raise ValueError("modality_order or edge_order is not text, vision, audio, the order of the graphs' outputs")
        if (self.label_range is None) == (self.task == "regression"):
            raise ValueError(f"label_range: {self.label_range} does not go with {self.task}")
        if self.label_range is not None and self.label_range[0] >= self.label_range[1]:
            raise ValueError(f"label_range: {self.label_range} is empty")
        lengths, widths = self.model.lengths.as_dict(), self.model.feature_dims.as_dict()
        for name, record in self.inputs.items():
            if (record.steps, record.features) != (lengths[name], widths[name]):
                raise ValueError(f"inputs.{name} does not have the model's {lengths[name]} steps of {widths[name]} features")
        self._stream_fits()
        for name, graph in self.graphs.items():
            if name != f"{graph.kind}.{graph.precision}" or graph.kind == "stream":
                raise ValueError(f"graphs.{name} describes {graph.kind}.{graph.precision}")
            if graph.file not in self.files:
                raise ValueError(f"graphs.{name}: {graph.file} is not listed under files")
        self._text_fits(lengths["text"])
        if self.golden.file not in self.files:
            raise ValueError(f"golden: {self.golden.file} is not listed under files")
        if len(self.golden.ids) != self.golden.samples:
            raise ValueError(f"golden: {len(self.golden.ids)} ids for {self.golden.samples} samples")
        return self

    def _stream_fits(self) -> None:
        if self.stream is None:
            return
        problem = streams_problem(self.model.lengths, self.model.kernels)
        if problem:
            raise ValueError(f"stream: a model that cannot stream has a step graph: {problem}")
        kernel, capacity = self.model.kernels.text, self.model.projected_lengths["text"]
        if (self.stream.kernel, self.stream.capacity) != (kernel, capacity):
            raise ValueError(f"stream: kernel and capacity are not the model's {kernel} and {capacity}")
        for graph in self.stream.graphs.values():
            if graph.file not in self.files:
                raise ValueError(f"stream: {graph.file} is not listed under files")

    def _text_fits(self, steps: int) -> None:
        if (self.text is not None) != ("text.fp32" in self.graphs):
            raise ValueError("text: a text encoder's record and its graph text.fp32 go together")
        if self.text is None:
            if any(graph.kind == "text" for graph in self.graphs.values()):
                raise ValueError("text: there are text graphs without text.fp32")
            return
        if self.text.max_tokens != steps:
            raise ValueError(f"text: {self.text.max_tokens} tokens for the model's {steps} steps")
        if self.text.tokenizer not in self.files:
            raise ValueError(f"text: {self.text.tokenizer} is not listed under files")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def read_manifest(bundle: Path) -> Manifest:
    """Reads and checks ``manifest.json``.

    Raises:
        BundleError: Missing, unreadable, too large, not JSON, of another version, or inconsistent.
    """
    path = bundle / MANIFEST_FILE
    try:
        if bundle.is_file():
            raise BundleError(f"{bundle} is a file; a bundle is a directory written by `dmdkit export`")
        if not bundle.is_dir():
            raise BundleError(f"{bundle}: no such bundle (expected a directory written by `dmdkit export`)")
    except OSError as cause:
        raise BundleError(f"{bundle}: cannot be read: {cause.strerror or cause}") from cause
    try:
        if path.is_dir() or not path.exists():
            raise BundleError(f"{path.parent}: not a bundle: {MANIFEST_FILE} is missing")
    except OSError as cause:
        raise BundleError(f"{path}: cannot be read: {cause.strerror or cause}") from cause
    advice = "export the bundle again"
    data = read_bounded(path, inside=path.parent, max_bytes=MAX_MANIFEST_BYTES, advice=advice, error=BundleError)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise BundleError(f"{path}: damaged: not UTF-8; {advice}") from cause
    try:
        values = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as cause:
        raise BundleError(f"{path}: damaged: {one_line(str(cause)) or type(cause).__name__}; {advice}") from cause
    if (problem := version_problem(values)) is not None:
        raise BundleError(f"{path}: {one_line(problem)}")
    try:
        # From text, not from ``values``: strict JSON mode takes lists as tuples but no "5" or true as a number.
        return _validated(text, values)
    except ValidationError as cause:
        raise BundleError(f"{path}: damaged: {first_problem(cause)} ({cause.error_count()} problems); {advice}") from cause


def _validated(text: str, values: dict[str, Any]) -> Manifest:
    """The checked manifest; of a later minor version without what is unknown."""
    minor = values.get("schema_minor", 0)
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as cause:
        if type(minor) is not int or minor <= SCHEMA_MINOR:
            raise
        ignored = without_unknown(values, cause.errors(include_url=False))
    manifest = Manifest.model_validate_json(json.dumps(values), strict=True)
    manifest._ignored = ignored
    return manifest


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json`` atomically, in the oldest minor version that says it all: robots read that everywhere.

    Raises:
        BundleError: It cannot be written, or a later dmdkit wrote it and something in it is not known here.
    """
    if manifest.ignored:
        raise BundleError(
            f"{bundle / MANIFEST_FILE}: format 1.{manifest.schema_minor}, this dmdkit knows 1.{SCHEMA_MINOR}: writing "
            f"it would lose {', '.join(map(one_line, manifest.ignored[:5]))}; use the dmdkit that made the bundle"
        )
    write_json(bundle / MANIFEST_FILE, in_oldest_minor(manifest.model_dump(mode="json")), BundleError)
