"""What each command answers when everything is right, for people and for machines."""

from __future__ import annotations

import csv
import errno
import json
import pickle
import shutil
from pathlib import Path

import pytest

from dmdkit.runtime.manifest import read_manifest
from dmdkit.training.run import read_config
from tests.cli.helpers import TINY_FLAGS, dmdkit, in_process
from tests.training.helpers import tree


def answer(capsys, *arguments: object, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert in_process(*arguments) == code
    said = capsys.readouterr()
    return said.out, said.err


def json_answer(capsys, *arguments: object, code: int = 0):
    return json.loads(answer(capsys, *arguments, "--json", code=code)[0])


def test_train_ends_with_what_it_wrote_and_the_next_command(tiny_data, tmp_path, capsys):
    out, err = answer(capsys, "train", "--data", tiny_data, "--out", tmp_path / "my run", *TINY_FLAGS)
    assert "all 2 epochs" in out  # 16 validation samples are too few to choose one
    for name in ("mae", "corr", "acc7", "acc5", "acc3", "acc2_non_zero", "f1_non_zero", "acc2_has_zero", "f1_has_zero"):
        assert name in out
    lines = err.splitlines()
    assert lines[0].startswith("64 training and 16 validation samples: learning_rate 0.001, ")
    assert lines[1].startswith("16 validation samples are too few to choose an epoch by")
    assert lines[2].startswith("only 8 optimiser steps are planned")
    assert lines[3].startswith("epoch 1/2 train ")
    assert "valid mae" in lines[3]
    assert lines[-2].startswith(f"wrote {tmp_path}/my run/")
    assert lines[-1] == f"next: dmdkit export '{tmp_path}/my run' --int8"
    assert sorted(tree(tmp_path / "my run")) == [
        "config.yaml",
        "environment.json",
        "facts.json",
        "history.csv",
        "last.ckpt",
        "metrics.json",
        "model.safetensors",
        "samples.json",
    ]


def test_train_json_is_the_metrics(tiny_data, tmp_path, capsys):
    found = json_answer(capsys, "train", "--data", tiny_data, "--out", tmp_path / "run", *TINY_FLAGS)
    assert found.pop("run") == str(tmp_path / "run")
    assert found == json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_a_runs_config_trains_the_same_again_on_its_own_data(tiny_run, tmp_path, capsys):
    config = shutil.copy(tiny_run / "config.yaml", tmp_path / "again.yaml")
    out = answer(capsys, "train", "--config", config, "--out", tmp_path / "run", "--device", "cpu")
    assert "embedded sample" not in out[1]
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (tiny_run / "model.safetensors").read_bytes()


def test_a_config_refuses_its_data_once_it_is_another_file(tiny_data, tiny_run, tmp_path, capsys):
    changed = shutil.copy(tiny_data, tmp_path / "d.npz")
    config = tmp_path / "c.yaml"
    config.write_text((tiny_run / "config.yaml").read_text().replace(str(tiny_data), str(changed)))
    answer(capsys, "train", "--config", config, "--out", tmp_path / "a", "--device", "cpu")
    assert in_process("data", "sample", "--out", changed, "--force") == 0
    _, err = answer(capsys, "train", "--config", config, "--out", tmp_path / "b", "--device", "cpu", code=1)
    assert "is not the file this config was used with" in err


def test_task_and_label_range_can_be_said(tiny_data, tmp_path, capsys):
    range_ = ["--label-range", "-4", "4", "--task", "regression"]
    out, _ = answer(capsys, "train", "--data", tiny_data, "--out", tmp_path / "run", *TINY_FLAGS, *range_)
    assert "acc7" not in out, "the classes of Acc-7 are defined on [-3, 3] only"
    data = read_config(tmp_path / "run").data
    assert (data.task, data.label_range) == ("regression", (-4, 4))


def test_runs_without_a_name_are_numbered(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        answer(capsys, "train", "--data", tiny_data, *TINY_FLAGS)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["tiny-small-1", "tiny-small-2"]


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_evaluate_repeats_the_metrics_of_training(tiny_run, tiny_data, capsys, device):
    metrics = json.loads((tiny_run / "metrics.json").read_text())["splits"]
    for split in ("valid", "test"):
        for data in ([], ["--data", tiny_data]):
            found = json_answer(capsys, "evaluate", tiny_run, *data, "--split", split, "--device", device)
            assert found.pop("run") == str(tiny_run)
            assert found.pop("split") == split
            assert found.pop("seen_samples") == ({"validated": 16} if split == "valid" else {})
            assert found == pytest.approx(metrics[split], abs=1e-5)
    out, err = answer(capsys, "evaluate", tiny_run)
    assert "acc2_has_zero" in out
    assert err == ""


@pytest.mark.slow
def test_check_says_the_verdict_and_is_json_for_machines(tiny_run, bundle_copy, tiny_data, capsys):
    arguments = ["check", bundle_copy, "--data", tiny_data, "--run", tiny_run]
    code = in_process(*arguments)
    out = capsys.readouterr().out
    assert f"verdict: {'passed' if code == 0 else ''}" in out
    assert "pytorch.fp32 -> fusion.fp32" in out
    found = json_answer(capsys, *arguments, code=code)
    assert found["samples"] == 60
    assert found["hops"][0]["kind"] == "measured"
    assert (found["status"] == "passed") == (code == 0)


@pytest.mark.slow
def test_check_without_data_cannot_prove_and_exits_2(bundle_copy, capsys):
    record = read_manifest(bundle_copy)
    fresh = record.model_copy(
        update={
            "graphs": {
                name: graph.model_copy(
                    update={"verdict": graph.verdict.model_copy(update={"status": "unverified", "samples": 0})}
                )
                for name, graph in record.graphs.items()
            }
        }
    )
    from dmdkit.runtime.manifest import write_manifest

    write_manifest(bundle_copy, fresh)
    out, _ = answer(capsys, "check", bundle_copy, code=2)
    assert "verdict: unverified" in out


def test_predict_prints_writes_and_explains(tiny_bundle, tiny_data, tmp_path, capsys):
    common = ["predict", tiny_bundle, "--data", tiny_data, "--graph", "fp32", "--limit", "3"]
    out, err = answer(capsys, *common)
    assert len(out.splitlines()) == 4
    assert "3 samples of the test split with fusion.fp32" in err
    samples = json_answer(capsys, *common)["samples"]
    assert [sample["id"] for sample in samples] == ["test-0", "test-1", "test-2"]
    explained = json_answer(capsys, *common, "--explain")["samples"][0]["explanation"]
    assert explained["logit_homo"].keys() == {"text", "audio", "vision"}
    assert sum(explained["edges_homo"].values()) == pytest.approx(1, abs=1e-4) or len(explained["edges_homo"]) == 6
    answer(capsys, *common, "--out", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["score"]) for row in rows] == pytest.approx([sample["score"][0] for sample in samples])
    answer(capsys, *common, "--explain", "--out", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())[0]["explanation"] == explained
    assert ".csv or .json" in answer(capsys, *common, "--out", tmp_path / "a.txt", code=1)[1]
    assert "explanations" in answer(capsys, *common, "--explain", "--out", tmp_path / "b.csv", code=1)[1]
    assert "fly" in answer(capsys, *common[:-4], "--graph", "fly", code=1)[1]


def test_predictions_do_not_depend_on_labels(tiny_bundle, tiny_data, tmp_path, capsys):
    import numpy as np

    with np.load(tiny_data) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "label_range"}
    np.savez(tmp_path / "scaled.npz", **{**arrays, "labels": arrays["labels"] * 5})
    scores = []
    for data in (tiny_data, tmp_path / "scaled.npz"):
        samples = json_answer(capsys, "predict", tiny_bundle, "--data", data, "--graph", "fp32")["samples"]
        scores.append([sample["score"] for sample in samples])
    assert scores[0] == scores[1]


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_predict_needs_no_labels(suffix, tiny_bundle, tiny_data, tmp_path, capsys):
    import numpy as np

    with np.load(tiny_data) as archive:
        arrays = {name: archive[name] for name in archive.files if name not in ("label_range", "labels")}
    path = tmp_path / f"unlabelled{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        rows = arrays["split"] == "test"
        features = {name: arrays[name][rows] for name in ("text", "audio", "vision")}
        path.write_bytes(pickle.dumps({"test": {**features, "id": list(arrays["ids"][rows])}}))
    found = [
        json_answer(capsys, "predict", tiny_bundle, "--data", data, "--graph", "fp32", "--limit", "3")["samples"]
        for data in (tiny_data, path)
    ]
    assert [sample["score"] for sample in found[0]] == [sample["score"] for sample in found[1]]
    assert [sample["label"] for sample in found[1]] == [None] * 3
    common = ["predict", tiny_bundle, "--data", path, "--graph", "fp32", "--limit", "2"]
    assert [line.split()[2] for line in answer(capsys, *common)[0].splitlines()] == ["label", "-", "-"]
    answer(capsys, *common, "--out", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as stream:
        assert [row["label"] for row in csv.DictReader(stream)] == ["", ""]
    assert "this key" in answer(capsys, "check", tiny_bundle, "--data", path, code=1)[1], "a verdict needs labels"


def test_a_csv_of_classes_has_a_class_column(tmp_path, capsys):
    from dmdkit.cli.bundle import _print_rows, _write_rows

    rows = [{"id": "a", "class": 2, "score": [0.1, -1.0, 3.5], "label": 1, "latency_ms": 0.5}]
    _write_rows(tmp_path / "a.csv", rows)
    with (tmp_path / "a.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert list(row) == ["id", "class", "score_0", "score_1", "score_2", "label", "latency_ms"]
    assert (row["class"], row["label"]) == ("2", "1")
    _print_rows(rows)
    assert capsys.readouterr().out.splitlines()[1].split() == ["a", "2", "+3.500", "1", "0.50"]


def test_inspect_shows_a_bundle_and_replays_it(tiny_bundle, capsys):
    out, err = answer(capsys, "inspect", tiny_bundle)
    for text in (
        "fusion.int8-trt",
        "labels from -3 to 3",
        "every hash matches",
        "the same answers as when",
        "calibrated on 64",
    ):
        assert text in out
    assert err.startswith("next: dmdkit predict")
    assert json_answer(capsys, "inspect", tiny_bundle) == read_manifest(tiny_bundle).model_dump(mode="json")


def test_inspect_exits_2_when_a_graph_gives_other_answers(tiny_bundle, capsys, monkeypatch):
    from dmdkit.runtime import Runtime

    real = Runtime.self_check

    def failing(self, **options):
        from dataclasses import replace

        found = real(self, **options)
        return replace(found, passed=False, graphs=(replace(found.graphs[0], passed=False), *found.graphs[1:]))

    monkeypatch.setattr(Runtime, "self_check", failing)
    out, _ = answer(capsys, "inspect", tiny_bundle, code=2)
    assert "OTHER answers" in out
    assert "is off by" in out


def test_inspect_shows_a_run(tiny_run, capsys):
    out, err = answer(capsys, "inspect", tiny_run)
    assert "width 8, 2 heads, 1 levels" in out
    assert "next: dmdkit export" in err
    found = json_answer(capsys, "inspect", tiny_run)
    assert found["facts"]["origin"] == "train"
    assert found["metrics"]["splits"].keys() == {"valid", "test"}


@pytest.mark.parametrize("damage", ["gone", "empty", "file"])
def test_inspect_of_no_bundle_is_one_line(tmp_path, capsys, damage):
    path = tmp_path / "x.dmd"
    if damage == "empty":
        path.mkdir()
    elif damage == "file":
        path.write_bytes(b"x")
    for command in (["inspect", path], ["check", path]):
        _, err = answer(capsys, *command, code=1)
        assert len(err.splitlines()) == 1
        assert str(path) in err


def test_a_bundle_with_a_changed_graph_is_refused(bundle_copy, tiny_data, capsys):
    graph = bundle_copy / read_manifest(bundle_copy).graphs["fusion.fp32"].file
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(bytes(data))
    for command in (
        ["inspect", bundle_copy],
        ["check", bundle_copy],
        ["predict", bundle_copy, "--data", tiny_data, "--graph", "fp32"],
    ):
        _, err = answer(capsys, *command, code=1)
        assert len(err.splitlines()) == 1
        assert graph.name in err


def test_doctor_lists_what_is_installed(capsys):
    out, _ = answer(capsys, "doctor")
    assert "onnxruntime" in out
    assert "backend onnxruntime cpu: works" in out
    found = json_answer(capsys, "doctor")
    assert found["packages"]["torch"]["install"] is None


def test_doctor_says_how_to_get_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr("dmdkit.cli.doctor._PACKAGES", (("no-such-package", "quantize", "export --int8"),))
    out, _ = answer(capsys, "doctor")
    assert "no-such-package is missing (export --int8); get it with: pip install 'dmdkit[quantize]'" in out


def test_import_makes_a_run_like_any_other(published_weights, tiny_data, tmp_path, capsys):
    run = tmp_path / "run"
    out, err = answer(capsys, "import", published_weights, "--heads", "2", "--out", run)
    assert out == ""
    assert "width 8, 2 heads, 1 levels, 1 outputs; text 6x7 kernel 1" in err
    assert err.rstrip().endswith(f"next: dmdkit export {run} --int8 --calib FEATURES.pkl --parity-data FEATURES.pkl")
    assert "import, regression" in answer(capsys, "inspect", run)[0]
    assert json_answer(capsys, "evaluate", run, "--data", tiny_data)["samples"] == 60
    assert "--data" in answer(capsys, "evaluate", run, code=1)[1]
    assert "--calib" in answer(capsys, "export", run, "--int8", "--out", tmp_path / "b.dmd", code=1)[1]
    before = tree(tmp_path)
    assert "--force" in answer(capsys, "import", published_weights, "--heads", "2", "--out", run, code=1)[1]
    assert "does not divide" in answer(capsys, "import", published_weights, "--heads", "3", "--out", run, "--force", code=1)[1]
    assert tree(tmp_path) == before
    answer(capsys, "import", published_weights, "--heads", "4", "--out", run, "--force")
    assert read_config(run).model.heads == 4
    (run / "thesis.tex").write_text("years of work")
    assert "thesis.tex" in answer(capsys, "import", published_weights, "--heads", "2", "--out", run, "--force", code=1)[1]


def test_an_import_that_cannot_finish_leaves_what_was_there(published_weights, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    answer(capsys, "import", published_weights, "--heads", "2", "--out", run)
    before = tree(tmp_path)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dmdkit.training.importing.write_bytes", full)
    for target in (run, tmp_path / "new"):
        _, err = answer(capsys, "import", published_weights, "--heads", "4", "--out", target, "--force", code=1)
        assert "No space left on device; choose a writable place with free space" in err
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_export_and_check_print_json(tiny_run, tmp_path, capsys):
    found = json_answer(capsys, "export", tiny_run, "--out", tmp_path / "b.dmd", code=0)
    assert set(found["graphs"]) == {"fusion.fp32", "explain.fp32", "gd_homo.fp32", "gd_hetero.fp32"}
    assert found["parity"]["samples"] == 60


@pytest.mark.slow
def test_export_says_what_it_chose_and_how_to_choose_otherwise(tiny_run, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, tmp_path / "runs" / "first")
    _, err = answer(capsys, "export")
    assert "no run given: exporting the newest, runs/first; name another as the first argument" in err
    assert f"checking parity on the test split of {tiny_data}; choose another with --parity-data" in err
    assert err.rstrip().endswith(f"next: dmdkit predict first.dmd --data {tiny_data}")
    assert Path("first.dmd/manifest.json").is_file()
    _, err = answer(capsys, "export", code=1)
    assert "first.dmd exists" in err


def test_export_without_any_run_says_how_to_make_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, err = answer(capsys, "export", "--int8", code=1)
    assert "dmdkit train" in err
    assert tree(tmp_path) == {}


@pytest.mark.slow
def test_the_two_bare_commands_work_one_after_the_other(tmp_path):
    small = ["--epochs", "1", *(p for s in TINY_FLAGS[2:] if s.startswith("model.") for p in ("--set", s))]
    trained = dmdkit("train", *small, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "no --data given: training on the embedded sample, written to runs/dmdkit-sample.npz" in trained.stderr
    assert "name your own file with --data" in trained.stderr
    exported = dmdkit("export", "--int8", cwd=tmp_path)
    assert exported.returncode in (0, 2), exported.stderr
    for text in (
        "exporting the newest, runs/dmdkit-sample-small-1; name another",
        "calibrating on the training split of",
        "choose another with --calib",
        "checking parity on the test split of",
        "choose another with --parity-data",
    ):
        assert text in exported.stderr
    manifest = read_manifest(tmp_path / "dmdkit-sample-small-1.dmd")
    config = read_config(tmp_path / "runs" / "dmdkit-sample-small-1")
    assert manifest.calibration.data_sha256 == config.data.sha256
    assert Path(config.data.path) == tmp_path / "runs" / "dmdkit-sample.npz"
    assert {graph.verdict.samples for graph in manifest.graphs.values()} == {120}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dmdkit-sample-small-1.dmd", "runs"]


@pytest.mark.slow
def test_the_demo_runs_the_whole_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dmdkit.cli.demo._DEMO_SETTINGS", ["training.epochs=3", "model.width=12", "model.levels=1"])
    out, err = answer(capsys, "demo", "--out", tmp_path / "demo")
    for step in ("1/5", "2/5", "3/5", "4/5", "5/5"):
        assert step in err
    assert "self-check of 8 graphs: passed" in out
    assert in_process("demo", "--out", tmp_path / "demo") == 1
    assert "--force" in capsys.readouterr().err
