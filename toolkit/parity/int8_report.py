"""``report/int8.json``: what became INT8, layer by layer and target by target, why, and what it cost.

Export and ``check`` write it, people and ``report.html`` read it. The verdict that decides whether a graph may run stays in
the manifest; this file explains it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dmdkit.errors import BundleError
from dmdkit.files import write_json
from dmdkit.records import Record, read_record

__all__ = [
    "INT8_REPORT",
    "ActivationRange",
    "CandidateRecord",
    "CoverageRecord",
    "ErrorFigures",
    "Int8Report",
    "LatencyRecord",
    "LayerChoice",
    "LayerRecord",
    "MetricRecord",
    "ModalityCoverage",
    "SearchRecord",
    "StratumRecord",
    "TargetRecord",
    "int8_report_or_why",
    "read_int8_report",
    "write_int8_report",
]

INT8_REPORT = "report/int8.json"
_MAX_BYTES = 16 << 20

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[float, Field(ge=0.0)]
CalibrationMethod = Literal["max", "entropy", "percentile", "mse"]


class ErrorFigures(Record):
    """Absolute error of an output against the fp32 graph, over samples and output entries."""

    max: Size
    p99: Size
    sqnr_db: float | None = Field(None, description="signal to quantisation noise; None: no error, or no signal")


class ActivationRange(Record):
    """What one operand of a layer was on the calibration samples."""

    operand: Literal[0, 1]
    minimum: float
    maximum: float
    p99_9: Size = Field(description="99.9 % of the values that are not exactly zero are at most this large, in magnitude")
    zero_share: Share = Field(description="share of exact zeros: padding, and what a ReLU cut off")
    scale: Size | None = Field(None, description="width of an INT8 level chosen for it; None: this operand stays in float")


class LayerChoice(Record):
    """What one target does with a layer."""

    stored: Literal["int8", "fp16", "fp32", "none"] = Field(description="of the weights; none: both operands are activations")
    computed: Literal["int8", "fp16", "fp32"]
    reason: str
    latency_ratio: Size | None = Field(
        None, description="integer over float arithmetic of this layer alone, medians, measured at export; None: not measured"
    )


class LayerRecord(Record):
    """One matrix product or convolution.

    ``score_error`` and ``edge_error`` are those of the whole model when only this layer computes in INT8 (activations and
    weights); None: not measured, or the model has no edges.
    """

    name: str = Field(description="of the node in the graph")
    kind: Literal["MatMul", "Gemm", "Conv"]
    graphs: list[str] = Field(description="graph kinds that hold it: fusion, explain, text")
    weight_shape: list[Count] = Field(description="empty: both operands are activations")
    multiply_adds: Count = Field(description="per sample")
    score_error: ErrorFigures | None = None
    edge_error: ErrorFigures | None = None
    activations: list[ActivationRange] = Field(default_factory=list)
    targets: dict[str, LayerChoice] = Field(default_factory=dict, description="by precision: int8-cpu, int8-trt")

    @property
    def reads_words(self) -> bool:
        """Whether it is a text encoder's."""
        return self.graphs == ["text"]

    @property
    def title(self) -> str:
        """Its name for people: a text encoder's layers have names like those of any BERT."""
        name = self.name.removeprefix("/")
        return f"text: {name}" if self.reads_words else name


class CandidateRecord(Record):
    """One thing that was tried for a target, and how far it was from fp32 on the search samples."""

    what: str = Field(description="in words: 'max', 'percentile, 3 layers in float'")
    method: CalibrationMethod | None = Field(None, description="None: no activation ranges are used")
    calibration_samples: Count = 0
    layers_in_float: Count = 0
    score_error: ErrorFigures
    correlation: float | None = None
    edge_change: Size | None = Field(None, description="largest change of a GD-Unit edge")
    status: Literal["passed", "failed", "unverified"]
    reason: str
    chosen: bool = False


class LatencyRecord(Record):
    """One sample, one thread, ONNX Runtime's CPU, paired with the fp32 graph in interleaved rounds."""

    status: Literal["measured", "simulated", "not measured here"]
    ratio: Size | None = Field(None, description="median over the rounds of INT8 / fp32")
    interval: tuple[float, float] | None = Field(None, description="95 % of that median, from its rank")
    rounds: Count = 0
    machine: dict[str, str] = Field(default_factory=dict)


