"""Every kind of wrong input, to every command that takes one: one line, exit code 1, and nothing left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dmdkit.data import write_dataset
from dmdkit.errors import RunError
from tests.cli.helpers import TINY_FLAGS, WRONG_ARRAYS, WRONG_FOR_A_MODEL, in_process, wrong_files
from tests.conftest import tiny_dataset
from tests.training.helpers import train_tiny, tree

FILES = (
    "missing file",
    "directory",
    "empty file",
    "random bytes",
    "random bytes called pickle",
    "half a file",
    "forbidden class",
    "ragged",
    *WRONG_ARRAYS,
    *WRONG_FOR_A_MODEL,
)
COMMANDS = {
    "train": ["train", "--data", "{data}", "--out", "{out}", *TINY_FLAGS],
    "evaluate": ["evaluate", "{run}", "--data", "{data}"],
    "export --calib": ["export", "{run}", "--int8", "--calib", "{data}", "--out", "{out}"],
    "export --parity-data": ["export", "{run}", "--parity-data", "{data}", "--out", "{out}"],
    "check": ["check", "{bundle}", "--data", "{data}"],
    "predict": ["predict", "{bundle}", "--data", "{data}"],
    "predict --out": ["predict", "{bundle}", "--data", "{data}", "--out", "{out}.csv"],
    "data inspect": ["data", "inspect", "{data}"],
    "data convert": ["data", "convert", "{data}", "{out}.npz"],
    "import": ["import", "{data}", "--heads", "2", "--out", "{out}"],
}
# What a file may be good for although it is wrong for others.
FINE = {
    *(("train", name) for name in WRONG_FOR_A_MODEL),
    *(("data inspect", name) for name in (*WRONG_FOR_A_MODEL, "nan", "+inf", "-inf")),
    *(("data convert", name) for name in WRONG_FOR_A_MODEL),
    # Unused keys are noted; scores do not depend on labels.
    *((command, "unknown key") for command in COMMANDS if command != "import"),
    *((command, name) for command in ("predict", "predict --out") for name in ("label outside the range", "label nan")),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    good = folder / "good.npz"
    write_dataset(tiny_dataset(), good)
    return wrong_files(good, folder)


def one_line(capsys) -> str:
    """What was said: nothing on standard output, one line on standard error that is an error with some advice."""
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in lines[0]
    assert len(lines[0]) < 700
    return lines[0]


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in COMMANDS for name in FILES if (command, name) not in FINE]
)
def test_a_wrong_file_is_one_line_and_leaves_nothing(
    command, name, files, tiny_run, tiny_bundle, tmp_path, capsys, monkeypatch
):
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    places = {"data": files[name], "out": tmp_path / "out", "run": tiny_run, "bundle": tiny_bundle}
    before = tree(tiny_run), tree(tiny_bundle)
    assert in_process(*(part.format(**places) for part in COMMANDS[command])) == 1
    assert str(files[name]) in one_line(capsys)
    assert tree(tmp_path) == {}
    assert (tree(tiny_run), tree(tiny_bundle)) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_is_not_utf8_is_one_line_and_leaves_nothing(command, tiny_run, tiny_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    places = {"data": "data\udcff", "out": tmp_path / "out", "run": tiny_run, "bundle": tiny_bundle}
    assert in_process(*(part.format(**places) for part in COMMANDS[command])) == 1
    assert "data\\udcff: expected an argument that is UTF-8" in one_line(capsys)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("folder", ["data", "run"])
def test_a_run_records_no_path_that_is_not_utf8(folder, tiny_data, tmp_path, capsys, monkeypatch):
    """A relative path hides what the folder is called."""
    place = tmp_path / ("a\udcff" if folder == "data" else "b")
    place.mkdir()
    shutil.copy(tiny_data, place / "data.npz")
    monkeypatch.chdir(place)
    capsys.readouterr()
    if folder == "data":
        assert in_process("train", "--data", "data.npz", "--out", "run", *TINY_FLAGS) == 1
        assert "data.path: expected a path that is UTF-8" in capsys.readouterr().err
    else:
        with pytest.raises(RunError, match="expected a path that is UTF-8; choose another --out"):
            train_tiny(tmp_path / "b" / "run\udcff")
    assert sorted(tree(place)) == ["data.npz"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ids that are not UTF-8", r"'a\udcff' at index 0; rename the sample"),
        ("nan", "column 1, step 4"),
        ("-inf", "--nan-policy zero"),
        ("forbidden class", "system"),
        ("empty file", "is empty"),
        ("wrong width", "6 of 4"),
        ("label outside the range", "3.5"),
    ],
)
def test_the_line_says_what_is_wrong(name, said, files, tiny_bundle, capsys):
    assert in_process("check", tiny_bundle, "--data", files[name]) == 1
    assert said in one_line(capsys)


@pytest.mark.slow
def test_nan_is_taken_as_zero_when_told(files, tiny_bundle, tmp_path, capsys):
    for name in ("nan", "+inf", "-inf"):
        assert in_process("predict", tiny_bundle, "--data", files[name], "--nan-policy", "zero", "--graph", "fp32") == 0
        out = tmp_path / name
        assert in_process("train", "--data", files[name], "--out", out, "--nan-policy", "zero", *TINY_FLAGS) == 0
    assert "replaced by 0" in capsys.readouterr().err


def test_one_sample_a_split(tiny_run, tiny_bundle, tmp_path, capsys):
    data = tmp_path / "one.npz"
    write_dataset(tiny_dataset(train=1, valid=1, test=1), data)
    assert in_process("train", "--data", data, "--out", tmp_path / "run", *TINY_FLAGS) == 1
    assert "at least 2" in capsys.readouterr().err
    assert in_process("export", tiny_run, "--int8", "--calib", data, "--out", tmp_path / "b.dmd") == 1
    assert "at least 32 are needed" in capsys.readouterr().err
    assert in_process("evaluate", tiny_run, "--data", data, "--json") == 0
    assert '"corr": null' in capsys.readouterr().out
    assert in_process("predict", tiny_bundle, "--data", data, "--graph", "fp32") == 0
    assert sorted(tree(tmp_path)) == ["one.npz"]


def test_an_absent_modality_is_refused_where_the_model_never_met_it(tiny_run, tiny_bundle, tmp_path, capsys):
    dataset, data = tiny_dataset(seed=5), tmp_path / "silent.npz"
    for split in dataset.splits.values():
        split.audio[:] = 0
    write_dataset(dataset, data)
    before = tree(tiny_bundle)
    for command in (
        ["export", tiny_run, "--int8", "--calib", data, "--parity-data", data, "--out", tmp_path / "b.dmd"],
        ["check", tiny_bundle, "--data", data],
        ["predict", tiny_bundle, "--data", data],
    ):
        capsys.readouterr()
        assert in_process(*command) == 1, command
        assert "audio" in capsys.readouterr().err.splitlines()[-1]
    assert tree(tiny_bundle) == before
    assert sorted(tree(tmp_path)) == ["silent.npz"]


def test_training_without_validation_or_folds_is_refused(tmp_path, capsys):
    dataset = tiny_dataset()
    del dataset.splits["valid"]
    write_dataset(dataset, tmp_path / "d.npz")
    assert in_process("train", "--data", tmp_path / "d.npz", "--out", tmp_path / "run", "--folds", 0, *TINY_FLAGS) == 1
    assert "needs a valid split" in one_line(capsys)
    assert sorted(tree(tmp_path)) == ["d.npz"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "training.sed=1"], "training.sed: unknown key"),
        (["--config", "mosi"], "neither a file nor one of the recipes"),
        (["--set", "model.heads=3"], "heads=3 does not divide width=8"),
        (["--set", "model.kernels={text: 9, audio: 1, vision: 1}"], "longer than the 6 steps of text"),
        (["--device", "tpu"], "expected auto, cpu, cuda, cuda:N or mps"),
        (["--device", "cpu:0"], "expected auto, cpu, cuda, cuda:N or mps"),
        (["--device", "cuda:x"], "expected auto, cpu, cuda, cuda:N or mps"),
        (["--epochs", "0"], "--epochs"),
        (["--seed", "-1"], "--seed"),
        (["--set", "training.seed=99999999999"], "training.seed"),
        (["--label-range", "3", "-3"], "low < high"),
        (["--label-range", "-1", "1"], "labels from -1 to 1"),
        (["--task", "classification"], "class numbers"),
        (["--set", "model.width=200000", "--set", "model.heads=1"], "does not fit into memory"),
        (["--nan-policy", "keep"], "--nan-policy"),
        (["--unknown"], "No such option: --unknown"),
    ],
)
def test_a_wrong_option_of_train_is_one_line_and_leaves_nothing(tiny_data, tmp_path, capsys, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    assert in_process("train", "--data", tiny_data, "--out", "run", *TINY_FLAGS, *options) == 1
    assert said in one_line(capsys)
    assert tree(tmp_path) == {}


def test_a_wrong_option_does_not_write_the_embedded_sample(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options in (["--set", "a=1"], ["--device", "tpu"]):
        assert in_process("train", *options) == 1
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_device_that_is_not_here_is_one_line(device, command, tiny_data, tiny_run, tmp_path, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    target = ["--out", tmp_path / "run", "--data", tiny_data] if command == "train" else [tiny_run]
    assert in_process(command, *target, "--device", device) == 1
    assert "use --device cpu" in one_line(capsys)


def test_a_gpu_beyond_the_last_is_one_line(tiny_run, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert in_process("evaluate", tiny_run, "--device", "cuda:7") == 1
    assert "GPUs 0 to 1" in one_line(capsys)


UNWRITABLE = ("/proc/dmdkit", "{file}/below")


@pytest.mark.parametrize("place", UNWRITABLE)
@pytest.mark.parametrize("command", ["train", "import", "export", "predict", "data sample", "data convert", "demo"])
def test_an_output_that_cannot_be_written_is_one_line(
    command, place, tiny_data, tiny_run, tiny_bundle, published_weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    out = place.format(file=tmp_path / "file")
    commands = {
        "train": ["train", "--data", tiny_data, "--out", out, *TINY_FLAGS],
        "import": ["import", published_weights, "--heads", "2", "--out", out],
        "export": ["export", tiny_run, "--out", out],
        "predict": ["predict", tiny_bundle, "--data", tiny_data, "--graph", "fp32", "--out", out + ".csv"],
        "data sample": ["data", "sample", "--out", out + ".npz"],
        "data convert": ["data", "convert", tiny_data, out + ".npz"],
        "demo": ["demo", "--out", out],
    }
    before = tree(tmp_path)
    assert in_process(*commands[command]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("command", ["predict", "data sample", "data convert", "demo"])
def test_an_output_that_exists_is_kept_without_force(command, tiny_data, tiny_bundle, tmp_path, capsys):
    for name in ("out.json", "out.npz", "sample.npz"):
        (tmp_path / name).write_text("mine")
    commands = {
        "predict": ["predict", tiny_bundle, "--data", tiny_data, "--graph", "fp32", "--out", tmp_path / "out.json"],
        "data sample": ["data", "sample", "--out", tmp_path / "out.npz"],
        "data convert": ["data", "convert", tiny_data, tmp_path / "out.npz"],
        "demo": ["demo", "--out", tmp_path],
    }
    before = tree(tmp_path)
    assert in_process(*commands[command]) == 1
    assert "--force" in one_line(capsys)
    assert tree(tmp_path) == before


def test_a_bundle_is_replaced_only_with_force_and_only_if_it_is_one(tiny_run, bundle_copy, tmp_path, capsys):
    before = tree(bundle_copy)
    assert in_process("export", tiny_run, "--out", bundle_copy) == 1
    assert "--force" in capsys.readouterr().err
    assert tree(bundle_copy) == before
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("years of work")
    assert in_process("export", tiny_run, "--out", thesis, "--force") == 1
    assert (thesis / "chapter.tex").read_text() == "years of work"


def test_check_needs_the_bundles_own_run(tiny_bundle, tiny_data, tmp_path, capsys):
    assert in_process("check", tiny_bundle, "--run", tmp_path) == 1
    assert "--run needs --data" in one_line(capsys)
    assert in_process("check", tiny_bundle, "--data", tiny_data, "--run", tmp_path / "absent") == 1
    assert "no such run directory" in one_line(capsys)
    other = tmp_path / "other"
    assert in_process("train", "--data", tiny_data, "--out", other, *TINY_FLAGS, "--seed", "9") == 0
    capsys.readouterr()
    assert in_process("check", tiny_bundle, "--data", tiny_data, "--run", other) == 1
    assert "is not the run this bundle was exported from" in one_line(capsys)


@pytest.mark.parametrize("command", ["predict", "check", "evaluate"])
def test_a_split_that_is_not_there_lists_those_there_are(command, tiny_run, tiny_bundle, tiny_data, capsys):
    target = tiny_run if command == "evaluate" else tiny_bundle
    graph = ["--graph", "fp32"] if command == "predict" else []
    assert in_process(command, target, "--data", tiny_data, "--split", "dev", *graph) == 1
    assert "train, valid, test" in one_line(capsys)


@pytest.mark.slow
def test_changed_or_lost_training_data_is_noticed(tiny_data, tmp_path, capsys):
    data, run = Path(shutil.copy(tiny_data, tmp_path / "d.npz")), tmp_path / "run"
    assert in_process("train", "--data", data, "--out", run, *TINY_FLAGS) == 0
    write_dataset(tiny_dataset(seed=3), data)
    capsys.readouterr()
    for said, change in (("its SHA-256 differs", lambda: None), ("is gone", data.unlink)):
        change()
        assert in_process("evaluate", run) == 1
        assert said in (line := one_line(capsys))
        assert "--data" in line
        assert in_process("export", run, "--int8", "--out", tmp_path / "b.dmd") == 1
        assert said in (line := one_line(capsys))
        assert "--calib" in line
    assert in_process("export", run, "--out", tmp_path / "b.dmd") == 2
    assert "parity is not measured" in capsys.readouterr().err


def test_text_from_files_and_arguments_is_never_markup(tiny_bundle, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = tiny_dataset()
    ids = ("[bold]x[/]", "[/red]", ":smile:", "\x1b[31mred", "nine\nlines", "[link=file:///etc/passwd]a", "ü", "七")
    split = dataset.splits["test"].take(np.arange(len(ids)))
    dataset.splits["test"] = type(split)(ids, **split.features(), labels=split.labels)
    data = tmp_path / "[b]strange[/b] name.npz"
    write_dataset(dataset, data)
    assert in_process("predict", tiny_bundle, "--data", data, "--graph", "fp32") == 0
    out = capsys.readouterr().out
    for text in ("[bold]x[/]", "[/red]", ":smile:", "\\x1b[31mred", "nine\\nlines", "[link=file:///etc/passwd]a", "ü", "七"):
        assert text in out
    assert "\x1b" not in out
    assert in_process("data", "inspect", data) == 0
    assert "[b]strange[/b] name.npz" in capsys.readouterr().out
    assert in_process("predict", "[/b].dmd", "--data", data) == 1
    assert "[/b].dmd" in one_line(capsys)
    assert in_process("data", "inspect", "a\x1b[31m[/b].npz") == 1
    assert "a\\x1b[31m[/b].npz" in one_line(capsys)
