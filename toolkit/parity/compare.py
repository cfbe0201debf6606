"""How far apart two versions of the model are, and whether that is near enough.

Every hop compares a model with the one it was made from on real held-out samples. The limits stand in docs/bundle.md; loosening
one needs a written reason beside it.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from dmdkit.metrics import classification_metrics, correlation, midpoint, paired_bootstrap_interval, regression_metrics
from dmdkit.parity.evidence import Evidence, evidence_of
from dmdkit.runtime.self_check import FP32_MAX_ERROR

__all__ = [
    "MIN_VERIFIED_SAMPLES",
    "EdgeChange",
    "HopRecord",
    "LogitChange",
    "MetricChange",
    "compare",
]

Array = npt.NDArray[np.float32]
Task = Literal["regression", "classification"]
Status = Literal["passed", "failed", "unverified"]

COMPRESSED_MIN_CORRELATION = 0.995
"""INT8 and fp16, regression: correlation with fp32."""

COMPRESSED_P99_ERROR_SD = 0.25
"""INT8 and fp16: 99th percentile of the error in standard deviations of the output."""

COMPRESSED_LOGIT_ERROR_SD = 0.25
"""INT8 and fp16, each unimodal logit: root mean square of the error in its own standard deviations, which allows a correlation
of 0.97. They are told beside the answer and are not it, and one modality's features may have a tail that fixed ranges cut: with
``int8-trt`` and CMU-MOSI's vision the 99th percentile is at 0.44 to 0.63 deviations, the root mean square at 0.12 to 0.17."""

COMPRESSED_SMALL_LOGIT = 0.1
"""INT8 and fp16: a unimodal logit that varies by less than this share of the score is judged as if it varied by as much: what
it says is less than the error that the score may have."""

COMPRESSED_MAE_SHARE = 0.02 / 6
"""INT8 and fp16, regression: the 95 % interval of the change in MAE lies within +- this share of the label range."""

COMPRESSED_MIN_AGREEMENT = 0.98
"""INT8 and fp16, classes: share of samples with the same top class."""

EDGE_MAX_CHANGE = 0.02
"""Every hop: largest change of a normalised edge."""

CPP_MAX_ERROR = 1e-6
"""Python to C++, every output: both call one ONNX Runtime, so what differs is the reading of files and copying of arrays."""

MIN_VERIFIED_SAMPLES = 50
"""Fewer samples prove nothing: the verdict is then ``unverified``."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MetricChange(_Record):
    """One task metric before and after the hop; the interval is the paired bootstrap's 95 %, where one is defined."""

    before: float | None
    after: float | None
    interval: tuple[float, float] | None = None


class EdgeChange(_Record):
    """Largest change of any edge of one space, and every edge before and after, averaged over the samples."""

    space: Literal["homo", "hetero"]
    max_change: float
    before: list[float] = []
    after: list[float] = []


class LogitChange(_Record):
    """How far one modality's unimodal logits are from those before: all classes of all samples together.

    Attributes:
        name: ``logit_homo`` or ``logit_hetero``, and the modality's place in the bundle's ``modality_order``.
        rms_error: Root mean square of the error.
        sd: Standard deviation before.
    """

    name: str
    rms_error: float
    sd: float

    def misses(self, score_sd: float) -> str | None:
        """Why this is too far for a compressed graph whose score has this standard deviation, or None."""
        bound = COMPRESSED_LOGIT_ERROR_SD * max(self.sd, COMPRESSED_SMALL_LOGIT * score_sd)
        return f"{self.name}: rms error {self.rms_error:.6g} > {bound:.6g}" if self.rms_error > bound else None


class HopRecord(_Record):
    """One hop of the ledger.

    Errors are absolute and of the score; an fp32 hop's ``max_error`` takes the unimodal logits in, that of a hop between
    two languages every output. Outputs that are missing, misshapen or not finite fail the hop without numbers, and the
    reason says why. ``logits`` hold the unimodal ones; a compressed graph is judged by each. ``limits`` are those the hop was
    judged by: ``max_error``, ``p99_error``, ``correlation``,
    ``top1_agreement``, ``mae_change``, ``edge_change``.
    """

    source: str
    target: str
    kind: Literal["measured", "recorded", "simulated"]
    samples: int
    worst_sample: str
    status: Status
    reason: str
    max_error: float | None = None
    mean_error: float | None = None
    p99_error: float | None = None
    output_sd: float | None = None
    cosine: float | None = None
    sqnr_db: float | None = None
    sign_flips: int = 0
    correlation: float | None = None
    top1_agreement: float | None = None
    metrics: dict[str, MetricChange] = {}
    edges: list[EdgeChange] = []
    logits: list[LogitChange] = []
    limits: dict[str, float] = {}
    evidence: Evidence | None = None

    def without_sample_values(self) -> HopRecord:
        """The record without scores and labels of single samples."""
        return self if self.evidence is None else self.model_copy(update={"evidence": self.evidence.without_values()})


def _cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float | None:
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else None


