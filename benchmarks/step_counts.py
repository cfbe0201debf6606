"""How what a small set teaches grows with optimiser steps: ``python -m benchmarks.step_counts --kinds wandering moment``.

One training at one rate on each generated set (benchmarks/generated_sets.py), whose averaged weights are measured every so
many steps on 400 samples that neither train nor validate. For choosing steps: give sets of seeds that no result is reported on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.generated_sets import KINDS, generated
from dmdkit.config import load_run_config, recipe_path, shape_of
from dmdkit.data import Dataset
from dmdkit.metrics import correlation
from dmdkit.training.planning import resolved
from dmdkit.training.progress import SilentProgress
from dmdkit.training.run import RunFacts
from dmdkit.training.statistics import input_facts
from dmdkit.training.trainer import LiveTraining

SAMPLES = 80


def trajectory(
    dataset: Dataset, seed: int, steps: int, every: int, assignments: Sequence[str]
) -> Iterator[tuple[int, float, float]]:
    """Steps taken, and Corr and MAE on the test split, about every ``every`` steps."""
    samples = len(dataset.splits["train"])
    fixed = ("training.schedule=fixed", "training.folds=0", f"training.seed={seed}", f"training.epochs={steps}")
    config = resolved(load_run_config(recipe_path("small"), [*fixed, *assignments]), samples, 0)[0]
    facts = RunFacts(
        origin="train",
        shape=shape_of(config.model, dataset.feature_dims, dataset.lengths, dataset.num_outputs),
        task=dataset.task,
        label_range=dataset.label_range,
        standardised=True,
        gd_units=True,
        train_samples=samples,
        inputs=input_facts(dataset, 0.0),
    )
    live = LiveTraining(config, facts, dataset, "cpu")
    in_epoch = live.schedule.steps_per_epoch(samples, complete_groups=False)
    labels, shown = dataset.splits["test"].labels.astype(np.float64), 0
    for epoch in range(-(-steps // in_epoch)):
        live.run_epoch(epoch, SilentProgress())
        taken = (epoch + 1) * in_epoch
        if taken // every > shown:
            shown = taken // every
            with live.averaged():
                predicted = live.predict("test")[:, 0].astype(np.float64)
            yield taken, correlation(predicted, labels) or 0.0, float(np.abs(predicted - labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--set-seed", type=int, default=101)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--steps", type=int, default=720)
    parser.add_argument("--every", type=int, default=80)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    print("| set | steps | Corr | MAE |\n|---|---|---|---|")
    for kind in options.kinds:
        dataset = generated(SAMPLES, options.set_seed, kind)
        for taken, found, error in trajectory(dataset, options.seed, options.steps, options.every, options.set):
            print(f"| {kind} | {taken} | {found:.3f} | {error:.3f} |", flush=True)


if __name__ == "__main__":
    main()
