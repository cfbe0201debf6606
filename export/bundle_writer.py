"""Writes a bundle from a run: graphs, golden samples, manifest, and, where there is parity data, verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dmdkit import __version__
from dmdkit.calibration import CalibrationSet, calibration_set
from dmdkit.calibration.samples import DEFAULT_CALIBRATION_SAMPLES
from dmdkit.calibration.search.planning import Int8Plan, Progress, SearchOptions
from dmdkit.data import MODALITIES, Dataset, Split
from dmdkit.data.fingerprints import Fingerprints, SeenSamples
from dmdkit.errors import BundleError, CalibrationError, ExportError
from dmdkit.export.bundle_files import check_replaceable, file_records, golden_bytes, graph_files, record_outputs, write_bundle
from dmdkit.export.explain import explain_output_names
from dmdkit.export.fp16_forms import FP16_REPORT, Fp16Report, fp16_graphs
from dmdkit.export.graphs import ExportedGraph, fp32_graphs, int8_graphs
from dmdkit.export.int8_export import Int8Exporter, calibration_method, text_int8_graphs, write_int8
from dmdkit.export.reference import reference_outputs, unit_inputs
from dmdkit.export.step_graphs import step_graphs, stream_record_of
from dmdkit.export.text_export import TOKENIZER_FILE, TextExporter, tokens_of
from dmdkit.files import atomic_directory, sha256_of_bytes, write_json
from dmdkit.model.dmd import GRAPH_ORDER
from dmdkit.model.gd_unit import EDGES
from dmdkit.model.system import DmdSystem
from dmdkit.parity.held_out import CALIBRATION_FILE, SEEN_FILE
from dmdkit.parity.ledger import Ledger, measure, record
from dmdkit.records import streams_problem
from dmdkit.report import write_report
from dmdkit.runtime.bundle import Bundle, Golden
from dmdkit.runtime.engines.record import ENGINES
from dmdkit.runtime.format_version import REAL_STEPS_RECORD, TEXT_LENGTHS_RECORD
from dmdkit.runtime.manifest import (
    GoldenRecord,
    InputRecord,
    Manifest,
    OutputRecord,
    SourceRecord,
)
from dmdkit.training.evaluation import load_system
from dmdkit.training.run import InputFacts, Run, installed_versions, read_seen
from dmdkit.training.statistics import input_facts

__all__ = ["ExportOptions", "ParityData", "export_bundle"]

Array = npt.NDArray[np.float32]

GOLDEN_SAMPLES = 16
GOLDEN_FILE = "golden/golden.safetensors"
_GOLDEN_SEED = 20230321
_TOOLS = ("dmdkit", "torch", "onnx", "onnxruntime", "onnxscript", "nvidia-modelopt", "numpy", "transformers")
GoldenChoice = Literal["auto", "real", "synthetic"]


@dataclass(frozen=True)
class ParityData:
    """Held-out samples to measure parity on."""

    split: Split
    split_name: str
    source: str
    sha256: str


@dataclass(frozen=True)
class ExportOptions:
    """What to make.

    Attributes:
        int8: Whether to add the INT8 forms; needs ``calibration``.
        stream: Whether to add the step graphs, which answer step by step.
        fp16: Whether to add the fp16 forms, and to put the layers that ``int8-trt`` leaves in float into fp16.
        calibration: The feature file whose training split calibrates.
        calibration_samples: How many of its samples to use at most.
        search: How layers and the calibration method are chosen.
        parity: Where to measure parity; None leaves every verdict ``unverified``.
        golden: real: held-out samples go into the bundle; synthetic: they do not; auto: real where there are any.
        force: Whether an existing bundle gives way; its ``engines/`` stays.
    """

    int8: bool = False
    fp16: bool = False
    stream: bool = False
    calibration: Dataset | None = None
    calibration_samples: int = DEFAULT_CALIBRATION_SAMPLES
    search: SearchOptions = field(default_factory=SearchOptions)
    parity: ParityData | None = None
    golden: GoldenChoice = "auto"
    force: bool = False


def _input_records(run: Run, dataset: Dataset | None) -> dict[str, InputRecord]:
    """What the graphs take; an imported run's ranges come from the calibration data's training split, if any."""
    facts: dict[str, InputFacts] | None = run.facts.inputs
    if facts is None and dataset is not None and "train" in dataset.splits:
        facts = input_facts(dataset, 0.0)
    steps, widths = run.facts.shape.lengths.as_dict(), run.facts.shape.feature_dims.as_dict()
    records = {}
    for name in MODALITIES:
        known = facts[name] if facts is not None and len(facts[name].minimum) == widths[name] else None
        records[name] = InputRecord(
            steps=steps[name],
            features=widths[name],
            padding_side=known.padding_side if known else "unknown",
            normalisation="standardise" if run.facts.standardised else "none",
            trained_absent=known.trained_absent if known else False,
            minimum=known.minimum if known else None,
            maximum=known.maximum if known else None,
        )
    return records


def _synthetic_split(records: dict[str, InputRecord], count: int) -> Split:
    """Seeded samples inside the training range (or of unit scale where it is not known), marked as synthetic."""
    generator = np.random.default_rng(_GOLDEN_SEED)
    arrays = {}
    for name, item in records.items():
        unit = generator.random((count, item.steps, item.features))
        low = np.asarray(item.minimum if item.minimum is not None else [-1.0] * item.features)
        high = np.asarray(item.maximum if item.maximum is not None else [1.0] * item.features)
        arrays[name] = (low + unit * (high - low)).astype(np.float32)
        arrays[name][: count // 4, : item.steps // 4] = 0.0  # some with padding
    ids = tuple(f"synthetic-{index}" for index in range(count))
    return Split(ids, arrays["text"], arrays["audio"], arrays["vision"], np.zeros(count, np.float32))


def _golden_split(options: ExportOptions, records: dict[str, InputRecord]) -> tuple[Split, Literal["real", "synthetic"]]:
    held_out = options.parity.split if options.parity else None
    if held_out is None and options.calibration is not None:
        splits = options.calibration.splits
        held_out = splits.get("test") or splits.get("valid")
    if options.golden == "synthetic" or (held_out is None and options.golden == "auto"):
        return _synthetic_split(records, GOLDEN_SAMPLES), "synthetic"
    if held_out is None:
        raise ExportError("--golden real needs held-out samples; pass --parity-data, or use --golden synthetic")
    order = np.linspace(0, len(held_out) - 1, min(GOLDEN_SAMPLES, len(held_out))).round().astype(np.int64)
    return held_out.take(np.unique(order)), "real"


def _output_records(run: Run, *, gd_units: bool) -> dict[str, OutputRecord]:
    c = run.facts.shape.num_outputs
    what = "regression value" if run.facts.task == "regression" else "raw class logits"
    order, edges = list(GRAPH_ORDER), [f"{student}<-{teacher}" for student, teacher in EDGES]
    outputs = {
        "score": OutputRecord(meaning=what, shape=["batch", c], range=run.facts.label_range),
        "logit_homo": OutputRecord(meaning=f"{what} from one modality's common part", shape=["batch", 3, c], order=order),
        "logit_hetero": OutputRecord(meaning=f"{what} from one modality's exclusive part", shape=["batch", 3, c], order=order),
        "edges_homo": OutputRecord(
            meaning="normalised GD-Unit edges, common space", shape=["batch", 6], order=edges, range=(0.0, 1.0)
        ),
        "edges_hetero": OutputRecord(
            meaning="normalised GD-Unit edges, exclusive space", shape=["batch", 6], order=edges, range=(0.0, 1.0)
        ),
    }
    return {name: outputs[name] for name in explain_output_names(gd_units=gd_units)}


def _contiguous(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _golden(
    system: DmdSystem, text_exporter: TextExporter | None, split: Split, graphs: list[ExportedGraph], files: dict[str, bytes]
) -> Golden:
    """The golden samples with what PyTorch and every graph give on them."""
    golden = Golden(
        inputs=_contiguous(split.features()),
        unit_inputs={kind: _contiguous(a) for kind, a in unit_inputs(system, split).items()},
        reference=reference_outputs(system, split),
        recorded={},
    )
    if text_exporter is not None:
        golden.unit_inputs["text"] = tokens_of(split)
    record_outputs(golden, graphs, files)
    return golden


def _check_streams(run: Run) -> None:
    problem = streams_problem(run.facts.shape.lengths, run.facts.shape.kernels)
    if problem:
        raise ExportError(f"--stream: this model cannot stream: {problem}")


def _check_parity_data(run: Run, parity: ParityData) -> None:
    steps, widths = run.facts.shape.lengths.as_dict(), run.facts.shape.feature_dims.as_dict()
    for name, array in parity.split.features().items():
        if array.shape[1:] != (steps[name], widths[name]):
            raise ExportError(
                f"{parity.source}: {name} has {array.shape[1]} steps of {array.shape[2]} features, "
                f"the run takes {steps[name]} of {widths[name]}"
            )


def _held_out(options: ExportOptions) -> dict[str, Split]:
    """What parity is measured on: it neither calibrates nor chooses."""
    return {options.parity.split_name: options.parity.split} if options.parity else {}


def _calibration(run: Run, options: ExportOptions, records: dict[str, InputRecord]) -> CalibrationSet:
    if options.calibration is None:
        raise CalibrationError("--int8 needs calibration data: pass --calib FILE (its training split is used)")
    return calibration_set(
        options.calibration,
        records,
        held_out=_held_out(options),
        count=options.calibration_samples,
        own_sha256=run.config.data.sha256,
        label_range=run.facts.label_range,
        classes=run.facts.shape.num_outputs if run.facts.task == "classification" else None,
    )


def _name_of(out: Path) -> str:
    return out.name.removesuffix(".dmd")


@dataclass(frozen=True)
class _Graphs:
    """Graphs, what planned their INT8 forms, what became of their fp16 forms, and the samples a search was scored on."""

    graphs: list[ExportedGraph]
    plans: list[Int8Plan]
    fp16: Fp16Report | None
    searched: Split | None


def _graphs(
    run: Run,
    system: DmdSystem,
    text_exporter: TextExporter | None,
    options: ExportOptions,
    calibration: CalibrationSet | None,
    golden: Split,
    progress: Progress,
) -> _Graphs:
    graphs = fp32_graphs(system, progress.on_step, real_steps=run.facts.steps == "real")
    plans: list[Int8Plan] = []
    int8: Int8Exporter | None = None
    if calibration is not None:
        assert options.calibration is not None
        int8 = Int8Exporter.of(run, options.calibration, calibration, options.search, _held_out(options), progress)
        plans.append(int8.plan(graphs))
        graphs += int8_graphs(graphs, plans[0], progress.on_step)
    if text_exporter is not None:
        progress.on_step("text.fp32")
        text = text_exporter.graph()
        graphs.append(text)
        if int8 is not None:
            text_plan = int8.text_plan(text, next(graph for graph in graphs if graph.name == "fusion.fp32"))
            plans.append(text_plan.plan)
            graphs += text_int8_graphs(text_plan)
    report: Fp16Report | None = None
    if options.fp16:
        ranges = calibration.split if calibration is not None else golden
        tokens = tokens_of(ranges) if text_exporter is not None else None
        graphs, report = fp16_graphs(graphs, ranges.inputs(), progress.on_step, tokens)
    searched = int8.validation if int8 is not None and options.search.mode == "auto" else None
    return _Graphs(graphs, plans, report, searched)


def _seen(run: Run, calibration: CalibrationSet | None, searched: Split | None) -> SeenSamples:
    """Which samples made the bundle: those of the run, as far as it knows them, and those of this export."""
    known = read_seen(run.path)
    seen = dict(known.seen) if known is not None else {}
    if calibration is not None:
        seen["calibrated"] = calibration.fingerprints()
        if searched is not None:
            seen["searched"] = Fingerprints.of(searched, ids_are_names=calibration.ids_are_names)
    return SeenSamples(seen=seen)


def export_bundle(
    run: Run,
    out: Path,
    options: ExportOptions,
    on_step: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Manifest, Ledger | None]:
    """Writes the bundle ``out`` from ``run``; nothing is left behind on failure.

    Args:
        run: A finished run.
        out: The bundle's directory.
        options: Forms to export, calibration, parity and golden data.
        on_step: Called with the name of each step before its work.
        on_progress: Called within a long step with (done, total).

    Returns:
        The manifest as written, and the parity ledger where parity was measured.

    Raises:
        DmdkitError: One readable message.
    """
    check_replaceable(out, force=options.force)
    if options.parity is not None:
        _check_parity_data(run, options.parity)
    if options.stream:
        _check_streams(run)
    records = _input_records(run, options.calibration)
    calibration = _calibration(run, options, records) if options.int8 else None
    weights, weights_time = run.model_file.read_bytes(), run.model_file.stat().st_mtime  # a training may replace the file
    system = load_system(run, weights=weights)
    golden_split, golden_kind = _golden_split(options, records)
    if run.facts.steps == "real" and golden_split.steps is None:
        golden_split = replace(golden_split, steps=np.full(len(golden_split), run.facts.shape.lengths.text))

    text_exporter = TextExporter.of(run)
    if text_exporter is not None and golden_kind == "synthetic":
        golden_split = text_exporter.synthetic(golden_split, _GOLDEN_SEED)

    exported = _graphs(run, system, text_exporter, options, calibration, golden_split, Progress(on_step, on_progress))
    graphs = exported.graphs
    on_step("golden samples")
    text = text_exporter.record() if text_exporter is not None else None
    steps = step_graphs(system, int8=options.int8, on_step=on_step) if options.stream else []
    files = graph_files([*graphs, *steps], text)
    golden = _golden(system, text_exporter, golden_split, graphs, files)
    if text_exporter is not None:
        files[TOKENIZER_FILE] = text_exporter.tokenizer
    if calibration is not None:
        files[CALIBRATION_FILE] = calibration.samples().model_dump_json(indent=1).encode()
    seen = _seen(run, calibration, exported.searched)
    if seen.seen:
        files[SEEN_FILE] = seen.model_dump_json(indent=1).encode()
    files[GOLDEN_FILE] = golden_bytes(golden)

    spread = golden.reference["score"] if options.parity is None else reference_outputs(system, options.parity.split)["score"]
    manifest = Manifest(
        requires=[
            *([TEXT_LENGTHS_RECORD] if text is not None and text.lengths == "dynamic" else []),
            *([REAL_STEPS_RECORD] if run.facts.steps == "real" else []),
        ],
        name=_name_of(out),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tools=installed_versions(_TOOLS) | {"dmdkit": __version__},
        source=SourceRecord(
            run=run.path.resolve().name,
            origin=run.facts.origin,
            model_sha256=sha256_of_bytes(weights),
            data_sha256=run.config.data.sha256,
            created=datetime.fromtimestamp(weights_time, timezone.utc).isoformat(timespec="seconds"),
        ),
        model=run.facts.shape,
        task=run.facts.task,
        label_range=run.facts.label_range,
        output_sd=float(spread.std()),
        modality_order=list(GRAPH_ORDER),
        edge_order=list(EDGES),
        inputs=records,
        text=text,
        outputs=_output_records(run, gd_units=system.homo_gd is not None),
        graphs={graph.name: graph.record() for graph in graphs},
        stream=stream_record_of(run.facts.shape, steps),
        calibration=calibration.record(calibration_method(exported.plans), [g.name for g in graphs if g.calibrated])
        if calibration
        else None,
        golden=GoldenRecord(file=GOLDEN_FILE, kind=golden_kind, samples=len(golden_split), ids=list(golden_split.ids)),
        files=file_records(files),
    )
    with atomic_directory(out, BundleError, replace=options.force, keep=(ENGINES,)) as directory:
        write_bundle(directory, manifest, files)
        if exported.fp16 is not None:
            write_json(directory / FP16_REPORT, exported.fp16.model_dump(mode="json"), BundleError)
        ledger = None
        if options.parity is not None:
            on_step("parity")
            ledger = _parity(directory, system, options.parity)
            manifest = record(directory, manifest, ledger)
        if calibration is not None:
            kept = exported.fp16.beside_int8() if exported.fp16 is not None else {}
            write_int8(directory, exported.plans, calibration, manifest, ledger, options.search, on_step, kept)
        write_report(directory)
        if options.force:
            check_replaceable(out, force=True)  # minutes later
    return manifest, ledger


def _parity(directory: Path, system: DmdSystem, parity: ParityData) -> Ledger:
    return measure(
        Bundle.open(directory),
        split=parity.split,
        split_name=parity.split_name,
        source=Path(parity.source).name,  # a bundle travels; whose folder it was does not
        data_sha256=parity.sha256,
        reference=lambda split: reference_outputs(system, split),
    )
