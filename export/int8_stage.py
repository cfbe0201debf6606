"""The INT8 part of an export: plans it on samples that prove nothing later, and writes report/int8.json."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from dmdkit.calibration import CalibrationSet
from dmdkit.calibration.planning import Int8Plan, Progress, Samples, SearchOptions
from dmdkit.calibration.samples import search_samples
from dmdkit.calibration.search import Judge
from dmdkit.data import Dataset, Split
from dmdkit.export.graphs import ExportedGraph, plan_for
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.int8_report import Int8Report, LatencyRecord, LayerRecord, write_int8_report
from dmdkit.runtime.int8_verdict import Tried, judge_targets
from dmdkit.runtime.ledger import Ledger
from dmdkit.runtime.manifest import Manifest
from dmdkit.runtime.paired_latency import latency_record
from dmdkit.runtime.parity import compare
from dmdkit.training.run import Run

__all__ = ["int8_plan", "with_fp16_rest", "write_int8"]


def _judge(run: Run, held: Split) -> Judge:
    """The parity verdict on the search samples."""
    return lambda before, after: compare(
        "fp32",
        "candidate",
        before,
        after,
        precision="int8-trt",
        task=run.facts.task,
        label_range=run.facts.label_range,
        labels=held.labels,
        ids=held.ids,
    )


def int8_plan(
    run: Run,
    graphs: list[ExportedGraph],
    dataset: Dataset,
    calibration: CalibrationSet,
    search: SearchOptions,
    held_out: Mapping[str, Split],
    progress: Progress,
) -> Int8Plan:
    """The plan for the fusion and explain graphs of ``run``.

    Args:
        run: The run they were exported from.
        graphs: They, in fp32.
        dataset: The feature file that calibrates.
        calibration: The samples chosen from it.
        search: How to look.
        held_out: What parity will be measured on, by name; it chooses nothing.
        progress: Who hears of it.
    """
    name, held = search_samples(dataset, calibration, held_out=held_out)
    samples = Samples(calibration.split.features(), held.features(), name, _judge(run, held))
    return plan_for(graphs, samples, search, progress)


def _latencies(directory: Path) -> dict[str, LatencyRecord]:
    """Of the INT8 graphs that a CPU runs for real, over fp32, on this machine."""
    bundle = Bundle.open(directory)
    wanted = [
        name
        for name, graph in bundle.manifest.graphs.items()
        if graph.precision.startswith("int8") and not graph.simulated_on_cpu and f"{graph.kind}.fp32" in bundle.manifest.graphs
    ]
    return {name: latency_record(bundle, name) for name in wanted}


def with_fp16_rest(layers: Iterable[LayerRecord], kept_fp32: Collection[str]) -> list[LayerRecord]:
    """The layers after the float rest of ``int8-trt`` became fp16, except for the nodes named in ``kept_fp32``."""

    def changed(layer: LayerRecord) -> LayerRecord:
        choice = layer.targets.get("int8-trt")
        if choice is None or choice.computed != "fp32" or layer.name in kept_fp32:
            return layer
        half = choice.model_copy(update={"computed": "fp16"})
        return layer.model_copy(update={"targets": layer.targets | {"int8-trt": half}})

    return [changed(layer) for layer in layers]


def write_int8(
    directory: Path,
    plan: Int8Plan,
    calibration: CalibrationSet,
    manifest: Manifest,
    ledger: Ledger | None,
    search: SearchOptions,
    advance: Callable[[str], None],
    kept_fp32: Collection[str] | None = None,
) -> None:
    """Writes report/int8.json into a bundle whose parity was measured, or not; with a search, latencies are measured now.

    ``kept_fp32``: the nodes that stayed in fp32 where the rest of ``int8-trt`` became fp16; None: nothing did.
    """
    latencies: dict[str, LatencyRecord] = {}
    if search.mode == "auto":
        advance("int8 latency")
        latencies = _latencies(directory)
    tried = {}
    planned = {kind for layer in plan.layers for kind in layer.graphs}
    for name, graph in manifest.graphs.items():
        calibrated = manifest.calibration is not None and name in manifest.calibration.used_by
        if graph.kind not in planned:  # a text encoder has lowerings of its own
            continue
        tried[name] = Tried(plan.method if calibrated else None, tuple(plan.tried.get(graph.precision, ())))
    report = Int8Report(
        created=manifest.created,
        calibration=calibration.coverage,
        search=plan.search,
        layers=list(plan.layers) if kept_fp32 is None else with_fp16_rest(plan.layers, kept_fp32),
        targets=judge_targets(manifest, ledger, tried, latencies),
    )
    write_int8_report(directory, report)
