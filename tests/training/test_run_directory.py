from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from dmdkit.cli import main
from dmdkit.errors import RunError
from dmdkit.files import locked_directory
from dmdkit.training import trainer
from dmdkit.training.run import RUN_FILES, Run, metrics_of, newest_run
from dmdkit.training.run_directory import check_resumable, check_target, take_over
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

    monkeypatch.setattr("dmdkit.training.run_directory.write_environment", full)
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


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"heads": 2', '"heads": 4', "model.heads is 2 in the one and 4 in the other"),
        ('"standardised": true', '"standardised": false', "data.normalisation is standardise in the one and none in the other"),
        ('"gd_homo_width": 64', '"gd_homo_width": 32', "model.gd_homo_width"),
    ],
)
def test_facts_that_describe_another_model_than_the_config_are_refused(run_copy, capsys, old, new, key):
    facts = run_copy / "facts.json"
    assert old in facts.read_text()
    facts.write_text(facts.read_text().replace(old, new))
    assert main(["evaluate", str(run_copy)]) == 1
    said = capsys.readouterr().err
    assert "config.yaml and facts.json disagree" in said
    assert key in said


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("heads: 2", "heads: 4", "model.heads is 4 in the one and 2 in the other"),
        ("task: auto", "task: classification", "data.task"),
        ("label_range: null", "label_range: [-1, 1]", "data.label_range"),
        ("text_encoder: null", "text_encoder: bert", "text_encoder is True in the one and False in the other"),
    ],
)
def test_a_config_that_describes_another_model_than_the_facts_is_refused(run_copy, old, new, key):
    config = run_copy / "config.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(RunError, match=key):
        Run.open(run_copy)


def test_a_label_range_that_is_none_is_one_readable_error(run_copy, capsys):
    facts = json.loads((run_copy / "facts.json").read_text())
    (run_copy / "facts.json").write_text(json.dumps({**facts, "label_range": [3, -3]}))
    assert main(["evaluate", str(run_copy)]) == 1
    assert "label_range=3, -3: expected low < high" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"splits": {"test": 1}}', "splits.test: "),
        ('{"splits": {"test": {"mae": "x"}}}', "splits.test.mae: "),
        ('{"splits": {"test": {"mae": NaN}}}', "splits.test.mae: "),
        ('{"splits": {"test": {"mae": 1.0}}, "best_epoch": 1}', "the document: best_epoch=1: expected one of epochs=None"),
        ('{"splits": {}, "best_epoch": 9, "epochs": 8}', "the document: best_epoch=9: expected one of epochs=8"),
        ('{"splits": {"a": {"mae": 1}}, "baselines": []}', "baselines: "),
        ('{"splits": {}, "against_ridge": {"test": {"sentence": 5}}}', "against_ridge.test.sentence: "),
        ('{"splits": {}, "subsets": {"test": {}}}', "subsets.test: "),
        ('{"splits": {}, "warnings": 5}', "warnings: "),
        ("[]", "the document: "),
        ("{", "no JSON"),
        pytest.param("[" * 100_000, "no JSON", id="deep"),
        ("\udcff", "no JSON"),
    ],
)
def test_damaged_metrics_are_one_readable_error_that_names_what_is_wrong(run_copy, content, said, capsys):
    (run_copy / "metrics.json").write_bytes(content.encode(errors="surrogateescape"))
    for command in ("inspect", "report"):
        assert main([command, str(run_copy)]) == 1
        found = capsys.readouterr().err
        assert f"metrics.json: damaged: {said}" in found
        assert "dmdkit evaluate" in found


def test_metrics_of_an_import_and_of_an_earlier_version_are_read(run_copy):
    for content in ({"imported": True, "splits": {}}, {"splits": {"test": {"mae": 1, "corr": None}}, "new": [1]}):
        (run_copy / "metrics.json").write_text(json.dumps(content))
        assert metrics_of(run_copy) == content


def test_weights_that_give_nan_are_named(run_copy, capsys):
    from safetensors.torch import load_file, save_file

    weights = load_file(run_copy / "model.safetensors")
    save_file({name: value * float("nan") for name, value in weights.items()}, run_copy / "model.safetensors")
    assert main(["evaluate", str(run_copy)]) == 1
    assert "outputs are not finite (60 of 60 samples" in capsys.readouterr().err


