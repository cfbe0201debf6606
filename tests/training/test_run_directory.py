from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dmdkit.cli import main
from dmdkit.errors import RunError
from dmdkit.training.run import Run, check_target, metrics_of, newest_run, sole_writer
from tests.conftest import TINY_SETTINGS
from tests.training.helpers import train_tiny, tree

FLAGS = ["--device", "cpu", *(part for setting in TINY_SETTINGS for part in ("--set", setting))]


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_a_run_is_never_overwritten_without_force(run_copy, tiny_data, capsys):
    before = tree(run_copy)
    assert main(["train", "--data", str(tiny_data), "--out", str(run_copy), *FLAGS]) == 1
    assert "--force" in capsys.readouterr().err
    assert tree(run_copy) == before
    assert main(["train", "--data", str(tiny_data), "--out", str(run_copy), *FLAGS, "--seed", "2", "--force"]) == 0
    after = tree(run_copy)
    assert after.keys() == before.keys()
    assert after["model.safetensors"] != before["model.safetensors"]


@pytest.mark.parametrize(
    "foreign", ["thesis.tex", ".git/HEAD", ".bashrc", ".last-secret.tmp", "model.safetensors.bak", "notes/"]
)
@pytest.mark.parametrize("beside_a_run", [True, False])
def test_force_refuses_a_directory_that_holds_foreign_files(run_copy, tiny_data, capsys, foreign, beside_a_run):
    if not beside_a_run:
        shutil.rmtree(run_copy)
    path = run_copy / foreign
    path.parent.mkdir(parents=True, exist_ok=True)
    if foreign.endswith("/"):
        path.mkdir()
    else:
        path.write_text("years of work")
    before = tree(run_copy)
    for force in ([], ["--force"]):
        assert main(["train", "--data", str(tiny_data), "--out", str(run_copy), *FLAGS, *force]) == 1
        assert "holds what is not a run's" in capsys.readouterr().err
        assert tree(run_copy) == before


def test_force_never_deletes_a_directory_that_has_a_run_files_name(tmp_path):
    (tmp_path / "run" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(RunError, match="holds what is not a run's"):
        check_target(tmp_path / "run", force=True)


def test_an_empty_directory_is_taken_and_leftovers_do_not_count(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".last-ab12cd34.tmp.ckpt").write_bytes(b"half")
    assert ".last-ab12cd34.tmp.ckpt" not in tree(train_tiny(out).path)


def test_a_linked_run_directory_is_written_through_the_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    train_tiny(tmp_path / "link")
    assert Run.open(tmp_path / "real").facts.task == "regression"
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    with pytest.raises(RunError, match="broken link"):
        check_target(tmp_path / "broken", force=True)


def test_a_failed_beginning_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RunError("cannot write: No space left on device")

    monkeypatch.setattr("dmdkit.training.run.write_environment", full)
    with pytest.raises(RunError, match="No space"):
        train_tiny(tmp_path / "run")
    assert tree(tmp_path) == {}
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError, match="No space"):
        train_tiny(tmp_path / "mine")
    assert tree(tmp_path) == {"mine": "directory"}


def test_the_newest_finished_run_is_found(tiny_run, tmp_path):
    with pytest.raises(RunError, match="no finished run under"):
        newest_run(tmp_path / "runs")
    for number, name in enumerate(("b", "a", "unfinished")):
        copy = Path(shutil.copytree(tiny_run, tmp_path / "runs" / name))
        os.utime(copy / "model.safetensors", (10**9 + number, 10**9 + number))
    (tmp_path / "runs" / "unfinished" / "model.safetensors").unlink()
    assert newest_run(tmp_path / "runs").path.name == "a"


@pytest.mark.parametrize("name", ["config.yaml", "facts.json", "metrics.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1, 2]", b'{"a": 1}', b"!!python/object/apply:os.getcwd []"])
def test_a_damaged_file_of_a_run_is_one_readable_error(run_copy, capsys, name, content):
    (run_copy / name).write_bytes(content)
    command = "inspect" if name == "metrics.json" else "evaluate"
    assert main([command, str(run_copy)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert name in said[0]


def test_metrics_that_are_no_metrics_are_refused(run_copy):
    (run_copy / "metrics.json").write_text('{"splits": {"test": 1}}')
    with pytest.raises(RunError, match="damaged"):
        metrics_of(run_copy)


def test_weights_that_give_nan_are_named(run_copy, capsys):
    from safetensors.torch import load_file, save_file

    weights = load_file(run_copy / "model.safetensors")
    save_file({name: value * float("nan") for name, value in weights.items()}, run_copy / "model.safetensors")
    assert main(["evaluate", str(run_copy)]) == 1
    assert "outputs are not finite (60 of 60 samples" in capsys.readouterr().err


def test_a_second_training_in_a_directory_is_refused_and_harms_nothing(run_copy, tiny_data, capsys):
    before = tree(run_copy)
    with sole_writer(run_copy):
        for how in (["--force", *FLAGS], ["--resume", "--device", "cpu"]):
            assert main(["train", "--data", str(tiny_data), "--out", str(run_copy), *how]) == 1
            assert "another training is writing there" in capsys.readouterr().err
    assert tree(run_copy) == before
