"""The majority and ridge against what they are by definition, and what a run says of itself."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dmdkit.data import Dataset, Split
from dmdkit.training.baselines import PENALTIES, Baselines, compare
from tests.conftest import tiny_dataset
from tests.training.helpers import train_tiny


def by_hand(dataset: Dataset, penalty: float) -> np.ndarray:
    """Ridge of the last step, in its augmented least-squares form."""
    train, test = dataset.splits["train"], dataset.splits["test"]
    x, z = (np.concatenate([a[:, -1] for a in s.features().values()], 1).astype(np.float64) for s in (train, test))
    mean, deviation, centre = x.mean(0), x.std(0), train.labels.astype(np.float64).mean()
    x, z = (x - mean) / deviation, (z - mean) / deviation
    rows = np.concatenate([x, np.sqrt(penalty) * np.eye(x.shape[1])])
    wanted = np.concatenate([train.labels - centre, np.zeros(x.shape[1])])
    return z @ np.linalg.lstsq(rows, wanted, rcond=None)[0] + centre


@pytest.mark.parametrize("samples", [10, 64])  # fewer and more than the 16 features of a step
def test_ridge_is_ridge_whether_samples_or_features_are_more(samples: int) -> None:
    dataset = tiny_dataset(train=samples)
    ridge = Baselines(dataset).ridge
    candidates = [by_hand(dataset, penalty) for penalty in PENALTIES]
    if ridge.kind == "last step":
        found = ridge.predict(dataset.splits["test"])[:, 0]
        assert min(float(np.abs(found - candidate).max()) for candidate in candidates) < 1e-8


def test_ridge_reads_the_last_step_that_holds_anything() -> None:
    dataset = tiny_dataset()
    padded = {}
    for name, split in dataset.splits.items():
        padded[name] = replace(split, **{m: np.pad(a, ((0, 0), (0, 3), (0, 0))) for m, a in split.features().items()})
    expected = Baselines(dataset).predictions(dataset.splits["test"])["ridge"]
    found = Baselines(replace(dataset, splits=padded)).predictions(padded["test"])["ridge"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_majority_is_the_median_label_or_the_most_frequent_class() -> None:
    dataset = tiny_dataset()
    assert np.unique(Baselines(dataset).predictions(dataset.splits["test"])["majority"]) == np.median(
        dataset.splits["train"].labels
    )
    classes = as_classes(dataset)
    found = Baselines(classes).predictions(classes.splits["test"])
    most = np.bincount(classes.splits["train"].labels).argmax()
    assert (found["majority"].argmax(1) == most).all()
    assert np.mean(found["ridge"].argmax(1) == classes.splits["test"].labels) > 0.6


def as_classes(dataset: Dataset) -> Dataset:
    splits = {name: replace(s, labels=np.digitize(s.labels, (-1, 1)).astype(np.int64)) for name, s in dataset.splits.items()}
    return replace(dataset, task="classification", label_range=None, num_classes=3, splits=splits)


def split_of_labels(labels: np.ndarray) -> Split:
    nothing = np.zeros((len(labels), 1, 1), np.float32)
    return Split(tuple(map(str, range(len(labels)))), nothing, nothing, nothing, labels.astype(np.float32))


@pytest.mark.parametrize(
    ("noise", "verdict"),
    [((0.1, 2.0), "better than ridge"), ((2.0, 0.1), "worse than ridge"), ((1.0, 1.0), "not ")],
)
def test_a_difference_is_called_one_only_where_its_interval_says_so(noise: tuple[float, float], verdict: str) -> None:
    generator = np.random.default_rng(1)
    labels = generator.normal(size=200)
    model, ridge = ((labels + scale * generator.normal(size=200))[:, None].astype(np.float32) for scale in noise)
    found = compare(model, {"ridge": ridge}, split_of_labels(labels))
    assert found.sentence.startswith(verdict)
    assert found.interval is not None
    assert found.interval[0] < found.model - found.baseline < found.interval[1]


def test_a_constant_model_is_not_compared() -> None:
    labels = np.arange(20.0)
    found = compare(np.ones((20, 1), np.float32), {"ridge": labels[:, None].astype(np.float32)}, split_of_labels(labels))
    assert found.sentence == "cannot be compared with ridge: Corr is undefined here"


@pytest.mark.parametrize("dataset", [tiny_dataset(), as_classes(tiny_dataset())], ids=["regression", "classes"])
def test_every_run_says_what_it_is_worth(tmp_path, dataset: Dataset) -> None:
    run = train_tiny(tmp_path / "run", "training.epochs=1", dataset=dataset)
    metrics = json.loads((run.path / "metrics.json").read_text())
    for split in ("valid", "test"):
        assert metrics["baselines"][split].keys() == {"majority", "ridge"}
        shared = metrics["splits"][split].keys() - {"samples"}
        assert all(values.keys() == shared for values in metrics["baselines"][split].values())
        assert "ridge: " in metrics["against_ridge"][split]["sentence"]
    assert any("only 4 optimiser steps were taken" in text for text in metrics["warnings"])
    assert any("the best epoch, 1, is the last" in text for text in metrics["warnings"])
