"""A second training of a run, compared with the first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dmdkit.data import load_dataset
from dmdkit.training.reproducing import compared, environment_changes
from dmdkit.training.run import Run
from tests.cli.helpers import TINY_FLAGS, in_process


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reproduced") / "run"
    assert in_process("train", "--data", tiny_data, "--out", out, *TINY_FLAGS) == 0
    return out


def changed(run: Path, to: Path, *, scale: float, torch_version: str | None = None) -> Run:
    """A copy of ``run`` whose weights are off by a share, perhaps of another version of PyTorch."""
    shutil.copytree(run, to)
    generator = torch.Generator().manual_seed(0)
    weights = load_file(to / "model.safetensors")
    save_file(
        {name: value * (1 + scale * torch.randn(value.shape, generator=generator)) for name, value in weights.items()},
        to / "model.safetensors",
    )
    if torch_version is not None:
        file = to / "environment.json"
        environment = json.loads(file.read_text())
        environment["packages"]["torch"] = torch_version
        file.write_text(json.dumps(environment))
    return Run.open(to)


def test_a_run_is_reproduced_bit_by_bit(trained, tmp_path, capsys) -> None:
    capsys.readouterr()
    assert in_process("reproduce", trained, "--out", tmp_path / "again") == 0
    assert "reproduced bit by bit" in capsys.readouterr().out
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_other_weights_of_the_same_machine_are_not_the_run_and_end_with_exit_code_2(trained, tmp_path, capsys) -> None:
    changed(trained, tmp_path / "other", scale=1e-6)
    assert in_process("reproduce", tmp_path / "other") == 2
    assert "not reproduced, though machine and versions are those recorded" in capsys.readouterr().out


@pytest.mark.parametrize(("scale", "status"), [(1e-5, "within"), (1.0, "different")])
def test_with_another_version_a_bound_decides_and_is_said(trained, tiny_data, tmp_path, scale, status) -> None:
    split = load_dataset(tiny_data).splits["test"]
    other = changed(trained, tmp_path / "other", scale=scale, torch_version="1.0")
    found = compared(other, Run.open(trained), split)
    assert found.status == status
    assert "torch 1.0 then, " in found.sentence
    assert "bound" in found.sentence


def test_what_an_earlier_run_does_not_record_is_no_change() -> None:
    assert environment_changes({}, {"cpu": "a"}) == []
    assert environment_changes({"packages": {"torch": "2"}}, {"packages": {"torch": "2"}, "cpu": "a"}) == []
    assert environment_changes({"cpu": "a"}, {"cpu": "b"}) == ["cpu a then, b now"]


def test_an_imported_run_has_nothing_to_train_again(trained, tmp_path, capsys) -> None:
    shutil.copytree(trained, tmp_path / "imported")
    facts = tmp_path / "imported" / "facts.json"
    facts.write_text(facts.read_text().replace('"train"', '"import"', 1))
    assert in_process("reproduce", tmp_path / "imported") == 1
    assert "imported, not trained" in capsys.readouterr().err