def _sqnr_db(signal: npt.NDArray[np.float64], noise: npt.NDArray[np.float64]) -> float | None:
    power, noise_power = float(signal @ signal), float(noise @ noise)
    return 10 * math.log10(power / noise_power) if power > 0 and noise_power > 0 else None


def _metric_changes(
    before: Array,
    after: Array,
    labels: npt.NDArray[np.float32] | npt.NDArray[np.int64],
    task: Task,
    label_range: tuple[float, float] | None,
) -> dict[str, MetricChange]:
    if task == "classification":
        old, new = classification_metrics(before, labels), classification_metrics(after, labels)
        hits = [(scores.argmax(1) == labels).astype(np.float64) for scores in (before, after)]
        intervals = {"accuracy": paired_bootstrap_interval(hits[0], hits[1])}
    else:
        old, new = (
            regression_metrics(before[:, 0], labels, label_range),
            regression_metrics(after[:, 0], labels, label_range),
        )
        errors = [np.abs(values[:, 0].astype(np.float64) - labels) for values in (before, after)]
        middle = midpoint(label_range)
        name, border = ("acc2_has_zero", 0.0) if middle is None else ("acc2_midpoint", middle)
        hits = [((values[:, 0] >= border) == (labels >= border)).astype(np.float64) for values in (before, after)]
        intervals = {
            "mae": paired_bootstrap_interval(errors[0], errors[1]),
            name: paired_bootstrap_interval(hits[0], hits[1]),
        }
    return {name: MetricChange(before=old[name], after=new[name], interval=intervals.get(name)) for name in old}


def _limits(
    precision: str, task: Task, output_sd: float, range_width: float | None, max_error: float | None
) -> dict[str, float]:
    """What a hop is judged by; correlation and agreement are least values, the others largest.

    ``max_error`` replaces the limits of the precision.
    """
    if max_error is not None:
        limits = {"max_error": max_error}
    elif precision == "fp32":
        limits = {"max_error": FP32_MAX_ERROR * max(1.0, output_sd)}
    else:
        limits = {"p99_error": COMPRESSED_P99_ERROR_SD * output_sd}
        if task == "classification":
            # Both: where one class is predicted for every sample, agreement says nothing about the numbers behind it.
            limits = {"top1_agreement": COMPRESSED_MIN_AGREEMENT, **limits}
        else:
            limits = {"correlation": COMPRESSED_MIN_CORRELATION, **limits}
            if range_width is not None:
                limits["mae_change"] = COMPRESSED_MAE_SHARE * range_width
    return {**limits, "edge_change": EDGE_MAX_CHANGE}


_WORDS = {
    "max_error": "max error",
    "p99_error": "p99 error",
    "top1_agreement": "top-1 agreement",
    "mae_change": "change in MAE (95 % interval)",
    "edge_change": "edge change",
}


def _judge(found: dict[str, float | None], limits: dict[str, float]) -> list[str]:
    """Every limit that was missed, in words; a change in MAE is judged only where there is one."""
    missed = []
    for name, bound in limits.items():
        value, at_least = found.get(name), name in ("correlation", "top1_agreement")
        if value is None:
            if name != "mae_change":
                missed.append(f"{_WORDS.get(name, name)} is undefined")
        elif (value < bound) if at_least else (value > bound):
            missed.append(f"{_WORDS.get(name, name)} {value:.6g} {'<' if at_least else '>'} {bound:.6g}")
    return missed


def _flaws(target: str, before: dict[str, Array], after: dict[str, Array]) -> list[str]:
    """Why the outputs cannot be compared, in words."""
    found = []
    for name, then in before.items():
        now = after.get(name)
        if now is None:
            found.append(f"{name} missing from {target}")
        elif now.shape != then.shape:
            found.append(f"{name} has shape {now.shape} in {target}, expected {then.shape}")
        elif not (np.isfinite(now).all() and np.isfinite(then).all()):
            found.append(f"{name} holds values that are not finite")
    return found


def _logit_changes(before: dict[str, Array], after: dict[str, Array]) -> list[LogitChange]:
    """Every modality of every ``logit_*`` (N, 3, C)."""
    changes = []
    for name in before:
        if not name.startswith("logit_"):
            continue
        for place in range(before[name].shape[1]):
            then, now = (found[name][:, place].astype(np.float64).ravel() for found in (before, after))
            changes.append(
                LogitChange(
                    name=f"{name}[{place}]",
                    rms_error=float(np.sqrt(np.mean((now - then) ** 2))),
                    sd=float(then.std()),
                )
            )
    return changes


def _worst_sample(before: Array, after: Array | None) -> int:
    """The sample with the largest error of the score, or the first that is not finite; 0 where there is nothing to compare."""
    if after is None or after.shape != before.shape:
        return 0
    with np.errstate(invalid="ignore", over="ignore"):
        return int(np.abs(after - before).max(1).argmax())


