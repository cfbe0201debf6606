"""Commands that give a verdict: what they refuse to judge on, and what they say where they cannot prove or keep it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmdkit.data import Dataset, write_dataset
from dmdkit.parity.ledger import read_ledger
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.manifest import VerdictRecord, read_manifest, write_manifest
from tests.cli.helpers import in_process
from tests.conftest import tiny_dataset


def written(path: Path, change: dict[str, object] | None = None, **splits: object) -> Path:
    data = tiny_dataset()
    write_dataset(replace(data, splits={**data.splits, **splits}, **(change or {})), path)  # type: ignore[arg-type]
    return path


def ten_times(data: Dataset) -> dict[str, object]:
    splits = {name: replace(part, labels=part.labels * np.float32(10)) for name, part in data.splits.items()}
    return {"label_range": (-30.0, 30.0), "splits": splits}


def test_check_leaves_calibration_samples_out_and_says_how_many(bundle_copy: Path, tiny_data: Path, capsys):
    assert in_process("check", bundle_copy, "--data", tiny_data, "--split", "train") == 2
    said = capsys.readouterr()
    assert "64 train samples calibrated INT8 and are left out of the verdict; none is left" in said.err
    assert "verdict: unverified" in said.out
    page = (bundle_copy / "report/report.html").read_text()
    assert "all 64 samples given calibrated INT8" in page
    assert "held-out samples (train split" not in page


@pytest.mark.parametrize("command", ["evaluate", "export", "check"])
def test_labels_on_another_scale_are_refused_by_one_rule(
    command: str, tiny_run: Path, tiny_bundle: Path, tmp_path: Path, capsys
):
    data = tiny_dataset()
    path = tmp_path / "scaled.npz"
    write_dataset(replace(data, **ten_times(data)), path)  # type: ignore[arg-type]
    arguments = {
        "evaluate": ["evaluate", tiny_run, "--data", path],
        "export": ["export", tiny_run, "--parity-data", path, "--out", tmp_path / "b.dmd"],
        "check": ["check", tiny_bundle, "--data", path],
    }
    assert in_process(*arguments[command]) == 1
    assert "expected labels from -3 to 3, found" in capsys.readouterr().err
    assert not (tmp_path / "b.dmd").exists()


def test_a_test_split_of_training_samples_is_noted_and_refused_for_a_verdict(
    tiny_run: Path, tiny_bundle: Path, tmp_path: Path, capsys
):
    train = tiny_dataset().splits["train"].take(np.arange(60))
    path = written(tmp_path / "leaky.npz", test=replace(train, ids=tuple(f"test-{index}" for index in range(60))))
    assert in_process("data", "inspect", path) == 0
    said = capsys.readouterr().out
    assert "60 of 60 test samples have the same features as train samples under other names" in " ".join(said.split())
    for command in (
        ["check", tiny_bundle, "--data", path],
        ["export", tiny_run, "--parity-data", path, "--out", tmp_path / "b.dmd"],
    ):
        assert in_process(*command) == 1
        assert "60 of 60 test samples have the same features as training samples" in capsys.readouterr().err
    assert in_process("predict", tiny_bundle, "--data", path, "--limit", "1") in (0, 1)  # scores need no held-out samples


@pytest.mark.slow
def test_an_export_that_proves_nothing_ends_with_2_and_a_run_named_by_a_dot_keeps_its_name(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    run = Path(shutil.copytree(tiny_run, tmp_path / "face"))
    monkeypatch.chdir(run)
    assert in_process("export", ".", "--parity-split", "nosuch") == 2
    assert "not yet proven" in capsys.readouterr().err
    manifest = Bundle.open(run / "face.dmd").manifest
    assert (manifest.name, manifest.source.run) == ("face", "face")
    assert not list(run.glob(".*"))


def test_a_bundle_needs_a_name(tiny_run: Path, capsys):
    assert in_process("export", tiny_run, "--out", "/") == 1
    assert "--out / has no name to call the bundle by" in capsys.readouterr().err


def test_a_verdict_that_cannot_be_kept_is_still_said(bundle_copy: Path, tiny_data: Path, capsys):
    shutil.rmtree(bundle_copy / "report")
    (bundle_copy / "report").write_text("in the way")  # a read-only folder, also for root
    assert in_process("check", bundle_copy, "--data", tiny_data) == 1
    said = capsys.readouterr()
    assert "verdict: passed" in said.out
    assert "the verdict is not kept in the bundle: cannot write" in said.err
    assert in_process("check", bundle_copy) == 2, "golden samples prove nothing, and that is the first thing to know"
    said = capsys.readouterr()
    assert "verdict: unverified" in said.out
    assert "not kept" in said.err


def test_a_pipe_is_refused_instead_of_waited_for(tiny_bundle: Path, tmp_path: Path, capsys):
    pipe = tmp_path / "features.npz"
    os.mkfifo(pipe)
    for command in (["data", "inspect", pipe], ["check", tiny_bundle, "--data", pipe]):
        assert in_process(*command) == 1
        assert "is not a file but a pipe or a device" in capsys.readouterr().err


def test_a_failure_of_an_earlier_check_is_named(bundle_copy: Path, capsys):
    manifest = read_manifest(bundle_copy)
    graph = manifest.graphs["fusion.int8-cpu"]
    failed = graph.model_copy(update={"verdict": VerdictRecord(status="failed", reason="p99 error 2 > 1", samples=60)})
    write_manifest(bundle_copy, manifest.model_copy(update={"graphs": manifest.graphs | {"fusion.int8-cpu": failed}}))
    assert in_process("check", bundle_copy, "--backend", "onnxruntime") == 2
    said = capsys.readouterr()
    assert "verdict: failed" in said.out
    assert "fusion.int8-cpu: failed in an earlier check, and nothing has proven it since: p99 error 2 > 1" in said.err
    assert said.err.count("earlier check") == 1


def test_export_says_which_samples_it_left_out_and_which_only_have_known_names(
    tiny_run: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    ledger = read_ledger(tiny_bundle)
    assert ledger is not None
    given = ledger.model_copy(update={"seen_samples": {"trained": 69}, "named_alike": 7})
    monkeypatch.setattr("dmdkit.cli.export.export_run", lambda *_, **__: (read_manifest(tiny_bundle), given))
    in_process("export", tiny_run, "--parity-data", "features.npz", "--out", tmp_path / "b.dmd")
    said = capsys.readouterr().err
    assert "features.npz: 69 test samples trained the model and are left out of the verdict" in said
    assert "features.npz: 7 test samples have the names of samples that made the model, with other features" in said
