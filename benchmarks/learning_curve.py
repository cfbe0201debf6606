"""What training reaches by the number of samples, beside ridge, the majority and the published settings.

``python -m benchmarks.learning_curve DATA --subsets 50 100 200 400 --seeds 1 2 3``: for each subset of the training samples
(chosen by a fixed seed) and all of them, the ``small`` recipe as it is, the same model with the published settings, and the
baselines every run is measured beside. Validation chooses everything; it is cut to a quarter of a subset, as a small set has
no more. Each cell: mean over seeds, smallest and largest. ``--generated N`` makes sets of its own
(benchmarks/generated_sets.py) instead of reading one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generated_sets import KINDS, generated
from dmdkit.cli.run import train_run
from dmdkit.data import Dataset, load_dataset, sample_dataset, write_dataset
from dmdkit.training.run import metrics_of

PUBLISHED = (
    "training.epochs=100",
    "training.batch_size=16",
    "training.accumulate_batches=10",
    "training.incomplete_group=drop",
    "training.learning_rate=1e-4",
    "training.plateau_patience=5",
    "training.early_stop_patience=10",
    "training.validation_window=1",
    "training.schedule=validation",
    "training.weight_average=0",
)
SETTINGS: dict[str, Sequence[str]] = {"small": (), "published settings": PUBLISHED}
_SUBSET_SEED = 7


def subset(dataset: Dataset, samples: int) -> Dataset:
    """``samples`` of the training split, and at most a quarter as many to validate on."""
    generator, splits = np.random.default_rng(_SUBSET_SEED), dict(dataset.splits)
    for name, most in (("train", samples), ("valid", max(10, samples // 4))):
        splits[name] = splits[name].take(generator.permutation(len(splits[name]))[:most])
    return replace(dataset, splits=splits)


def measure(dataset: Dataset, seeds: Sequence[int], settings: Sequence[str], work: Path) -> list[dict[str, Any]]:
    """The metrics of a run for each seed."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / "data.npz"
    write_dataset(dataset, file)
    found = []
    for seed in seeds:
        chosen = [*settings, f"training.seed={seed}", f"data.task={dataset.task}"]
        run = train_run(file, "small", work / f"seed{seed}", chosen, device="cpu", quiet=True, force=True)
        found.append(metrics_of(run.path))
    return found


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{np.mean(known):.3f}" if len(set(known)) == 1 else f"{np.mean(known):.3f} ({min(known):.2f} to {max(known):.2f})"


def rows(name: str, dataset: Dataset, seeds: Sequence[int], work: Path, kinds: Sequence[str]) -> list[str]:
    """Table rows of one set: majority, ridge, then each kind of training."""
    columns = ("accuracy", "f1") if dataset.task == "classification" else ("mae", "corr")
    lines, samples = [], len(dataset.splits["train"])
    for number, kind in enumerate(kinds):
        metrics = measure(dataset, seeds, SETTINGS[kind], work / kind.replace(" ", "-"))
        baselines = metrics[0]["baselines"]["test"]
        for baseline in ("majority", "ridge") if number == 0 else ():
            cells = " | ".join(_cell([baselines[baseline][column]]) for column in columns)
            lines.append(f"| {name} | {samples} | {baseline} | {cells} |  |")
        cells = [_cell([m["splits"]["test"].get(c) for m in metrics]) for c in columns]
        low, high = (np.mean([m["against_ridge"]["test"]["interval"][i] for m in metrics]) for i in (0, 1))
        lines.append(f"| {name} | {samples} | DMD, {kind} | " + " | ".join(cells) + f" | {low:+.2f} .. {high:+.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", help="a feature file, or the word sample")
    parser.add_argument("--generated", type=int, help="training samples of a generated set, instead of a file")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="of generated sets")
    parser.add_argument("--subsets", type=int, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    options = parser.parse_args()
    if options.generated:
        sets = {f"generated, {kind}": generated(options.generated, 1, kind) for kind in options.kinds}
    else:
        whole = sample_dataset(0) if options.data == "sample" else load_dataset(Path(options.data))
        stem = Path(options.data).stem
        smaller = [samples for samples in options.subsets if samples < len(whole.splits["train"])]
        sets = {f"{stem}, {samples}": subset(whole, samples) for samples in smaller}
        sets[stem] = whole
    print("| set | training samples | model | MAE, or accuracy | Corr, or F1 | Corr, or accuracy, against ridge: 95 % |")
    print("|---|---|---|---|---|---|", flush=True)
    lines = []
    with tempfile.TemporaryDirectory(prefix="dmdkit-curve-") as directory:
        for name, dataset in sets.items():
            lines += rows(name, dataset, options.seeds, Path(directory) / str(len(lines)), options.settings)
            print("\n".join(lines[-len(options.settings) - 2 :]), flush=True)


if __name__ == "__main__":
    main()