def compare(
    source: str,
    target: str,
    before: dict[str, Array],
    after: dict[str, Array],
    *,
    precision: str,
    task: Task,
    label_range: tuple[float, float] | None,
    labels: npt.NDArray[np.float32] | npt.NDArray[np.int64] | None,
    ids: tuple[str, ...] | list[str],
    kind: Literal["measured", "recorded", "simulated"] = "measured",
    max_error: float | None = None,
    distinct: int | None = None,
) -> HopRecord:
    """Compares the outputs of two versions of the model on the same samples.

    Args:
        source: Name of the version before the hop.
        target: Name of the version after it.
        before: Output name -> array with the batch first; ``score`` (N, C) must be there, ``edges_*`` (N, 6) may.
        after: The same outputs of the target; one that is missing, misshapen or not finite fails the hop.
        precision: fp32 asks for equality up to rounding; anything else for the compressed limits.
        task: regression or classification.
        label_range: Range of a regression label.
        labels: (N,), or None where the samples have none; metrics are then left out.
        ids: N sample names.
        kind: measured, simulated or recorded.
        max_error: Largest difference allowed on any output, edges too, in place of the precision's limits: for one graph
            run by two programs.
        distinct: Number of different samples; None: all of them.
    """
    assert before["score"].shape[0] == len(ids), "every sample has a name"
    worst = ids[_worst_sample(before["score"], after.get("score"))]
    flaws = _flaws(target, before, after)
    if flaws:
        return HopRecord(
            source=source,
            target=target,
            kind=kind,
            samples=len(ids),
            worst_sample=worst,
            status="failed",
            reason="; ".join(flaws),
        )

    old, new = before["score"].astype(np.float64), after["score"].astype(np.float64)
    error = np.abs(new - old)
    changes = {name: float(np.abs(after[name].astype(np.float64) - then).max()) for name, then in before.items()}
    judged = [
        name
        for name in changes
        if name == "score" or max_error is not None or (precision == "fp32" and not name.startswith("edges_"))
    ]
    edges = [
        EdgeChange(
            space="homo" if name.endswith("homo") else "hetero",
            max_change=change,
            before=[float(value) for value in before[name].mean(0)],
            after=[float(value) for value in after[name].mean(0)],
        )
        for name, change in changes.items()
        if name.startswith("edges_")
    ]
    metrics = {} if labels is None else _metric_changes(before["score"], after["score"], labels, task, label_range)
    values: dict[str, float | None] = {
        "max_error": max(change for name, change in changes.items() if name in judged),
        "mean_error": float(error.mean()),
        "p99_error": float(np.percentile(error, 99)),
        "output_sd": float(old.std()),
        "cosine": _cosine(old.ravel(), new.ravel()),
        "sqnr_db": _sqnr_db(old.ravel(), (new - old).ravel()),
        "correlation": correlation(old, new),
        "top1_agreement": float(np.mean(old.argmax(1) == new.argmax(1))) if task == "classification" else None,
    }
    width = None if label_range is None else label_range[1] - label_range[0]
    limits = _limits(precision, task, values["output_sd"] or 0.0, width, max_error)
    mae = metrics["mae"].interval if "mae" in metrics else None
    judged_values = {
        **values,
        "edge_change": max((edge.max_change for edge in edges), default=0.0),
        "mae_change": None if mae is None else max(abs(mae[0]), abs(mae[1])),
    }
    count = len(ids) if distinct is None else distinct
    if count < MIN_VERIFIED_SAMPLES and (values["output_sd"] or 0.0) <= FP32_MAX_ERROR:
        # One sample, or copies of it, have no spread but that of reordered sums in batches of other sizes: what is measured in
        # units of it says nothing either way.
        limits = {name: bound for name, bound in limits.items() if name not in ("correlation", "p99_error")}
    missed = _judge(judged_values, limits)
    logits = _logit_changes(before, after)
    if "p99_error" in limits and count >= MIN_VERIFIED_SAMPLES:
        missed += [miss for change in logits if (miss := change.misses(values["output_sd"] or 0.0))]
    status: Status = "failed" if missed else "passed"
    reason = "; ".join(missed) if missed else "within every limit"
    if not missed and count < MIN_VERIFIED_SAMPLES:
        found = f"{len(ids)} samples" if count == len(ids) else f"{count} different samples among {len(ids)}"
        status, reason = "unverified", f"{found}, {MIN_VERIFIED_SAMPLES} are needed to prove anything"
    elif not missed and kind == "recorded":
        status, reason = "unverified", "recorded at export, not measured now"
    elif not missed and precision != "fp32" and max_error is None and task == "regression" and "mae" not in metrics:
        status, reason = "unverified", "without labels the change in MAE is not known"
    return HopRecord(
        source=source,
        target=target,
        kind=kind,
        samples=len(ids),
        worst_sample=worst,
        status=status,
        reason=reason,
        sign_flips=int(np.sum((old >= 0) != (new >= 0))) if task == "regression" else 0,
        metrics=metrics,
        edges=edges,
        logits=logits,
        limits=limits,
        evidence=evidence_of(before["score"], after["score"], labels, ids),
        **values,
    )
