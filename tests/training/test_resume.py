from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dmdkit.cli import main
from dmdkit.data import write_dataset
from dmdkit.errors import RunError
from dmdkit.training import trainer
from dmdkit.training.checkpoint import load_state, save_state
from dmdkit.training.progress import SilentProgress
from dmdkit.training.run import RUN_FILES, read_config
from tests.conftest import ROOT, tiny_dataset
from tests.training.helpers import train_tiny, tree
from tests.training.killed_trainings import FOLDS_FLAGS, FOLDS_MOMENT, MOMENTS, SETTINGS

FLAGS = [part for setting in SETTINGS for part in ("--set", setting)]


def train(data: Path, out: Path, *extra: str) -> int:
    return main(["train", "--data", str(data), "--out", str(out), "--device", "cpu", *FLAGS, *extra])


def resume(out: Path, *extra: str) -> int:
    return main(["train", "--resume", "--out", str(out), "--device", "cpu", *extra])


@pytest.fixture(scope="module")
def unbroken(tiny_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(tiny_data, out) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["best_epoch"] == 3, "a later epoch must be the best, or the weights would not show a wrong resume"
    return out


@pytest.fixture(scope="module")
def killed(tiny_data, tmp_path_factory):
    """A directory for every moment, as the kill left it."""
    out = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.training.killed_trainings", str(tiny_data), str(out)]
    ended = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return out


def results(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ("model.safetensors", "metrics.json", "history.csv", "config.yaml")}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_training_killed_at_any_moment_goes_on_to_the_same_bytes(killed, unbroken, moment):
    run = killed / moment
    assert not (run / "model.safetensors").exists()
    assert resume(run) == 0
    assert results(run) == results(unbroken)
    assert set(tree(run)) == set(RUN_FILES), "temporary files of the killed training are cleaned up"


def test_a_training_killed_in_a_fold_trains_only_the_folds_that_are_left(killed, tiny_data, tmp_path, monkeypatch):
    run, whole, trained = killed / FOLDS_MOMENT, tmp_path / "whole", []
    curve = trainer._fold_curve
    assert train(tiny_data, whole, *FOLDS_FLAGS) == 0
    monkeypatch.setattr(trainer, "_fold_curve", lambda *arguments: trained.append(1) or curve(*arguments))
    assert not (run / "last.ckpt").exists()
    assert resume(run) == 0
    assert len(trained) == 2, "the first of three folds was finished"
    assert results(run) == results(whole)
    assert (run / "folds.json").read_bytes() == (whole / "folds.json").read_bytes()
    assert set(tree(run)) == {*RUN_FILES, "folds.json"}


@pytest.mark.slow
def test_a_training_killed_ten_times_at_random_moments_ends_in_the_same_bytes(tiny_data, unbroken, tmp_path):
    command = [sys.executable, "-m", "tests.training.killed_trainings", str(tiny_data), str(tmp_path), "10", "1"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=600)
    runs = [*tmp_path.iterdir()]
    assert runs
    for run in runs:
        assert results(run) == results(unbroken)


@pytest.mark.slow
def test_the_kill_half_way_through_saving_did_leave_half_a_file(tiny_data, tmp_path):
    """Otherwise the moments above would not show what they claim."""
    code = (
        "import sys; from pathlib import Path; from tests.training.killed_trainings import train_and_die;"
        "train_and_die('saving-checkpoint', sys.argv[1], Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_data), str(tmp_path / "run")], cwd=ROOT, check=True, timeout=120)
    leftovers = [name for name in tree(tmp_path / "run") if re.fullmatch(r"\.last-\w{8}\.tmp\.ckpt", name)]
    assert len(leftovers) == 1
    with pytest.raises(RunError, match="damaged"):
        load_state(tmp_path / "run" / leftovers[0])
    assert load_state(tmp_path / "run" / "last.ckpt").next_epoch == 1


def test_an_unfinished_run_is_not_used_and_says_how_to_go_on(unbroken, tiny_data, capsys, tmp_path):
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    (run / "model.safetensors").unlink()
    for command in (["evaluate", str(run)], ["export", str(run), "--out", str(tmp_path / "b.dmd")], ["inspect", str(run)]):
        assert main(command) == 1
        assert f"training did not finish; continue it with: dmdkit train --resume --out {run}" in capsys.readouterr().err
    assert train(tiny_data, run) == 1
    assert "--resume" in capsys.readouterr().err


def test_a_finished_run_may_go_on_for_more_epochs(tiny_data, unbroken, tmp_path):
    run = tmp_path / "run"
    assert train(tiny_data, run, "--epochs", "1") == 0
    assert resume(run, "--epochs", "3") == 0
    assert results(run) == results(unbroken)
    assert read_config(run).training.epochs == 3


def test_resuming_a_finished_run_changes_nothing(unbroken, tmp_path):
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    assert resume(run) == 0
    assert results(run) == results(unbroken)


def test_weights_never_stand_beside_the_metrics_of_others(tiny_data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert train(tiny_data, run, "--epochs", "1") == 0
    first = (run / "model.safetensors").read_bytes()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmdkit.training.finishing.write_json", interrupted)
    assert resume(run, "--epochs", "3") == 130
    assert not (run / "model.safetensors").exists()
    monkeypatch.undo()
    assert resume(run) == 0
    assert (run / "model.safetensors").read_bytes() != first


def test_moved_data_is_found_with_data_and_remembered(tiny_data, killed, unbroken, tmp_path):
    moved = Path(shutil.copy(tiny_data, tmp_path / "moved.npz"))
    run = tmp_path / "run"
    assert train(moved, run, "--epochs", "1") == 0
    again = moved.rename(tmp_path / "again.npz")
    assert resume(run, "--epochs", "3") == 1
    assert resume(run, "--epochs", "3", "--data", str(again)) == 0
    assert (run / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert read_config(run).data.path == str(again)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--seed", "2"], "only --epochs, --data and --device"),
        (["--set", "training.learning_rate=1"], "only --epochs, --data and --device"),
        (["--config", "mosi-aligned"], "only --epochs, --data and --device"),
        (["--force"], "contradict"),
    ],
)
def test_resume_refuses_other_settings(unbroken, tmp_path, capsys, extra, said):
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    before = tree(run)
    assert resume(run, *extra) == 1
    assert said in capsys.readouterr().err
    assert tree(run) == before


def test_resume_refuses_other_data(unbroken, tmp_path, capsys):
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    write_dataset(tiny_dataset(seed=1), tmp_path / "other.npz")
    assert resume(run, "--data", str(tmp_path / "other.npz")) == 1
    assert "is not the file the run began with" in capsys.readouterr().err


def test_resume_says_what_it_needs(tmp_path, capsys):
    assert main(["train", "--resume"]) == 1
    assert "--out RUN" in capsys.readouterr().err
    assert resume(tmp_path / "absent") == 1
    assert "nothing to resume" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x05garbage"])
def test_a_damaged_checkpoint_is_one_readable_line(unbroken, tmp_path, capsys, content):
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    (run / "last.ckpt").write_bytes(content)
    assert resume(run) == 1
    assert "damaged or of another dmdkit; start the run anew with --force" in capsys.readouterr().err


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tiny_data, unbroken, tmp_path):
    run, shorter = Path(shutil.copytree(unbroken, tmp_path / "run")), tmp_path / "shorter"
    assert train(tiny_data, shorter, "--epochs", "2") == 0
    shutil.copy(shorter / "last.ckpt", run / "previous.ckpt")
    (run / "last.ckpt").write_bytes((run / "last.ckpt").read_bytes()[:1000])
    (run / "model.safetensors").unlink()
    assert resume(run) == 0
    assert results(run) == results(unbroken)
    assert set(tree(run)) == set(RUN_FILES), "a finished run needs no checkpoint before its last"


def test_while_a_training_runs_the_checkpoint_before_the_last_is_kept(tmp_path):
    seen = []

    class Watching(SilentProgress):
        def epoch(self, row, *, best):
            files = [tmp_path / "run" / name for name in ("previous.ckpt", "last.ckpt")]
            seen.append([load_state(file).next_epoch if file.is_file() else None for file in files])

    train_tiny(tmp_path / "run", "training.epochs=3", progress=Watching())
    assert seen == [[None, 1], [1, 2], [2, 3]]


class _Runs:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_checkpoint_is_executed(unbroken, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    torch.save({"format": 1, "model": _Runs()}, run / "last.ckpt")
    assert resume(run) == 1
    assert not Path("executed").exists()


def test_a_checkpoint_of_other_sizes_is_refused(unbroken, tmp_path, capsys):
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    state = load_state(run / "last.ckpt")
    state.model = {name: value[:1] for name, value in state.model.items() if value.ndim}
    save_state(state, run / "last.ckpt")
    assert resume(run) == 1
    assert "does not belong to this run's config" in capsys.readouterr().err


def test_history_has_one_line_an_epoch_after_a_kill(killed, unbroken):
    run = killed / "after-last-checkpoint"
    assert resume(run) == 0
    with (run / "history.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2", "3"]
    assert json.loads((run / "metrics.json").read_text())["epochs"] == 3


def test_a_run_without_a_checkpoint_is_not_resumed_and_keeps_its_weights(
    unbroken, published_weights, tiny_data, tmp_path, capsys
):
    finished, imported = tmp_path / "finished", tmp_path / "imported"
    shutil.copytree(unbroken, finished)
    (finished / "last.ckpt").unlink()
    assert main(["import", str(published_weights), "--heads", "2", "--out", str(imported)]) == 0
    for run, said in ((finished, "no last.ckpt to go on from"), (imported, "it was imported, not trained")):
        before = tree(run)
        assert resume(run, "--data", str(tiny_data)) == 1
        assert said in capsys.readouterr().err
        assert tree(run) == before
        with pytest.raises(RunError, match="nothing to resume"):
            train_tiny(run, resume=True)
        assert tree(run) == before
        assert train(tiny_data, run) == 1
        assert "--resume" not in capsys.readouterr().err, "what would be refused is not advised"
    (imported / "model.safetensors").unlink()
    assert main(["evaluate", str(imported)]) == 1
    assert "--resume" not in capsys.readouterr().err
    assert resume(imported, "--data", str(tiny_data)) == 1


def test_the_old_weights_stay_until_the_new_ones_are_written(tiny_data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert train(tiny_data, run, "--epochs", "1") == 0
    before = tree(run)["model.safetensors"]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert resume(run, "--epochs", "3") == 1
    assert tree(run)["model.safetensors"] == before


def test_fewer_epochs_than_are_trained_are_refused(unbroken, tmp_path, capsys):
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    before = tree(run)
    assert resume(run, "--epochs", "1") == 1
    assert "at least the 3 that are trained already, found 1" in capsys.readouterr().err
    assert tree(run) == before


def test_a_changed_config_is_refused_and_not_kept_as_the_record(unbroken, tmp_path, capsys):
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("learning_rate: 0.01", "learning_rate: 0.5"))
    before = tree(run)
    assert resume(run, "--epochs", "4") == 1
    assert "training.learning_rate: 0.5 (was 0.01)" in capsys.readouterr().err
    assert tree(run) == before


def test_a_checkpoint_of_an_earlier_version_goes_on(unbroken, tmp_path):
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    values = torch.load(run / "last.ckpt", weights_only=True)
    del values["config"]
    torch.save(values, run / "last.ckpt")
    assert resume(run) == 0
    assert results(run) == results(unbroken)
