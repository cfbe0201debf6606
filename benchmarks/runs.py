"""What finished runs of one recipe are worth on the test split, beside ridge: ``python -m benchmarks.runs DATA RUN RUN ...``.

The runs are those of several seeds. Two Markdown tables: every metric by run with the 95 % interval of its distance from
ridge's Acc-2 (samples redrawn in pairs), and Acc-2 with only some modalities there, mean, smallest and largest over the runs.
With ``--against RUN ...``, runs of another recipe with the same seeds, a column of the other and the differences by seed.
``--split valid`` measures where settings are chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dmdkit.data import Split, load_dataset
from dmdkit.training.baselines import Baselines
from dmdkit.training.evaluation import load_system, predict, subset_metrics, task_metrics
from dmdkit.training.run import Run, metrics_of

METRICS = ("mae", "corr", "acc2_non_zero", "f1_non_zero", "acc7")
RESAMPLES, SEED = 4000, 7


def _right(predicted: npt.NDArray[np.float32], split: Split) -> npt.NDArray[np.float64]:
    """Whether the sign is right, of the samples whose label is not zero."""
    counted = split.labels != 0
    right: npt.NDArray[np.float64] = ((predicted[:, 0] > 0) == (split.labels > 0))[counted].astype(np.float64)
    return right


def acc2_interval(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32], split: Split) -> tuple[float, float]:
    """The 95 % interval of the difference of their Acc-2."""
    change = _right(one, split) - _right(other, split)
    draws = np.random.default_rng(SEED).integers(0, len(change), (RESAMPLES, len(change)))
    low, high = np.percentile(change[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def _cells(values: dict[str, float | None]) -> str:
    return " | ".join("-" if values.get(key) is None else f"{values[key]:.3f}" for key in METRICS)


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--against", type=Path, nargs="*", default=[])
    parser.add_argument("--split", default="test", choices=["valid", "test"])
    options = parser.parse_args()
    dataset = load_dataset(options.data)
    split = dataset.splits[options.split]
    simple = Baselines(dataset).predictions(split)

    def measured(values: npt.NDArray[np.float32]) -> dict[str, float | None]:
        return task_metrics(values, split.labels, dataset.task, dataset.label_range)

    print("| model | " + " | ".join(METRICS) + " | best epoch | Acc-2 against ridge, 95 % |")
    print("|---" * (len(METRICS) + 3) + "|")
    for name, values in simple.items():
        print(f"| {name} | {_cells(measured(values))} |  |  |")
    groups = {"these": options.runs, "others": options.against}
    subsets: dict[str, list[dict[str, float]]] = {name: [] for name in groups}
    for group, runs in groups.items():
        rows = []
        for path in runs:
            run = Run.open(path)
            system = load_system(run)
            predicted = predict(system, split)
            rows.append(measured(predicted))
            low, high = acc2_interval(predicted, simple["ridge"], split)
            epochs = metrics_of(run.path)
            best = f"{epochs['best_epoch']} of {epochs['epochs']}"
            print(f"| {path.name} | {_cells(rows[-1])} | {best} | {low:+.3f} .. {high:+.3f} |", flush=True)
            found = subset_metrics(system, split, dataset.task, dataset.label_range)
            subsets[group].append({there: values["acc2_non_zero"] or 0.0 for there, values in found.items()})
        if rows:
            mean = {key: float(np.mean([row[key] for row in rows])) for key in METRICS}  # type: ignore[misc]
            print(f"| **mean** | {_cells(mean)} |  |  |")
    shown = [group for group in groups if subsets[group]]
    print("\n| modalities there | " + " | ".join(f"Acc-2, {group}" for group in shown) + " | difference by run |")
    print("|---" * (len(shown) + 2) + "|")
    named = {there: (there,) for there in subsets["these"][0]}
    named["**mean of the seven**"] = tuple(named)
    for there, parts in named.items():
        by_run = {group: [float(np.mean([run[part] for part in parts])) for run in subsets[group]] for group in shown}
        pairs = zip(by_run["these"], by_run.get("others", ()), strict=False)
        change = ", ".join(f"{one - other:+.3f}" for one, other in pairs)
        print(f"| {there.replace('+', ', ')} | " + " | ".join(_spread(by_run[group]) for group in shown) + f" | {change} |")


if __name__ == "__main__":
    main()
