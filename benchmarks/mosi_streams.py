"""Real steps against padded ones on a set whose steps have labels: ``python -m benchmarks.mosi_streams FILE``.

For each seed the ``small`` recipe is trained three times: padded, on real steps, and on those with random prefixes. Printed are
the test metrics at the end of each sample, and the mean absolute error by the number of steps heard, each step against
its own label. Everything is chosen on the validation split; the test split is only measured.

In an MMSA file whose steps are the utterances of a video, the label of a step is that of the sample which ends with it: it has
the same name before the last underscore, and the same features in its last step.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.mosi_accuracy import COLUMNS, SEEDS, last_step_ridge, majority_baseline, ridge_baseline
from dmdkit.cli.run import train_run
from dmdkit.data import Dataset, Split, load_dataset, write_dataset
from dmdkit.data.real_steps import prefixes, with_real_steps
from dmdkit.records import PerModality
from dmdkit.training.evaluation import load_system, predict
from dmdkit.training.run import Run, metrics_of

KINDS = {
    "padded": [],
    "real": ["data.steps=real"],
    "real, prefixes": ["data.steps=real", "training.random_prefix=0.5"],
}
KERNELS = PerModality(text=1, audio=1, vision=1)


def labels_by_step(split: Split) -> npt.NDArray[np.float32]:
    """The label of the sample that ends with each step, (N, T); NaN where none does."""

    def key(sample: int, step: int) -> tuple[str, bytes]:
        rows = (array[sample, step].tobytes() for array in split.features().values())
        return split.ids[sample].rpartition("_")[0], b"".join(rows)

    count, steps = split.text.shape[:2]
    known = {key(sample, steps - 1): split.labels[sample] for sample in range(count)}
    found = [[known.get(key(sample, step), np.nan) for step in range(steps)] for sample in range(count)]
    return np.array(found, np.float32)


def with_step_labels(data: Dataset) -> Dataset:
    """``data`` with those labels."""
    return replace(data, splits={name: replace(part, step_labels=labels_by_step(part)) for name, part in data.splits.items()})


def trained(path: Path, kind: str, seed: int, work: Path) -> Run:
    """The finished run of that name in ``work``, trained or trained on where it is not there yet."""
    out = work / f"{kind.replace(', ', '-')}-{seed}"
    if (out / "metrics.json").is_file():
        return Run.open(out)
    if (out / "last.ckpt").is_file():
        return train_run(path, None, out, [], device="cpu", quiet=True, resume=True)
    return train_run(path, "small", out, [f"training.seed={seed}", *KINDS[kind]], device="cpu", quiet=True)


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Trains, measures and prints two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--work", type=Path, help="keep the runs here, and take those that are finished")
    arguments = parser.parse_args()
    data = load_dataset(arguments.data)
    with tempfile.TemporaryDirectory(prefix="dmdkit-streams-") as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        labelled = with_step_labels(data)
        path = work / "step_labels.npz"
        write_dataset(labelled, path)
        runs: dict[str, list[Run]] = {kind: [] for kind in KINDS}
        for seed in arguments.seeds:
            for kind, found in runs.items():
                found.append(trained(path, kind, seed, work))
        _print_ends(data, runs)
        _print_steps(labelled, runs)


def _print_ends(data: Dataset, runs: dict[str, list[Run]]) -> None:
    print("| model | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|")
    for name, values in (("majority", majority_baseline(data)), ("ridge, last step", ridge_baseline(data))):
        print(f"| {name} | " + " | ".join("-" if values[key] is None else f"{values[key]:.3f}" for key in COLUMNS) + " |")
    for kind, found in runs.items():
        metrics = [metrics_of(run.path)["splits"]["test"] for run in found]
        print(f"| {kind} | " + " | ".join(_spread([float(one[key]) for one in metrics]) for key in COLUMNS) + " |")


def _print_steps(labelled: Dataset, runs: dict[str, list[Run]]) -> None:
    real = with_real_steps(labelled, KERNELS).splits["test"]
    parts = prefixes(real, 1, labelled=True)
    assert parts.steps is not None
    heard = parts.steps
    rows = np.arange(len(parts)), heard - 1
    last = np.concatenate([array[rows] for array in parts.features().values()], axis=1).astype(np.float64)
    median = float(np.median(labelled.splits["train"].labels))
    errors = {"majority": [np.abs(median - parts.labels)], "ridge": [np.abs(last_step_ridge(labelled)(last) - parts.labels)]}
    for kind, found in runs.items():
        errors[kind] = [np.abs(predict(load_system(run), parts)[:, 0] - parts.labels) for run in found]
    print("\n| steps heard | samples | " + " | ".join(errors) + " |\n" + "|---" * (len(errors) + 2) + "|")
    for count in (*range(1, int(heard.max()) + 1), None):
        chosen = heard == count if count else np.ones(len(heard), bool)
        cells = [
            f"{each[0][chosen].mean():.3f}" if len(each) == 1 else _spread([float(one[chosen].mean()) for one in each])
            for each in errors.values()
        ]
        print(f"| {count or 'any'} | {chosen.sum()} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
