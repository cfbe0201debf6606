from __future__ import annotations

import re

from typer.testing import CliRunner

from dmdkit.cli.data import app
from dmdkit.data import SAMPLE_DESCRIPTION
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_commands_of_the_guide_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    for line in block.group(1).splitlines():
        words = line.split("#")[0].split()
        assert words[:2] == ["dmdkit", "data"]
        assert CliRunner().invoke(app, words[2:]).exit_code == 0, line


def test_the_python_of_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, ["sample"])
    block = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    names: dict[str, object] = {}
    exec(block.group(1), names)
    assert len(names["train"]) == 400  # type: ignore[arg-type]


def test_the_results_and_the_description_state_the_same_numbers():
    measured = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    stated = re.findall(r"0\.\d{3}", SAMPLE_DESCRIPTION)
    assert f"| {' | '.join(stated)} |" in measured
