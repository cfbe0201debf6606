"""TensorBoard events of a training, written where the package is installed and said where it is not."""

from __future__ import annotations

import csv
import sys
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests.cli.helpers import TINY_FLAGS, in_process


class Writer:
    """Remembers what torch.utils.tensorboard.SummaryWriter would write."""

    made: ClassVar[list[Writer]] = []

    def __init__(self, directory: str) -> None:
        self.directory, self.closed = directory, False
        self.scalars: list[tuple[str, Any, int]] = []
        self.made.append(self)

    def add_scalar(self, tag: str, value: Any, step: int) -> None:
        self.scalars.append((tag, value, step))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def test_events_say_what_the_history_says(tiny_data, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    Writer.made.clear()
    events = tmp_path / "events"
    assert in_process("train", "--data", tiny_data, "--out", tmp_path / "run", "--tensorboard", events, *TINY_FLAGS) == 0
    (writer,) = Writer.made
    assert (writer.directory, writer.closed) == (str(events), True)
    with (tmp_path / "run" / "history.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    found = {(tag, step): value for tag, value, step in writer.scalars}
    for row in rows:
        assert found["train/total", int(row["epoch"])] == float(row["train_total"])
        assert found["valid/mae", int(row["epoch"])] == float(row["valid_mae"])
        assert found["learning_rate", int(row["epoch"])] == float(row["learning_rate"])


def test_without_the_package_the_extra_is_named_before_anything_is_written(tiny_data, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert in_process("train", "--data", tiny_data, "--out", tmp_path / "run", "--tensorboard", tmp_path, *TINY_FLAGS) == 3
    assert "tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_events_are_read_by_tensorboard(tiny_data, tmp_path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = tmp_path / "events"
    assert in_process("train", "--data", tiny_data, "--out", tmp_path / "run", "--tensorboard", events, *TINY_FLAGS) == 0
    read = EventAccumulator(str(events))
    read.Reload()
    assert "train/total" in read.Tags()["scalars"]
