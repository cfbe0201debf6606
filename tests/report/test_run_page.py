"""The page of a run: everything the history holds, nothing that was smuggled in, and runs of an earlier version."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from dmdkit.cli import main
from dmdkit.report.curves import Curve, curve_chart
from dmdkit.report.numbers import number
from dmdkit.report.run_page import RUN_PAGE, render_run
from dmdkit.training.run_directory import check_target
from tests.report.conftest import HOSTILE


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_the_page_shows_every_column_of_the_history_and_what_the_run_is_worth(run: Path) -> None:
    assert main(["report", str(run)]) == 0
    page = (run / RUN_PAGE).read_text(encoding="utf-8")
    with (run / "history.csv").open(encoding="utf-8") as stream:
        columns = set(next(csv.reader(stream))) - {"epoch"}
    assert {"learning_rate", "train_gradient_norm", "train_margin", "valid_corr"} <= columns
    assert page.count("<figure>") == 8 + sum(column.startswith("valid_") and column != "valid_loss" for column in columns)
    metrics = json.loads((run / "metrics.json").read_text())
    for split in ("valid", "test"):
        assert f"{split}: {metrics['against_ridge'][split]['sentence']}" in page.replace("&#x27;", "'")
    assert "majority" in page
    for there in ("text, audio, vision", "audio, vision", "text"):
        mae = metrics["subsets"]["test"][there.replace(", ", "+")]["mae"]
        row = page.split(f'<th scope="row">{there}</th>')[1].split("</tr>")[0]
        assert row.split("</td>")[0].endswith(f">{number(mae, 4)}")
    assert "<script" not in page
    check_target(run, force=True)  # the page is the run's own: it does not stand in the way of --force


def test_a_run_of_an_earlier_version_has_a_page_too(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("baselines", "against_ridge", "warnings", "subsets"):
        del metrics[name]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "Learning rate" in render_run(run)
    assert "only some modalities" not in render_run(run)


@pytest.mark.parametrize("history", ["", "epoch,valid_loss\n"])
def test_a_run_without_epochs_is_one_readable_line(run: Path, history: str, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "history.csv").write_text(history)
    assert main(["report", str(run)]) == 1
    assert "history.csv has no epochs" in capsys.readouterr().err


def test_names_and_sentences_can_only_become_text(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["against_ridge"]["test"]["sentence"] = HOSTILE
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert HOSTILE not in render_run(run)


def test_a_curve_is_interrupted_where_a_value_is_missing() -> None:
    drawn = curve_chart("Loss", "Loss", [Curve("valid", [1.0, 2.0, None, 3.0])], mark=2)
    path = drawn.split(' d="')[1].split('"')[0]
    assert (path.count("M"), path.count("L")) == (2, 1)
    assert "valid from 1.00 to 3.00" in drawn
