"""Which calibration method, and which layers go back to float, so that static INT8 answers like fp32."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dmdkit.calibration.ranges import Statistics, scale_of
from dmdkit.calibration.search.layer_toggles import LayerToggles
from dmdkit.calibration.search.sensitivity import error_figures
from dmdkit.parity.compare import COMPRESSED_P99_ERROR_SD, EDGE_MAX_CHANGE, HopRecord
from dmdkit.parity.int8_report import CalibrationMethod, CandidateRecord

__all__ = ["Judge", "MethodChoice", "candidate", "choose_method", "keep_in_float", "with_room"]

Array = npt.NDArray[np.float32]
Judge = Callable[[dict[str, Array], dict[str, Array]], HopRecord]
"""Compares the outputs of the fp32 graph with a candidate's on the search samples, by the limits of the parity verdict."""


ROOM = 0.5
"""Part of the limits that a candidate may use on the search samples. The largest error of few samples grows with more of them:
edges that moved by 0.013 on 74 validation utterances of CMU-MOSI moved by 0.022 on 209 test utterances, over the limit."""


def with_room(judge: Judge) -> Judge:
    """``judge``, stricter: it fails what passes with less room than samples it has not seen will need."""

    def strict(before: dict[str, Array], after: dict[str, Array]) -> HopRecord:
        hop = judge(before, after)
        if hop.status == "failed":
            return hop
        near = []
        edges = max((edge.max_change for edge in hop.edges), default=0.0)
        if edges > ROOM * EDGE_MAX_CHANGE:
            near.append(f"edge change {edges:.3g} > {ROOM:g} x {EDGE_MAX_CHANGE:g}")
        limit = COMPRESSED_P99_ERROR_SD * (hop.output_sd or 0.0)
        if hop.top1_agreement is None and hop.p99_error is not None and hop.p99_error > ROOM * limit:
            near.append(f"p99 error {hop.p99_error:.3g} > {ROOM:g} x {limit:.3g}")
        if not near:
            return hop
        reason = f"too near the limit for samples not seen here: {'; '.join(near)}"
        return hop.model_copy(update={"status": "failed", "reason": reason})

    return strict


def candidate(
    what: str,
    hop: HopRecord,
    before: Mapping[str, Array],
    after: Mapping[str, Array],
    *,
    output: str = "score",
    method: CalibrationMethod | None = None,
    calibration_samples: int = 0,
    layers_in_float: int = 0,
) -> CandidateRecord:
    """The record of one thing that was tried."""
    return CandidateRecord(
        what=what,
        method=method,
        calibration_samples=calibration_samples,
        layers_in_float=layers_in_float,
        score_error=error_figures(before[output], after[output]),
        correlation=hop.correlation,
        edge_change=max((edge.max_change for edge in hop.edges), default=None),
        status=hop.status,
        reason=hop.reason,
    )


@dataclass(frozen=True)
class MethodChoice:
    """The method with the best parity, its scales per tensor, and what every method gave."""

    method: CalibrationMethod
    scales: dict[str, float]
    tried: list[CandidateRecord] = field(default_factory=list)


def _use(record: CandidateRecord) -> tuple[bool, float]:
    """Smaller is better: a failed one last, then by the error that 99 % of the samples stay under."""
    return record.status == "failed", record.score_error.p99


def choose_method(
    toggles: LayerToggles,
    statistics: Mapping[str, Statistics],
    validation: Mapping[str, Array],
    judge: Judge,
    methods: Sequence[CalibrationMethod],
    *,
    calibration_samples: int,
    output: str = "score",
) -> MethodChoice:
    """Tries each method with every placed layer in INT8 and takes the one with the smallest error.

    Args:
        toggles: The graph with its switches.
        statistics: Per activation tensor, on the calibration samples.
        validation: Input name -> (N, ...), samples the search is scored on.
        judge: Parity verdict on the validation samples.
        methods: To try, at least one; on equal errors the first wins.
        calibration_samples: Behind ``statistics``, for the record.
        output: The output whose error counts.
    """
    before = toggles.run(validation)
    tried, scales = [], {}
    for method in methods:
        scales[method] = {name: scale_of(statistics[name], method) for name in toggles.tensors}
        after = toggles.run(validation, stored=toggles.stored, computed=toggles.computed, scales=scales[method])
        record = candidate(
            method, judge(before, after), before, after, output=output, method=method, calibration_samples=calibration_samples
        )
        tried.append(record)
    best = min(tried, key=_use)
    assert best.method is not None
    return MethodChoice(best.method, scales[best.method], tried)


def keep_in_float(
    toggles: LayerToggles,
    validation: Mapping[str, Array],
    judge: Judge,
    choice: MethodChoice,
    ranking: Sequence[str],
    *,
    output: str = "score",
    deadline: float = math.inf,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[list[str], list[CandidateRecord]]:
    """Layers to compute in float, most harmful first, until the parity verdict no longer fails; and what was tried.

    Weights stay INT8 everywhere. When the ranking or the time runs out first, the last attempt stands and the verdict on the
    parity samples says so.
    """
    kept: list[str] = []
    tried: list[CandidateRecord] = []
    before = toggles.run(validation)
    order = [name for name in ranking if name in toggles.computed]
    for number, name in enumerate(order):
        if time.monotonic() > deadline:
            break
        kept.append(name)
        computed = [layer for layer in toggles.computed if layer not in kept]
        after = toggles.run(validation, stored=toggles.stored, computed=computed, scales=choice.scales)
        hop = judge(before, after)
        what = f"{choice.method}, {len(kept)} layer{'s' if len(kept) > 1 else ''} in float"
        tried.append(candidate(what, hop, before, after, output=output, method=choice.method, layers_in_float=len(kept)))
        on_progress(number + 1, len(order))
        if hop.status != "failed":
            break
    return kept, tried