class MetricRecord(Record):
    """A task metric of fp32 and of this graph on the parity samples."""

    name: str
    before: float
    after: float
    interval: tuple[float, float] | None = Field(None, description="paired bootstrap, 95 %, of the change")


class TargetRecord(Record):
    """One compressed graph."""

    graph: str = Field(description="its name in the manifest: fusion.int8-cpu")
    precision: str
    method: CalibrationMethod | None = Field(None, description="None: no activation ranges are used")
    candidates: list[CandidateRecord] = Field(default_factory=list)
    size_bytes: Count
    fp32_size_bytes: Count
    fp16_size_bytes: Count | None = Field(None, description="None: the bundle has no fp16 form of this graph")
    stored_int8: Share = Field(description="of the weight-matrix elements")
    computed_int8: Share = Field(description="of the multiply-adds")
    latency: LatencyRecord
    metrics: list[MetricRecord] = Field(default_factory=list)
    fp16_metrics: list[MetricRecord] = Field(default_factory=list)
    parity: Literal["passed", "failed", "unverified"]
    samples: Count = Field(description="on which parity was judged")
    worth_it: bool | None = Field(description="None: cannot be said from here")
    sentence: str = Field(description="use it, or not worth it here, and why")

    @property
    def size_ratio(self) -> float:
        """Size of the file over the fp32 graph's."""
        return self.size_bytes / self.fp32_size_bytes if self.fp32_size_bytes else 0.0


class StratumRecord(Record):
    """A part of the labels: an interval, or a class (then low equals high)."""

    low: float
    high: float
    available: Count
    chosen: Count


class ModalityCoverage(Record):
    """How much of a modality's training data the calibration samples show."""

    range_share: Share = Field(description="mean over columns of their range over the training range")
    extremes: Count = Field(description="samples taken because they hold an extreme of this modality")
    empty_available: Count = Field(description="training samples where this modality is all zero")
    empty_chosen: Count


class CoverageRecord(Record):
    """Which samples calibrated."""

    samples: Count
    available: Count
    strata: list[StratumRecord]
    modalities: dict[str, ModalityCoverage]


class SearchRecord(Record):
    """How the layers were ranked and chosen."""

    mode: Literal["auto", "none"]
    split: str = Field(description="where the samples came from; never the parity samples")
    samples: Count
    budget_s: Size
    seconds: Size = Field(description="spent, earlier interrupted attempts included")
    complete: bool = Field(description="False: the time ran out before every layer was measured or parity was reached")


class Int8Report(Record):
    """``report/int8.json``."""

    schema_version: Literal[1] = 1
    created: str
    calibration: CoverageRecord | None
    search: SearchRecord | None
    layers: list[LayerRecord]
    targets: list[TargetRecord]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Int8Report:
        for what, names in (("layers", [i.name for i in self.layers]), ("targets", [i.graph for i in self.targets])):
            if len(set(names)) != len(names):
                raise ValueError(f"{what}: a name occurs twice")
        return self


def write_int8_report(bundle: Path, report: Int8Report) -> None:
    """Writes ``report/int8.json`` atomically."""
    write_json(bundle / INT8_REPORT, report.model_dump(mode="json"), BundleError, inside=bundle)


def read_int8_report(bundle: Path) -> Int8Report | None:
    """The report of a bundle; None where it has none.

    Raises:
        BundleError: Unreadable, too large, damaged, or of another version.
    """
    path = bundle / INT8_REPORT
    if not path.exists():
        return None
    return read_record(
        path, Int8Report, inside=bundle, max_bytes=_MAX_BYTES, advice="export the bundle again", error=BundleError, strict=True
    )


def int8_report_or_why(bundle: Path) -> tuple[Int8Report | None, str]:
    """The report of a bundle, or None and, where there is one that cannot be read, why.

    For those who go on without it: it advises, and no verdict rests on it.
    """
    try:
        return read_int8_report(bundle), ""
    except BundleError as cause:
        return None, str(cause)
