"""``python -m benchmarks.int8 --data FEATURES --run RUN``: how many calibration samples, which method, what INT8 costs here.

Calibration is swept on a trained run: its training split calibrates, its validation split is what a search would see, and its
test split is shown beside it and chooses nothing. Latency and size are those of the graphs that ``export --int8`` writes,
for that run and for the word-aligned MOSI sizes with random weights, in interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from benchmarks.machine import machine
from dmdkit.calibration.graph.layers import layers_of
from dmdkit.calibration.lowerings import lower_for_cpu, modelopt_scales
from dmdkit.calibration.ranges import METHODS, observe, scale_of
from dmdkit.calibration.samples import calibration_set
from dmdkit.calibration.search.cpu import layer_latencies
from dmdkit.calibration.search.layer_toggles import LayerToggles
from dmdkit.calibration.search.planning import Samples, SearchOptions, plan_int8
from dmdkit.calibration.search.sensitivity import edges_of, error_figures
from dmdkit.calibration.search.static import Judge
from dmdkit.data import Split, load_dataset
from dmdkit.export import ExportOptions, export_bundle
from dmdkit.export.graphs import fp32_graphs
from dmdkit.export.int8_export import search_judge
from dmdkit.parity.paired_latency import paired_ratio
from dmdkit.parity.timing import timed_rounds
from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner
from dmdkit.runtime.bundle import Bundle
from dmdkit.training.evaluation import load_system
from dmdkit.training.run import Run

Array = npt.NDArray[np.float32]
Row = dict[str, Any]
SIZES = (32, 64, 128, 256, 512)


def sweep(run: Run, data: Path, work: Path) -> list[Row]:
    """Error of static INT8 at every layer modelopt proposes, for every size and method, on valid and test."""
    dataset = load_dataset(data)
    export_bundle(run, work / "sweep.dmd", ExportOptions())
    records = Bundle.open(work / "sweep.dmd").manifest.inputs
    model = next(graph.model for graph in fp32_graphs(load_system(run), lambda _: None) if graph.kind == "explain")
    train = len(dataset.splits["train"])
    outputs = [value.name for value in model.graph.output]
    placed: dict[str, dict[int, float]] | None = None
    rows: list[Row] = []
    for size in [size for size in SIZES if size < train] + [train]:
        features = calibration_set(dataset, records, count=size, own_sha256=dataset.sha256).split.features()
        placed = placed or modelopt_scales(model, features)
        board = LayerToggles(model, placed, outputs)
        statistics = observe(model, board.tensors, features)
        for method in METHODS:
            scales = {name: scale_of(statistics[name], method) for name in board.tensors}
            row: Row = {"samples": size, "method": method}
            for name in ("valid", "test"):
                validation = dataset.splits[name].features()
                before = board.run(validation)
                after = board.run(validation, stored=board.stored, computed=board.computed, scales=scales)
                figures, edges = error_figures(before["score"], after["score"]), (edges_of(before), edges_of(after))
                row[f"{name}_p99_sd"] = figures.p99 / float(before["score"].std())
                row[f"{name}_sqnr_db"] = figures.sqnr_db
                row[f"{name}_edges"] = float(np.abs(edges[0] - edges[1]).max()) if edges[0] is not None else None
            rows.append(row)
    return rows


def latency(name: str, fusion: ModelProto, samples: Samples, explain: ModelProto, rounds: int) -> Row:
    """The fusion graph in fp32, with INT8 weights alone, as the search leaves it, and with integers wherever they exist."""
    kinds = {"fusion": {layer.name for layer in layers_of(fusion)}, "explain": {layer.name for layer in layers_of(explain)}}
    plan = plan_int8(explain, samples, graphs=kinds, options=SearchOptions(seconds=300), timed=fusion)
    sample = {key: np.ascontiguousarray(array[:1]) for key, array in samples.validation.items()}
    alone = layer_latencies(fusion, sample, plan.ranges)
    every = {layer: min(found, key=lambda form: found[form]) for layer, found in alone.items() if found}
    forms = {"fp32": None, "int8 weights": {}, "int8-cpu as chosen": plan.cpu_forms, "integers everywhere": every}
    graphs: dict[str, tuple[bytes, dict[str, str]]] = {}
    for what, chosen in forms.items():
        lowering = lower_for_cpu(fusion, chosen, plan.ranges) if chosen is not None else None  # type: ignore[arg-type]
        model = lowering.model if lowering is not None else fusion
        graphs[what] = (model.SerializeToString(), lowering.session_options if lowering is not None else {})
    runners = {what: OnnxRuntimeRunner(what, data, options) for what, (data, options) in graphs.items()}
    runners["fp32, the same again"] = OnnxRuntimeRunner("again", *graphs["fp32"])
    times = timed_rounds({w: lambda r=runner: r.infer(sample) for w, runner in runners.items()}, rounds)  # type: ignore[misc]
    rows = []
    for what in runners:
        found = paired_ratio(times[what].wall, times["fp32"].wall)
        size = len(graphs.get(what, graphs["fp32"])[0])
        rows.append(
            {
                "graph": what,
                "layers_in_integers": len(forms.get(what) or {}),
                "bytes": size,
                "size_ratio": size / len(graphs["fp32"][0]),
                "p50_ms": float(np.median(times[what])) * 1e3,
                "ratio": found.ratio,
                "low": found.low,
                "high": found.high,
                "rounds": found.rounds,
            }
        )
    return {"model": name, "layers": len(kinds["fusion"]), "rows": rows, "alone": alone}


def _judge(validation: Split) -> Judge:
    return search_judge(validation, "regression", (-3.0, 3.0))


def latencies(run: Run, data: Path, work: Path, rounds: int) -> list[Row]:
    """Both sizes: the run's, on its data, and word-aligned MOSI with random weights on random features."""
    from benchmarks.models import Models, mosi_shape

    dataset = load_dataset(data)
    train, valid = dataset.splits["train"], dataset.splits["valid"]
    graphs = {graph.kind: graph.model for graph in fp32_graphs(load_system(run), lambda _: None)}
    samples = Samples(train.take(np.arange(0, len(train), 4)).features(), valid.features(), "valid", _judge(valid))
    found = [latency("the trained run", graphs["fusion"], samples, graphs["explain"], rounds)]
    models = Models(mosi_shape(), work / "mosi")
    graphs = {graph.kind: graph.model for graph in fp32_graphs(models.system, lambda _: None)}
    validation = models.sample(64, seed=2)
    labels = np.zeros(64, np.float32)
    split = Split(tuple(map(str, range(64))), **validation, labels=labels)
    samples = Samples(models.sample(64), validation, "random", _judge(split))
    return [*found, latency("word-aligned MOSI, random weights", graphs["fusion"], samples, graphs["explain"], rounds)]


