"""``dmdkit predict --stream`` gives the score by step, the last of which is the window's."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmdkit.cli import main
from dmdkit.cli.stream import print_stream, shares_of, write_stream
from dmdkit.data import write_dataset
from tests.conftest import TEXT_SETTINGS
from tests.stream_builders import KERNEL, STEPS, stream_dataset


@pytest.fixture
def features(tmp_path: Path) -> Path:
    write_dataset(stream_dataset(), tmp_path / "random.npz")
    return tmp_path / "random.npz"


def test_scores_by_step_end_where_the_window_does(
    stream_bundle: Path, features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(stream_bundle), "--data", str(features), "--limit", "3", "--graph", "fp32"]
    assert main(["predict", *given, "--json"]) == 0
    windows = json.loads(capsys.readouterr().out)["samples"]
    assert main(["predict", *given, "--stream", "--json"]) == 0
    said = capsys.readouterr()
    assert "trained on padded windows" in said.err
    assert "step by step with stream.fp32" in said.err
    assert json.loads(said.out)["graph"] == "stream.fp32"
    for window, sample in zip(windows, json.loads(said.out)["samples"], strict=True):
        assert [step["heard"] for step in sample["steps"]] == list(range(KERNEL, STEPS + 1))
        np.testing.assert_allclose(sample["steps"][-1]["score"], window["score"], atol=1e-5)
    out = tmp_path / "steps.csv"
    assert main(["predict", *given, "--stream", "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == 3 * (STEPS - KERNEL + 1)
    assert set(rows[0]) == {"id", "heard", "score", "label", "latency_ms"}


@pytest.mark.parametrize("form", ["--json", "--out"])
def test_samples_without_labels_are_scored_too(
    stream_bundle: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, out = stream_dataset(), tmp_path / "steps.json"
    unknown = {name: replace(split, labels=np.full(len(split), np.nan, np.float32)) for name, split in dataset.splits.items()}
    write_dataset(replace(dataset, splits=unknown), tmp_path / "random.npz")
    given = [str(stream_bundle), "--data", str(tmp_path / "random.npz"), "--limit", "2", "--graph", "fp32", "--stream"]
    assert main(["predict", *given, *([form] if form == "--json" else [form, str(out)])]) == 0
    said = capsys.readouterr().out
    rows = json.loads(said)["samples"] if form == "--json" else json.loads(out.read_text())
    assert [row["label"] for row in rows] == [None, None]


def test_steps_are_explained_as_the_window_of_them(
    stream_bundle: Path, features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["predict", str(stream_bundle), "--data", str(features), "--limit", "1", "--graph", "fp32", "--explain"]
    found = []
    for more in ([], ["--stream"]):
        assert main([*given, *more]) == 0
        found.append(json.loads(capsys.readouterr().out)["samples"][0])
    window, last = found[0]["explanation"], found[1]["steps"][-1]["explanation"]
    for key in ("logit_hetero", "edges_hetero"):
        assert list(last[key]) == list(window[key])
        np.testing.assert_allclose([*last[key].values()], [*window[key].values()], atol=1e-5)


def test_classes_are_named_beside_their_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [{"heard": 4, "class": 2, "score": [0.1, 0.2, 0.7], "latency_ms": 1.0}]
    rows = [{"id": "a", "label": 1, "steps": steps}]
    print_stream(rows, classes=True)
    assert capsys.readouterr().out.split() == ["id", "steps", "class", "logit", "label", "a", "4", "2", "+0.700", "1"]
    write_stream(tmp_path / "steps.csv", rows)
    head, line = (tmp_path / "steps.csv").read_text().splitlines()
    assert dict(zip(head.split(","), line.split(","), strict=True))["class"] == "2"


def test_error_by_share_takes_the_last_answer_by_then() -> None:
    steps = [{"heard": n, "score": [float(n)]} for n in (2, 3, 4)]
    rows = [{"label": 1.0, "steps": steps}, {"label": None, "steps": steps}]
    assert shares_of(rows) == [(0.5, 1.0, 1), (0.75, 2.0, 1), (1.0, 3.0, 1)]


def test_a_step_with_a_label_of_its_own_is_held_against_that(
    stream_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = stream_dataset()
    test = dataset.splits["test"]
    own = np.full(test.text.shape[:2], np.nan, np.float32)
    own[:, 4], own[:, -1] = 0.5, test.labels
    write_dataset(replace(dataset, splits={**dataset.splits, "test": replace(test, step_labels=own)}), tmp_path / "own.npz")
    given = [str(stream_bundle), "--data", str(tmp_path / "own.npz"), "--limit", "2", "--graph", "fp32", "--stream"]
    assert main(["predict", *given, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["samples"]
    assert [step["label"] for step in rows[0]["steps"]] == [None, None, 0.5, None, None, None, pytest.approx(rows[0]["label"])]
    half = [abs(row["steps"][2]["score"][0] - 0.5) for row in rows]
    assert (0.75, pytest.approx(sum(half) / 2), 2) not in shares_of(rows)
    only = [{**row, "steps": [step for step in row["steps"] if step["label"] is not None]} for row in rows]
    assert (0.75, pytest.approx(sum(half) / 2), 2) in shares_of(only)
    assert main(["predict", *given, "--out", str(tmp_path / "steps.csv")]) == 0
    assert [row["label"] for row in csv.DictReader((tmp_path / "steps.csv").read_text().splitlines())][:3] == ["", "", "0.5"]


@pytest.mark.slow
def test_words_are_streamed_as_the_steps_that_the_encoder_makes_of_them(
    text_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not as the text features that the file has besides."""
    settings = [part for setting in (*TEXT_SETTINGS, "text_encoder.max_tokens=6") for part in ("--set", setting)]
    encoder = ["--text-encoder", str(text_data.parent / "bert")]
    run, bundle = str(tmp_path / "run"), str(tmp_path / "words.dmd")
    assert main(["train", "--data", str(text_data), "--out", run, "--device", "cpu", *encoder, *settings]) == 0
    assert main(["export", run, "--stream", "--parity-data", str(text_data), "--out", bundle]) in (0, 2)
    capsys.readouterr()
    given = ["predict", bundle, "--data", str(text_data), "--limit", "4", "--graph", "fp32", "--json"]
    assert main(given) == 0
    windows = json.loads(capsys.readouterr().out)["samples"]
    assert main([*given, "--stream"]) == 0
    samples = json.loads(capsys.readouterr().out)["samples"]
    assert [sample["id"] for sample in samples] == [window["id"] for window in windows]
    for sample, window in zip(samples, windows, strict=True):
        if sample["steps"][-1]["heard"] == 6:  # the others hear no padding, which this model was trained with
            np.testing.assert_allclose(sample["steps"][-1]["score"], window["score"], atol=1e-5)
    assert any(sample["steps"][-1]["heard"] == 6 for sample in samples)
