from __future__ import annotations

import re

import numpy as np
import pytest

from dmdkit.data import SAMPLE_DESCRIPTION, Dataset, sample_dataset

PENALTY = 100.0


def ridge_correlation(dataset: Dataset, modalities: list[str]) -> float:
    def inputs(name: str) -> np.ndarray:
        arrays = [dataset.splits[name].features()[modality].astype(np.float64) for modality in modalities]
        return np.concatenate([part for array in arrays for part in (array.mean(axis=1), array[:, -1])], axis=1)

    train, labels = inputs("train"), dataset.splits["train"].labels.astype(np.float64)
    mean, scale = train.mean(axis=0), train.std(axis=0)
    train = (train - mean) / scale
    weights = np.linalg.solve(train.T @ train + PENALTY * np.eye(train.shape[1]), train.T @ (labels - labels.mean()))
    return float(np.corrcoef((inputs("test") - mean) / scale @ weights, dataset.splits["test"].labels)[0, 1])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    assert sample_dataset(3).sha256 == sample_dataset(3).sha256
    assert sample_dataset(3).sha256 != sample_dataset(4).sha256


def test_the_shapes_labels_and_gaps_are_as_described():
    dataset = sample_dataset()
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 400, "valid": 80, "test": 120}
    assert dataset.lengths == {"text": 20, "audio": 20, "vision": 20}
    assert dataset.feature_dims == {"text": 32, "audio": 12, "vision": 20}
    assert dataset.label_range == (-3.0, 3.0)
    assert set(dataset.padding_side.values()) == {"left"}
    train = dataset.splits["train"]
    np.testing.assert_allclose(train.labels * 5, np.round(train.labels * 5), atol=1e-5)
    assert np.abs(train.labels).max() <= 3
    assert len(np.unique(train.labels)) <= 31
    assert not (train.text == 0).all(axis=(1, 2)).any()
    for array in (train.audio, train.vision):
        assert 0.01 < (array == 0).all(axis=(1, 2)).mean() < 0.08
    assert 0.2 < (train.text[:, 0] == 0).all(axis=1).mean() < 0.4


def test_each_modality_helps_as_much_as_the_description_says():
    stated = [float(number) for number in re.findall(r"0\.\d{3}", SAMPLE_DESCRIPTION)]
    dataset = sample_dataset()
    measured = [ridge_correlation(dataset, list(names)) for names in (["text"], ["audio"], ["vision"])]
    measured.append(ridge_correlation(dataset, ["text", "audio", "vision"]))
    assert measured == pytest.approx(stated, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_text_leads_and_all_three_together_are_best_for_any_seed(seed):
    dataset = sample_dataset(seed)
    text, audio, vision = (ridge_correlation(dataset, [name]) for name in ("text", "audio", "vision"))
    assert text > audio > 0.15
    assert text > vision > 0.15
    assert ridge_correlation(dataset, ["text", "audio", "vision"]) > text + 0.1


def test_part_of_the_label_needs_the_order_of_audio_and_a_cue_in_vision():
    """A product of two features that ridge on means cannot form explains more of the label."""
    dataset = sample_dataset()

    def products(name: str) -> np.ndarray:
        split = dataset.splits[name]
        contrast = split.audio[:, 12:15].mean(axis=1) - split.audio[:, 16:19].mean(axis=1)
        mean = split.vision[:, 12:].mean(axis=1)
        return np.einsum("na,nv->nav", contrast, mean).reshape(len(split), -1)

    train, test = products("train"), products("test")
    scale = train.std(axis=0)
    gram = (train / scale).T @ (train / scale) + 1000.0 * np.eye(train.shape[1])
    labels = dataset.splits["train"].labels.astype(np.float64)
    weights = np.linalg.solve(gram, (train / scale).T @ (labels - labels.mean()))
    assert np.corrcoef(test / scale @ weights, dataset.splits["test"].labels)[0, 1] > 0.15
