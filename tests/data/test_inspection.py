from __future__ import annotations

import json

import numpy as np

from dmdkit.data import inspect_dataset, load_dataset, sample_dataset
from tests.data.builders import mmsa_content, write_pickle


def test_the_report_counts_what_is_there(tmp_path):
    content = mmsa_content()
    content["train"]["audio"][0] = 0
    content["train"]["vision"][1, 2, 3] = np.nan
    content["train"]["text"][:, :2] = 0
    report = inspect_dataset(load_dataset(write_pickle(tmp_path / "a.pkl", content), nan_policy="keep"))
    train = report.splits["train"]
    assert train.modalities["text"].shape == (6, 4, 5)
    assert train.modalities["text"].padding_side == "left"
    assert train.modalities["audio"].empty_share == 1 / 6
    assert train.modalities["vision"].non_finite.worst_columns == ((3, 1),)
    assert report.nan_policy_needed == "zero"
    json.dumps(report.to_json(), allow_nan=False)


def test_histograms_hold_every_sample(tmp_path):
    report = inspect_dataset(sample_dataset())
    assert next(label for label, _ in report.splits["train"].label_histogram) == "-3 to -2"
    assert {name: sum(count for _, count in split.label_histogram) for name, split in report.splits.items()} == {
        "train": 400,
        "valid": 80,
        "test": 120,
    }
    assert report.nan_policy_needed == "refuse"
    path = write_pickle(tmp_path / "a.pkl", mmsa_content())
    classes = inspect_dataset(load_dataset(path, task="classification"))
    assert classes.splits["test"].label_histogram == (("0", 2), ("1", 1), ("2", 1))
    odd = inspect_dataset(load_dataset(path, label_range=(-2.5, 30)))
    assert len(odd.splits["train"].label_histogram) == 10