def test_of_two_trainings_that_begin_together_the_second_writes_nothing(tiny_data, tmp_path, monkeypatch, capsys):
    """It begins while the first has passed its checks and writes its first files."""
    run, command = tmp_path / "run", ["train", "--data", str(tiny_data), "--out", str(tmp_path / "run"), *FLAGS, "--force"]
    start, seen = trainer.start_directory, []

    def start_while_another_begins(*arguments, **options):
        place = start(*arguments, **options)
        before = tree(run)
        seen.append((main([*command, "--seed", "2"]), tree(run) == before))
        return place

    monkeypatch.setattr(trainer, "start_directory", start_while_another_begins)
    assert main([*command, "--seed", "3", "--epochs", "1"]) == 0
    assert seen == [(1, True)]
    assert "another training is writing there" in capsys.readouterr().err
    assert Run.open(run).config.training.seed == 3


def test_a_run_that_finished_meanwhile_is_not_overwritten_without_force(run_copy, tmp_path, monkeypatch):
    build = trainer.LiveTraining

    def build_while_another_finishes(*arguments, **options):
        shutil.copytree(run_copy, tmp_path / "out")
        return build(*arguments, **options)

    monkeypatch.setattr(trainer, "LiveTraining", build_while_another_finishes)
    with pytest.raises(RunError, match="holds a run"):
        train_tiny(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(run_copy)


def test_import_does_not_replace_a_run_that_is_being_trained(run_copy, published_weights, capsys):
    before = tree(run_copy)
    with locked_directory(run_copy):
        assert main(["import", str(published_weights), "--heads", "2", "--out", str(run_copy), "--force"]) == 1
    assert "another training is writing there" in capsys.readouterr().err
    assert tree(run_copy) == before


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_force_keeps_the_old_run_until_the_new_one_is_complete(run_copy, tiny_data, tmp_path, monkeypatch, capsys):
    before = tree(run_copy)
    command = ["train", "--data", str(tiny_data), "--out", str(run_copy), *FLAGS, "--seed", "2", "--force"]
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "start_directory", interrupted)
        assert main(command) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "error: interrupted", "there is nothing to go on with yet"
    assert tree(run_copy) == before
    with monkeypatch.context() as patch:
        patch.setattr(trainer.LiveTraining, "_step", interrupted)
        assert main(command) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    go_on = f"go on with: dmdkit train --resume --out {run_copy}"
    assert said == f"error: interrupted; {run_copy} is still the run it was; {go_on}"
    assert {name: digest for name, digest in tree(run_copy).items() if not name.startswith("replacement")} == before
    assert Run.open(run_copy).config.training.seed == 1
    assert main(["train", "--resume", "--out", str(run_copy), "--device", "cpu"]) == 0
    assert Run.open(run_copy).config.training.seed == 2
    assert set(tree(run_copy)) == set(RUN_FILES)
    alone = tmp_path / "alone"
    assert main(["train", "--data", str(tiny_data), "--out", str(alone), *FLAGS, "--seed", "2"]) == 0
    assert tree(run_copy)["model.safetensors"] == tree(alone)["model.safetensors"]


def test_a_run_that_was_taking_the_others_place_when_killed_does_so_on_resume(run_copy, tiny_data, monkeypatch):
    command = ["train", "--data", str(tiny_data), "--out", str(run_copy), *FLAGS, "--seed", "2", "--force"]
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "take_over", interrupted)
        assert main(command) == 130
    new = {path.name: path.read_bytes() for path in (run_copy / "replacement").iterdir()}
    assert new.keys() == set(RUN_FILES)
    for moved in range(len(RUN_FILES) + 1):
        half = Path(shutil.copytree(run_copy, run_copy.with_name(f"half-{moved}")))
        replace, calls = Path.replace, []

        def at_most(self, target, moved=moved, replace=replace, calls=calls):
            calls.append(self)
            return interrupted() if len(calls) > moved else replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", at_most)
            with suppress(KeyboardInterrupt):
                take_over(half)
        if (half / "model.safetensors").is_file():
            assert moved >= len(RUN_FILES), "the weights come last"
            continue
        check_resumable(half)
        take_over(half)
        assert {path.name: path.read_bytes() for path in half.iterdir()} == new
    half = Path(shutil.copytree(run_copy, run_copy.with_name("resumed")))
    (half / "model.safetensors").unlink()
    assert main(["train", "--resume", "--out", str(half), "--device", "cpu"]) == 0
    assert {path.name for path in half.iterdir()} == set(RUN_FILES)
    assert (half / "model.safetensors").read_bytes() == new["model.safetensors"]


def test_a_second_training_in_a_directory_is_refused_and_harms_nothing(run_copy, tiny_data, capsys):
    before = tree(run_copy)
    with locked_directory(run_copy):
        for how in (["--force", *FLAGS], ["--resume", "--device", "cpu"]):
            assert main(["train", "--data", str(tiny_data), "--out", str(run_copy), *how]) == 1
            assert "another training is writing there" in capsys.readouterr().err
    assert tree(run_copy) == before
