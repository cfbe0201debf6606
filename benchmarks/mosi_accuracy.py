"""Accuracy and INT8 parity on a small real set, beside ridge and majority: ``python -m benchmarks.mosi_accuracy FILE``.

Trains the ``small`` recipe on the file for each seed, exports with INT8, checks parity on the test split, and prints one
Markdown table. Everything is chosen on the validation split; the test split is only measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dmdkit.cli.export import export_run
from dmdkit.cli.run import train_run
from dmdkit.data import Dataset, Split, load_dataset
from dmdkit.metrics import regression_metrics
from dmdkit.training.run import metrics_of

SEEDS = (1, 2, 3)
RIDGE_PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)
COLUMNS = ("mae", "corr", "acc2_non_zero", "f1_non_zero", "acc7")


def _last_step(split: Split) -> np.ndarray:
    return np.concatenate([array[:, -1] for array in split.features().values()], axis=1).astype(np.float64)


def last_step_ridge(data: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """Scores (n,) of last steps (n, D) of all modalities, by ridge on the standardised ones, penalty chosen on validation."""
    train, valid = data.splits["train"], data.splits["valid"]
    x = _last_step(train)
    mean, deviation = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1.0)
    scaled, held_out = (x - mean) / deviation, (_last_step(valid) - mean) / deviation
    centre = float(train.labels.mean())

    def fit(penalty: float) -> np.ndarray:
        gram = scaled.T @ scaled + penalty * np.eye(x.shape[1])
        return np.linalg.solve(gram, scaled.T @ (train.labels - centre))

    weights = min(map(fit, RIDGE_PENALTIES), key=lambda w: float(np.abs(held_out @ w + centre - valid.labels).mean()))
    return lambda steps: (steps - mean) / deviation @ weights + centre


def ridge_baseline(data: Dataset) -> dict[str, float | None]:
    """What that reaches on the test split."""
    test = data.splits["test"]
    return regression_metrics(last_step_ridge(data)(_last_step(test)), test.labels, data.label_range)


def majority_baseline(data: Dataset) -> dict[str, float | None]:
    """The median training label for the errors; the more frequent sign gives Acc-2."""
    train, test = data.splits["train"].labels, data.splits["test"].labels
    sign = 1.0 if float(np.mean(train > 0)) >= 0.5 else -1.0
    constant = float(np.median(train)) or 1e-6
    values = regression_metrics(np.full(test.shape, abs(constant) * sign), test, data.label_range)
    values["mae"] = float(np.abs(constant - test).mean())
    return values


def _row(name: str, values: dict[str, float | None], parity: str = "") -> str:
    cells = ["-" if values.get(key) is None else f"{values[key]:.3f}" for key in COLUMNS]
    return f"| {name} | " + " | ".join(cells) + f" | {parity} |"


def measure(
    path: Path, seeds: tuple[int, ...], work: Path
) -> tuple[list[str], list[dict[str, float]], list[dict[str, object]]]:
    """Table rows, test metrics per seed, and the hops of every seed's ledger."""
    data = load_dataset(path)
    rows = ["| model | " + " | ".join(COLUMNS) + " | INT8 parity (cpu, trt) |", "|---" * (len(COLUMNS) + 2) + "|"]
    rows += [_row("majority", majority_baseline(data)), _row("ridge, last step", ridge_baseline(data))]
    found, hops = [], []
    for seed in seeds:
        run = train_run(path, "small", work / f"seed{seed}", [f"training.seed={seed}"], device="cpu", quiet=True)
        metrics = metrics_of(run.path)["splits"]["test"]
        manifest, ledger = export_run(run, work / f"seed{seed}.dmd", int8=True)
        assert ledger is not None
        verdicts = ", ".join(manifest.graphs[f"fusion.{p}"].verdict.status for p in ("int8-cpu", "int8-trt"))
        rows.append(_row(f"DMD, seed {seed}", metrics, verdicts))
        found.append(metrics)
        hops += [{"seed": seed, **hop.model_dump(mode="json")} for hop in ledger.hops]
    mean = {key: float(np.mean([metrics[key] for metrics in found])) for key in COLUMNS}
    rows.append(_row("**DMD, mean**", mean))
    return rows, found, hops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--json", type=Path, help="write metrics and hops here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dmdkit-mosi-") as directory:
        rows, found, hops = measure(arguments.data, tuple(arguments.seeds), Path(directory))
    print("\n".join(rows))
    print("\n| seed | hop | max | p99 | correlation | change in MAE, 95 % | edges |\n|---|---|---|---|---|---|---|")
    for hop in hops:
        if hop["source"] == "pytorch.fp32" and hop["target"] == "explain.fp32":
            continue
        interval = hop["metrics"]["mae"]["interval"]
        edges = max((edge["max_change"] for edge in hop["edges"]), default=None)
        print(
            f"| {hop['seed']} | {hop['source']} -> {hop['target']} | {hop['max_error']:.1e} | {hop['p99_error']:.1e} | "
            f"{hop['correlation']:.6f} | {interval[0]:+.4f} .. {interval[1]:+.4f} | "
            f"{'-' if edges is None else f'{edges:.1e}'} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"test": found, "hops": hops}, indent=2))


if __name__ == "__main__":
    main()
