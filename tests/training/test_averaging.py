"""The average of weights against its definition, and in a run."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import nn

from dmdkit.training.averaging import WeightAverage
from dmdkit.training.checkpoint import load_state
from dmdkit.training.run import CHECKPOINT_FILE, METRICS_FILE
from tests.training.helpers import train_tiny

FIXED = ("training.schedule=fixed", "training.epochs=3")


def test_the_average_keeps_its_share_and_begins_with_the_first_steps() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    average, expected = WeightAverage([parameter], 0.5), 0.0
    for step in range(1, 15):
        parameter.data.fill_(float(step))
        average.step()
        kept = min(0.5, step / (step + 10))
        expected = kept * expected + (1 - kept) * step
    assert torch.allclose(average.values[0], torch.full((2,), expected))
    with average.in_place():
        assert torch.equal(parameter.detach(), average.values[0])
    assert torch.equal(parameter.detach(), torch.full((2,), 14.0))


def test_a_fixed_schedule_trains_every_epoch_and_keeps_the_last(tmp_path) -> None:
    run = train_tiny(tmp_path / "run", *FIXED, "training.early_stop_patience=1", "training.learning_rate=0.05")
    state, weights = load_state(run.path / CHECKPOINT_FILE), load_file(run.model_file)
    assert (state.next_epoch, state.stopped_early) == (3, False)
    assert all(torch.equal(state.model[name], value) for name, value in weights.items())
    assert {row["learning_rate"] for row in state.history} == {0.05}
    assert '"warnings": [\n    "only' in (run.path / METRICS_FILE).read_text()


def test_a_run_keeps_the_averaged_weights_and_resumes_to_the_same_bytes(tmp_path) -> None:
    settings = (*FIXED, "training.weight_average=0.9")
    run = train_tiny(tmp_path / "run", *settings)
    state, weights = load_state(run.path / CHECKPOINT_FILE), load_file(run.model_file)
    name = "dmd.align.text.weight"
    assert not torch.equal(state.model[name], weights[name])
    assert any(torch.equal(value, weights[name]) for value in state.average["values"])
    train_tiny(tmp_path / "part", *settings, "training.epochs=1")
    part = train_tiny(tmp_path / "part", *settings, resume=True)
    assert part.model_sha256 == run.model_sha256