def markdown(result: Row) -> str:
    """The tables of benchmarks/RESULTS.md."""
    lines = ["| samples | method | p99 / sd, valid | SQNR dB | edges | p99 / sd, test | SQNR dB | edges |", "|---" * 8 + "|"]
    for row in result["sweep"]:
        cells = [f"{row[f'{n}_p99_sd']:.4f} | {row[f'{n}_sqnr_db']:.1f} | {row[f'{n}_edges']:.4f}" for n in ("valid", "test")]
        lines.append(f"| {row['samples']} | {row['method']} | {' | '.join(cells)} |")
    for model in result["latency"]:
        lines += ["", f"{model['model']}, {model['layers']} layers:", ""]
        lines += ["| graph | layers in integers | MB | of fp32 | ms | paired ratio [95 %] | rounds |", "|---" * 7 + "|"]
        for row in model["rows"]:
            ratio = f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            size = f"{row['bytes'] / 1e6:.2f} | {row['size_ratio']:.3f}"
            counts = f"{row['layers_in_integers']} | {size} | {row['p50_ms']:.3f}"
            lines.append(f"| {row['graph']} | {counts} | {ratio} | {row['rounds']} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="feature file with train, valid and test")
    parser.add_argument("--run", type=Path, required=True, help="a run trained on it")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("build/bench/int8"))
    parser.add_argument("--only", choices=["sweep", "latency"])
    options = parser.parse_args(arguments)
    run = Run.open(options.run)
    result: Row = {"format": 1, "machine": machine(), "sweep": [], "latency": []}
    with tempfile.TemporaryDirectory() as work:
        if options.only != "latency":
            result["sweep"] = sweep(run, options.data, Path(work))
        if options.only != "sweep":
            result["latency"] = latencies(run, options.data, Path(work), options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    text = markdown(result)
    (options.out / "tables.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
