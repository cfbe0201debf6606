"""A text encoder in INT8: size, latency, string to score, parity: ``python -m benchmarks.text_encoder DATA ENCODER``.

Trains a small DMD with the encoder on the file's transcripts (or takes ``--run``), exports it with INT8, and prints Markdown
tables. Latencies are one thread, batch 1, interleaved rounds; every ratio is of medians of one run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import ModelProto

from benchmarks.timing import rows as rows_of
from dmdkit.calibration.lowerings import SIMULATE_QDQ, modelopt_scales, static_int8
from dmdkit.calibration.text.lowerings import dynamic_products, store_tables_int8
from dmdkit.calibration.text.smoothed_graph import smoothed
from dmdkit.calibration.text.smoothing import OUTLIERS, Preparation, activations_of, best_preparations, weight_products
from dmdkit.cli.export import export_run
from dmdkit.cli.feature_files import dataset_for_run
from dmdkit.config import RunConfig, validated
from dmdkit.data import Split, load_dataset
from dmdkit.parity.compare import compare
from dmdkit.parity.timing import timed_rounds
from dmdkit.runtime import Runtime
from dmdkit.runtime.backends.onnxruntime import cpu_session
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.open_graph import open_runner
from dmdkit.training.evaluation import load_system, predict
from dmdkit.training.run import Run, metrics_of
from dmdkit.training.trainer import train

CALIBRATION_SAMPLES = 128
Row = dict[str, Any]


def config(encoder: Path, *, fine_tune: bool, learning_rate: float, epochs: int) -> RunConfig:
    """The small recipe with an encoder in front."""
    dropout = {f"attention_{m}": 0.2 for m in ("text", "audio", "vision")}
    dropout |= {"embed": 0.1, "text": 0.3, "output": 0.5, "residual": 0.1, "relu": 0.1}
    values = {
        "data": {"normalisation": "standardise", "label_range": [-3, 3]},
        "text_encoder": {"path": str(encoder), "fine_tune": fine_tune, "learning_rate": learning_rate},
        "model": {
            "width": 30,
            "heads": 6,
            "levels": 2,
            "kernels": {"text": 1, "audio": 1, "vision": 1},
            "dropout": dropout,
        },
        "training": {"epochs": epochs, "accumulate_batches": 4, "learning_rate": 1e-3, "early_stop_patience": 6},
    }
    return validated(RunConfig, values, "benchmark")


def trained(data: Path, encoder: Path, out: Path, **options: Any) -> Run:
    """A run on ``data``."""
    chosen = config(encoder, **options)
    dataset = load_dataset(data, label_range=(-3, 3))
    recorded = chosen.data.model_copy(update={"path": str(data.resolve()), "sha256": dataset.sha256})
    return train(chosen.model_copy(update={"data": recorded}), dataset, out, device="cpu")


def _onnxruntimes_own(model: ModelProto, folder: Path) -> ModelProto:
    """What onnxruntime.quantization.quantize_dynamic makes of the graph: the usual way."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    onnx.save(model, folder / "fp32.onnx")
    quantize_dynamic(folder / "fp32.onnx", folder / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8)
    return onnx.load(folder / "int8.onnx")


def _forms(model: ModelProto, samples: dict[str, np.ndarray], folder: Path) -> dict[str, Callable[[], ModelProto]]:
    """Every INT8 form that is compared, made when it is its turn."""
    activations = activations_of(model, samples)
    names = [weight.node.name for weight in weight_products(model)]
    searched = {count: best_preparations(model, activations, dynamic=True, outliers=count) for count in (0, OUTLIERS, 16)}
    for_engine = best_preparations(model, activations, dynamic=False)

    def same(strength: float) -> dict[str, Preparation]:
        return dict.fromkeys(names, Preparation(strength))

    def dynamic(preparations: dict[str, Preparation]) -> ModelProto:
        ready = smoothed(model, activations, preparations, into_values=True)
        return store_tables_int8(dynamic_products(ready, names), for_engine=False)

    def static(preparations: dict[str, Preparation], method: str = "max") -> ModelProto:
        ready = smoothed(model, activations, preparations)
        return store_tables_int8(static_int8(ready, modelopt_scales(ready, samples, method)).model, for_engine=True)

    return {
        "tables only": lambda: store_tables_int8(model, for_engine=False),
        "dynamic, onnxruntime's own tool": lambda: _onnxruntimes_own(model, folder),
        "dynamic": lambda: dynamic({}),
        "dynamic, smoothed 0.5": lambda: dynamic(same(0.5)),
        "dynamic, smoothed 0.8": lambda: dynamic(same(0.8)),
        "dynamic, smoothing searched": lambda: dynamic(searched[0]),
        "dynamic, smoothing searched, 4 outliers in float (int8-cpu)": lambda: dynamic(searched[OUTLIERS]),
        "dynamic, smoothing searched, 16 outliers in float": lambda: dynamic(searched[16]),
        "static, max": lambda: static({}),
        "static, entropy": lambda: static({}, "entropy"),
        "static, smoothed 0.5": lambda: static(same(0.5)),
        "static, smoothed 0.8": lambda: static(same(0.8)),
        "static, smoothing searched (int8-trt)": lambda: static(for_engine),
    }


