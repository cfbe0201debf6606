"""The INT8 part of an export: plans it on samples that prove nothing later, and writes report/int8.json."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dmdkit.calibration import CalibrationSet
from dmdkit.calibration.samples import search_samples
from dmdkit.calibration.search.planning import Int8Plan, Progress, Samples, SearchOptions
from dmdkit.calibration.search.static import Judge
from dmdkit.calibration.text.planning import TextPlan, plan_text_int8
from dmdkit.data import Dataset, Split
from dmdkit.data.overlap import distinct_samples
from dmdkit.export.graphs import ExportedGraph, plan_for
from dmdkit.export.text_export import tokens_of
from dmdkit.parity.compare import Task, compare
from dmdkit.parity.int8_report import Int8Report, LatencyRecord, LayerRecord, SearchRecord, write_int8_report
from dmdkit.parity.int8_verdict import Tried, judge_targets
from dmdkit.parity.ledger import Ledger
from dmdkit.parity.paired_latency import latency_record
from dmdkit.runtime.backends.onnxruntime import cpu_session
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.manifest import Manifest
from dmdkit.training.run import Run

__all__ = ["Int8Exporter", "calibration_method", "search_judge", "text_int8_graphs", "with_fp16_rest", "write_int8"]

Array = npt.NDArray[np.float32]


def search_judge(validation: Split, task: Task, label_range: tuple[float, float] | None) -> Judge:
    """The parity verdict on the samples that a search is scored on: a function of the outputs before and after.

    Args:
        validation: Those samples.
        task: Regression or classification.
        label_range: Smallest and largest label; None for classes.
    """
    distinct = distinct_samples(validation)
    return lambda before, after: compare(
        "fp32",
        "candidate",
        before,
        after,
        precision="int8-trt",
        task=task,
        label_range=label_range,
        labels=validation.labels,
        ids=validation.ids,
        distinct=distinct,
    )


@dataclass(frozen=True)
class Int8Exporter:
    """What INT8 is planned with.

    Attributes:
        run: The run the graphs were exported from.
        calibration: Samples to calibrate on.
        validation_name: Name of those samples, for the record.
        validation: Samples the search is scored on; parity is measured on others.
        search: Method, time limit and mode of the search.
        progress: Called at every step, and within long ones with (done, total).
    """

    run: Run
    calibration: CalibrationSet
    validation_name: str
    validation: Split
    search: SearchOptions
    progress: Progress

    @classmethod
    def of(
        cls,
        run: Run,
        dataset: Dataset,
        calibration: CalibrationSet,
        search: SearchOptions,
        held_out: Mapping[str, Split],
        progress: Progress,
    ) -> Int8Exporter:
        """The stage for a run.

        Args:
            run: The run that is exported.
            dataset: The feature file that calibrates.
            calibration: The calibration samples chosen from the dataset.
            search: Method, time limit and mode of the search.
            held_out: What parity will be measured on, by name; it chooses nothing.
            progress: Called at every step, and within long ones with (done, total).
        """
        name, validation = search_samples(dataset, calibration, held_out=held_out)
        return cls(run, calibration, name, validation, search, progress)

    def _judge(self) -> Judge:
        return search_judge(self.validation, self.run.facts.task, self.run.facts.label_range)

    def plan(self, graphs: list[ExportedGraph]) -> Int8Plan:
        """The plan for the fusion and explain graphs among ``graphs``, which are fp32."""
        features = self.calibration.split.inputs(), self.validation.inputs()
        return plan_for(graphs, Samples(*features, self.validation_name, self._judge()), self.search, self.progress)

    def text_plan(self, text: ExportedGraph, fusion: ExportedGraph) -> TextPlan:
        """The plan for ``text``, judged by the score that ``fusion`` makes of its features; both are fp32."""
        head = cpu_session(fusion.model.SerializeToString())
        others = {name: array for name, array in self.validation.features().items() if name != "text"}

        def score(outputs: dict[str, Array]) -> dict[str, Array]:
            return {"score": head.run(["score"], {**others, "text": outputs["text"]})[0]}

        tokens = tokens_of(self.calibration.split), tokens_of(self.validation)
        samples = Samples(*tokens, self.validation_name, self._judge(), score)
        return plan_text_int8(text.model, samples, self.search, self.progress)


def text_int8_graphs(plan: TextPlan) -> list[ExportedGraph]:
    """The INT8 forms of ``text.fp32``."""
    return [
        ExportedGraph.lowered("text", "int8-cpu", plan.for_cpu),
        ExportedGraph.lowered("text", "int8-trt", plan.for_engine),
    ]


def calibration_method(plans: Sequence[Int8Plan]) -> str:
    """How static ranges were chosen, for the manifest.

    ``plans``: the fusion graph's, then a text encoder's if there is one, which chooses its own method.
    """
    first, *others = plans
    return ", ".join([first.method, *(f"text: {p.method}" for p in others if p.scales and p.method != first.method)])


def _latencies(directory: Path) -> dict[str, LatencyRecord]:
    """Of the INT8 graphs that a CPU runs for real, over fp32, on this machine."""
    bundle = Bundle.open(directory)
    wanted = [
        name
        for name, graph in bundle.manifest.graphs.items()
        if graph.precision.startswith("int8") and not graph.simulated_on_cpu and f"{graph.kind}.fp32" in bundle.manifest.graphs
    ]
    return {name: latency_record(bundle, name) for name in wanted}


def with_fp16_rest(layers: Iterable[LayerRecord], kept_fp32: Mapping[str, Collection[str]]) -> list[LayerRecord]:
    """The layers after the float rest of ``int8-trt`` became fp16.

    ``kept_fp32``: graph kind -> the nodes that stayed in fp32; layers of other kinds are as before.
    """

    def changed(layer: LayerRecord) -> LayerRecord:
        choice = layer.targets.get("int8-trt")
        kept = next((kept_fp32[kind] for kind in layer.graphs if kind in kept_fp32), None)
        if choice is None or choice.computed != "fp32" or kept is None or layer.name in kept:
            return layer
        half = choice.model_copy(update={"computed": "fp16"})
        return layer.model_copy(update={"targets": layer.targets | {"int8-trt": half}})

    return [changed(layer) for layer in layers]


def _together(searches: Sequence[SearchRecord]) -> SearchRecord | None:
    """One record of all searches, which judged on the same samples."""
    if not searches:
        return None
    spent, budget = sum(s.seconds for s in searches), sum(s.budget_s for s in searches)
    complete = all(s.complete for s in searches)
    return searches[0].model_copy(update={"seconds": spent, "budget_s": budget, "complete": complete})


def write_int8(
    directory: Path,
    plans: Sequence[Int8Plan],
    calibration: CalibrationSet,
    manifest: Manifest,
    ledger: Ledger | None,
    search: SearchOptions,
    on_step: Callable[[str], None],
    kept_fp32: Mapping[str, Collection[str]],
) -> None:
    """Writes report/int8.json into a bundle whose parity was measured, or not; with a search, latencies are measured now.

    ``kept_fp32``: graph kind -> the nodes that stayed in fp32 where the rest of ``int8-trt`` became fp16.
    """
    latencies: dict[str, LatencyRecord] = {}
    if search.mode == "auto":
        on_step("int8 latency")
        latencies = _latencies(directory)
    layers = [layer for plan in plans for layer in plan.layers]
    tried = {}
    for name, graph in manifest.graphs.items():
        plan = next((p for p in plans if any(graph.kind in layer.graphs for layer in p.layers)), None)
        if plan is not None:
            calibrated = manifest.calibration is not None and name in manifest.calibration.used_by
            # A text encoder has no static ranges on a CPU: its calibration samples say how far to smooth.
            static = calibrated and not (graph.kind == "text" and graph.precision == "int8-cpu")
            tried[name] = Tried(plan.method if static else None, tuple(plan.tried.get(graph.precision, ())))
    report = Int8Report(
        created=manifest.created,
        calibration=calibration.coverage,
        search=_together([plan.search for plan in plans if plan.search is not None]),
        layers=with_fp16_rest(layers, kept_fp32),
        targets=judge_targets(manifest, ledger, tried, latencies),
    )
    write_int8_report(directory, report)
