"""Small sets of labels from 1 to 5, as hard for ridge as sets that a user might bring: latent factors under noise.

Five kinds, which differ in where the factors lie: see :data:`KINDS`. The strength of the factors is chosen so that ridge's
correlation with the labels of the test split is about 0.54; the choice looks at no model of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmdkit.data import Dataset, Split
from dmdkit.metrics import correlation
from dmdkit.training.baselines import Baselines

WIDTHS = {"text": 300, "audio": 74, "vision": 36}
STEPS, FACTORS = 20, 4
RIDGE_CORRELATION = 0.54
_HALVINGS = 9

Array = npt.NDArray[np.float64]


@dataclass
class _Samples:
    """Features by modality, (N, T, D), labels before noise, (N,), and the share of noise in them."""

    features: dict[str, Array]
    label: Array
    noise: float
    padded: bool = False


def _direction(random: np.random.Generator, width: int) -> Array:
    vector = random.standard_normal(width)
    scaled: Array = vector / np.linalg.norm(vector) * np.sqrt(width)
    return scaled


def _directions(random: np.random.Generator, count: int, width: int) -> Array:
    return np.stack([_direction(random, width) for _ in range(count)])


def _direction_kind(random: np.random.Generator, n: int, scale: float) -> _Samples:
    """A sentiment of its own in each modality, along one direction, the same at every step, beside stronger nuisances."""
    sentiments, features = random.standard_normal((n, 3)), {}
    for index, (name, width) in enumerate(WIDTHS.items()):
        x = scale * sentiments[:, index, None, None] * _direction(random, width) + random.standard_normal((n, STEPS, width))
        for _ in range(3):
            x += 0.6 * random.standard_normal((n, 1, 1)) * _direction(random, width)
        features[name] = x
    return _Samples(features, sentiments @ np.array([0.8, 0.5, 0.4]), 0.55)


def _wandering_kind(random: np.random.Generator, n: int, scale: float) -> _Samples:
    """Factors that wander from step to step around their means, which make the label; every one in every modality."""
    factors, features = random.standard_normal((n, FACTORS)), {}
    for name, width in WIDTHS.items():
        wander, path = random.standard_normal((n, FACTORS)), np.empty((n, STEPS, FACTORS))
        for step in range(STEPS):
            wander = 0.7 * (wander + random.standard_normal((n, FACTORS)))
            path[:, step] = factors + wander
        features[name] = scale * path @ _directions(random, FACTORS, width) + random.standard_normal((n, STEPS, width))
    return _Samples(features, factors @ np.array([1, 0.6, 0.3, 0]), 0.6)


def _shared_kind(random: np.random.Generator, n: int, scale: float) -> _Samples:
    """One factor that every modality sees, text best; padded on the left, eight nuisances a step and eight a sample."""
    factor, features = random.standard_normal(n), {}
    for (name, width), seen in zip(WIDTHS.items(), (1.0, 0.5, 0.35), strict=True):
        x = 0.8 * random.standard_normal((n, STEPS, width)) + seen * scale * factor[:, None, None] * _direction(random, width)
        for steps in (STEPS, 1):
            x += 0.25 * random.standard_normal((n, steps, 8)) @ _directions(random, 8, width)
        features[name] = x
    return _Samples(features, factor, 0.4, padded=True)


def _nonlinear_kind(random: np.random.Generator, n: int, scale: float) -> _Samples:
    """A label that saturates in one factor and holds the product of two."""
    z, features = random.standard_normal((n, FACTORS)), {}
    for name, width in WIDTHS.items():
        noise = random.standard_normal((n, STEPS, width)) * (1 + 0.3 * random.random((1, 1, width)))
        features[name] = scale * z[:, None] @ _directions(random, FACTORS, width) + noise
    return _Samples(features, np.tanh(1.5 * z[:, 0]) + 0.5 * z[:, 1] + 0.35 * z[:, 0] * z[:, 2], 0.4)


def _moment_kind(random: np.random.Generator, n: int, scale: float) -> _Samples:
    """Factors seen around one moment of each sample; padded on the left, columns of unlike scales and offsets."""
    z, features = random.standard_normal((n, FACTORS)), {}
    for name, width in WIDTHS.items():
        moment = np.exp(-0.5 * ((np.arange(STEPS) - random.integers(8, STEPS, (n, 1))) / 4.0) ** 2)
        x = scale * moment[:, :, None] * (z @ _directions(random, FACTORS, width))[:, None]
        x += random.standard_normal((n, STEPS, width))
        features[name] = x * np.exp(random.standard_normal(width)) + random.standard_normal(width)
    return _Samples(features, z @ np.array([1, 0.5, 0.5, 0.2]), 0.4, padded=True)


KINDS: dict[str, Callable[[np.random.Generator, int, float], _Samples]] = {
    "direction": _direction_kind,
    "wandering": _wandering_kind,
    "shared": _shared_kind,
    "nonlinear": _nonlinear_kind,
    "moment": _moment_kind,
}


def _made(kind: str, seed: int, scale: float, sizes: dict[str, int]) -> Dataset:
    random = np.random.default_rng([seed, list(KINDS).index(kind)])
    count = sum(sizes.values())
    found = KINDS[kind](random, count, scale)
    label = found.label / found.label.std() + found.noise * random.standard_normal(count)
    labels = np.round(np.clip(3 + label / label.std(), 1, 5), 1).astype(np.float32)
    if found.padded:
        there = np.arange(STEPS) >= STEPS - random.integers(8, STEPS + 1, (count, 1))
        found.features = {name: x * there[:, :, None] for name, x in found.features.items()}
    splits, start = {}, 0
    for name, size in sizes.items():
        rows = slice(start, start + size)
        arrays = (found.features[m][rows].astype(np.float32) for m in WIDTHS)
        splits[name] = Split(tuple(f"{name}-{i}" for i in range(size)), *arrays, labels=labels[rows])
        start += size
    side = dict.fromkeys(WIDTHS, "left" if found.padded else "none")
    return Dataset("generated", "", "regression", (1.0, 5.0), None, side, splits)  # type: ignore[arg-type]


def ridge_correlation(dataset: Dataset) -> float:
    """Ridge's correlation with the labels of the test split."""
    test = dataset.splits["test"]
    return correlation(Baselines(dataset).predictions(test)["ridge"][:, 0].astype(np.float64), test.labels) or 0.0


def generated(train: int, seed: int, kind: str = "direction", *, test: int = 400) -> Dataset:
    """A set of ``train`` training samples, a fifth as many to validate on, and ``test`` to know a correlation well."""
    sizes = {"train": train, "valid": max(10, train // 5), "test": test}
    low, high = 0.005, 1.0
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        if ridge_correlation(_made(kind, seed, middle, sizes)) < RIDGE_CORRELATION:
            low = middle
        else:
            high = middle
    return _made(kind, seed, high, sizes)
