"""One sentence per compressed graph: use it, or not worth it here, from what was measured and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmdkit.parity.int8_report import CalibrationMethod, CandidateRecord, Int8Report, LatencyRecord, MetricRecord, TargetRecord
from dmdkit.parity.ledger import Ledger
from dmdkit.runtime.latency import machine_facts
from dmdkit.runtime.manifest import Manifest

__all__ = ["NOT_SLOWER", "SIMULATED", "Tried", "judge_targets", "judged_again"]

NOT_SLOWER = 1.03
"""Median paired latency over fp32 up to which INT8 counts as not slower."""

NOT_MEASURED = LatencyRecord(status="not measured here")
SIMULATED = LatencyRecord(status="simulated")


@dataclass(frozen=True)
class Tried:
    """How a graph came about: the calibration method, and everything that was tried."""

    method: CalibrationMethod | None
    candidates: tuple[CandidateRecord, ...] = ()


def _metrics(ledger: Ledger | None, graph: str) -> list[MetricRecord]:
    hop = next((hop for hop in ledger.hops if hop.target == graph), None) if ledger is not None else None
    return [
        MetricRecord(name=name, before=change.before, after=change.after, interval=change.interval)
        for name, change in (hop.metrics if hop is not None else {}).items()
        if change.before is not None and change.after is not None
    ]


def _change(metrics: list[MetricRecord]) -> str:
    main = next((metric for metric in metrics if metric.name in ("mae", "accuracy")), None)
    if main is None:
        return ""
    shown = f", {main.name.replace('mae', 'MAE')} {main.after - main.before:+.4f}"
    return shown + (f" [{main.interval[0]:+.4f}, {main.interval[1]:+.4f}]" if main.interval is not None else "")


def _sentence(
    parity: str, reason: str, size: float, fp16_size: float | None, change: str, latency: LatencyRecord
) -> tuple[bool | None, str]:
    what = f"{size:.2f} of the size" + (f" (fp16 {fp16_size:.2f})" if fp16_size is not None else "") + change
    if parity == "failed":
        return False, f"not worth it here: it does not answer like fp32 ({reason})"
    if parity != "passed":
        return None, f"cannot be said yet: {what}, but it is not proven ({reason})"
    if latency.status == "simulated":
        return None, f"use it on its device if it is faster there, which is not measured here: {what}, like fp32 in simulation"
    if latency.ratio is None:
        return None, f"use it where size counts: {what}; its speed is not measured here (dmdkit bench)"
    measured = f"{latency.ratio:.2f} of the latency" + (
        f" [{latency.interval[0]:.2f}, {latency.interval[1]:.2f}]" if latency.interval is not None else ""
    )
    if latency.ratio <= NOT_SLOWER:
        return True, f"use it: {what}, {measured}"
    return False, f"not worth it here unless size counts: {measured}, for {what}"


def judge_targets(
    manifest: Manifest,
    ledger: Ledger | None,
    tried: Mapping[str, Tried],
    latencies: Mapping[str, LatencyRecord],
    earlier: Mapping[str, list[MetricRecord]] | None = None,
) -> list[TargetRecord]:
    """A record per INT8 graph of the bundle.

    Args:
        manifest: The manifest with its verdicts.
        ledger: Parity as measured now; None: it was not.
        tried: Graph name -> how it came about.
        latencies: Graph name -> latency on this machine, where it was measured.
        earlier: Graph name -> metrics known from an earlier check, which stand where ``ledger`` has none (golden samples
            have no labels).
    """
    earlier = earlier or {}
    records = []
    for name, graph in manifest.graphs.items():
        base = manifest.graphs.get(f"{graph.kind}.fp32")
        if not graph.precision.startswith("int8") or base is None:
            continue
        half = manifest.graphs.get(f"{graph.kind}.fp16")
        half_name = f"{graph.kind}.fp16"
        size, full = (manifest.files[item.file].size_bytes for item in (graph, base))
        half_size = manifest.files[half.file].size_bytes if half is not None else None
        latency = SIMULATED if graph.simulated_on_cpu else latencies.get(name, NOT_MEASURED)
        metrics = _metrics(ledger, name) or earlier.get(name, [])
        worth_it, sentence = _sentence(
            graph.verdict.status,
            graph.verdict.reason,
            size / full,
            half_size / full if half_size is not None else None,
            _change(metrics),
            latency,
        )
        how = tried.get(name, Tried(None))
        records.append(
            TargetRecord(
                graph=name,
                precision=graph.precision,
                method=how.method,
                candidates=list(how.candidates),
                size_bytes=size,
                fp32_size_bytes=full,
                fp16_size_bytes=half_size,
                stored_int8=graph.weights_stored_int8,
                computed_int8=graph.multiply_adds_int8,
                latency=latency,
                metrics=metrics,
                fp16_metrics=_metrics(ledger, half_name) or earlier.get(half_name, []) if half is not None else [],
                parity=graph.verdict.status,
                samples=graph.verdict.samples,
                worth_it=worth_it,
                sentence=sentence,
            )
        )
    return records


def judged_again(report: Int8Report, manifest: Manifest, ledger: Ledger) -> Int8Report:
    """``report`` after a new parity check; a latency of another machine no longer counts."""
    here = machine_facts()
    return report.model_copy(
        update={
            "targets": judge_targets(
                manifest,
                ledger,
                {target.graph: Tried(target.method, tuple(target.candidates)) for target in report.targets},
                {t.graph: t.latency for t in report.targets if t.latency.status == "measured" and t.latency.machine == here},
                {target.graph: target.metrics for target in report.targets}
                | {f"{target.graph.split('.')[0]}.fp16": target.fp16_metrics for target in report.targets},
            )
        }
    )