def lowerings(run: Run, bundle: Bundle, train_split: Split, test: Split, folder: Path) -> list[Row]:
    """Every form against fp32 on the test split, tokens in, score out."""
    system = load_system(run)
    model = onnx.load_from_string(bundle.read("graphs/text.fp32.onnx"))
    assert train_split.tokens is not None
    assert test.tokens is not None
    chosen = np.linspace(0, len(train_split) - 1, CALIBRATION_SAMPLES).astype(np.int64)
    tokens = train_split.tokens[chosen]
    samples = {name: np.ascontiguousarray(tokens[:, i]) for i, name in enumerate(("input_ids", "attention_mask"))}
    before = predict(system, test)
    rows = []
    for name, make in _forms(model, samples, folder).items():
        form = make()
        session = _session(form, simulated=name.startswith("static"))
        feeds = [{"input_ids": row[None, 0].copy(), "attention_mask": row[None, 1].copy()} for row in test.tokens]
        features = np.concatenate([session.run(None, feed)[0] for feed in feeds])
        hop = compare(
            "fp32",
            name,
            {"score": before},
            {"score": predict(system, replace(test, text=features))},
            precision="int8-cpu",
            task="regression",
            label_range=run.facts.label_range,
            labels=test.labels,
            ids=test.ids,
        )
        mask = test.tokens[:, 1] == 1
        found, truth = features[mask], test.text[mask]
        cosine = (found * truth).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(truth, axis=-1)
        interval = hop.metrics["mae"].interval
        rows.append(
            {
                "name": name,
                "megabytes": len(form.SerializeToString()) / 1e6,
                "feature_cosine": float(cosine.mean()),
                "correlation": hop.correlation,
                "p99_sd": (hop.p99_error or 0.0) / (hop.output_sd or 1.0),
                "mae_interval": list(interval) if interval else None,
                "verdict": hop.status,
            }
        )
    return rows


def _session(model: ModelProto, *, simulated: bool) -> ort.InferenceSession:
    return cpu_session(model.SerializeToString(), SIMULATE_QDQ if simulated else None)


def speed(path: Path, test: Split, rounds: int) -> dict[str, list[Row]]:
    """Latency of the text graphs alone, and from a string to its score, interleaved."""
    bundle = Bundle.open(path)
    assert test.tokens is not None
    feed = {"input_ids": test.tokens[:1, 0].copy(), "attention_mask": test.tokens[:1, 1].copy()}
    graphs = [name for name, graph in bundle.manifest.graphs.items() if graph.kind == "text"]
    runners = {name: open_runner(bundle, name) for name in graphs}
    alone = timed_rounds({name: lambda r=runner: r.infer(feed) for name, runner in runners.items()}, rounds)  # type: ignore[misc]
    runtimes = {precision: Runtime.open(path, graph=precision) for precision in ("fp32", "int8-cpu")}
    assert test.raw_text is not None
    numbers, sentences = iter(range(10**9)), test.raw_text

    def call(runtime: Runtime) -> object:
        index = next(numbers) % len(sentences)
        return runtime.predict(text=sentences[index], audio=test.audio[index], vision=test.vision[index])

    whole = timed_rounds({name: lambda r=runtime: call(r) for name, runtime in runtimes.items()}, rounds)  # type: ignore[misc]
    return {"text graph": rows_of(alone, "text.fp32"), "string in, score out": rows_of(whole, "fp32")}


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines) + "\n"


def _print(result: Row) -> None:
    for name, rows in result["speed"].items():
        print(f"\n{name}\n")
        cells = [[r["name"], f"{r['p50_ms']:.2f}", f"{r['ratio']:.3f}", f"{r['cpu_ratio']:.3f}"] for r in rows]
        print(_table(["", "median ms", "ratio", "CPU ratio"], cells))
    sizes = result["sizes"]
    print(_table(["graph", "MB", "ratio"], [[k, f"{v / 1e6:.2f}", f"{v / sizes['text.fp32']:.3f}"] for k, v in sizes.items()]))
    cells = []
    for row in result["lowerings"]:
        low, high = row["mae_interval"]
        figures = [
            f"{row['megabytes']:.1f}",
            f"{row['feature_cosine']:.4f}",
            f"{row['correlation']:.4f}",
            f"{row['p99_sd']:.3f}",
        ]
        cells.append([row["name"], *figures, f"[{low:+.4f}, {high:+.4f}]", row["verdict"]])
    print(
        _table(
            ["form", "MB", "feature cosine", "score correlation", "p99 error / sd", "change in MAE [95 %]", "verdict"], cells
        )
    )
    print(json.dumps(result["verdicts"], indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("--run", type=Path, help="a finished run, instead of training one")
    parser.add_argument("--bundle", type=Path, help="a bundle of that run, instead of exporting it")
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of the encoder")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--no-lowerings", action="store_true", help="leave the comparison of forms out")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="dmdkit-text-") as directory:
        folder = Path(directory)
        rate = options.learning_rate
        settings = {"fine_tune": not options.frozen, "learning_rate": rate, "epochs": options.epochs}
        run = Run.open(options.run) if options.run else trained(options.data, options.encoder, folder / "run", **settings)
        path = options.bundle or folder / "text.dmd"
        if options.bundle is None:
            export_run(run, path, int8=True, int8_search="none")
        bundle = Bundle.open(path)
        dataset = dataset_for_run(options.data, run)
        train_split, test = dataset.splits["train"], dataset.splits["test"]
        graphs = bundle.manifest.graphs
        sizes = {n: bundle.manifest.files[g.file].size_bytes for n, g in graphs.items() if g.kind == "text"}
        result: Row = {
            "metrics": metrics_of(run.path)["splits"].get("test"),
            "sizes": sizes,
            "speed": speed(path, test, options.rounds),
            "verdicts": {name: graph.verdict.model_dump(mode="json") for name, graph in graphs.items()},
            "lowerings": [] if options.no_lowerings else lowerings(run, bundle, train_split, test, folder),
        }
    _print(result)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
