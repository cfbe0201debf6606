"""The line between score and labels: least squares, drawn towards none, and in the weights of the read-out alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dmdkit.model import DmdSystem
from dmdkit.training.readout_line import ReadoutLine
from tests.model.test_dmd import inputs_of, shape_of
from tests.training.helpers import train_tiny


def test_many_samples_give_the_least_squares_line_and_few_move_it_half_way() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=100_000).astype(np.float32)
    many = ReadoutLine.fitted(x[:, None], 0.5 * x + 2)
    assert (many.slope, many.offset) == (pytest.approx(0.5, abs=1e-3), pytest.approx(2, abs=1e-3))
    few = x[:10] - x[:10].mean()
    assert ReadoutLine.fitted(few[:, None], 0.5 * few + 2).slope == pytest.approx(0.75)
    assert ReadoutLine.fitted(few[:, None], 0.5 * few + 2).offset == pytest.approx(1)


@pytest.mark.parametrize("sign", [-1.0, 0.0, 50.0])
def test_the_slope_stays_positive_and_moderate(sign: float) -> None:
    x = np.linspace(-1, 1, 50, dtype=np.float32)
    assert 0.3 <= ReadoutLine.fitted(x[:, None], sign * x).slope <= 1.5
    assert ReadoutLine.fitted(np.ones((5, 1), np.float32), x[:5]).slope == 1.0


def test_only_the_score_follows_the_line() -> None:
    system = DmdSystem(shape_of()).eval()
    inputs = inputs_of(system.dmd.shape)
    before = system(**inputs).model
    system.load_state_dict(ReadoutLine(0.5, 2.0).applied(system.state_dict()))
    after = system(**inputs).model
    torch.testing.assert_close(after.output, 0.5 * before.output + 2)
    assert torch.equal(after.logit_common, before.logit_common)
    assert all(torch.equal(after.logit_hetero[m], before.logit_hetero[m]) for m in before.logit_hetero)


def test_a_run_with_the_line_is_the_run_without_it_but_for_the_read_out(tmp_path) -> None:
    runs = {value: train_tiny(tmp_path / value, f"training.readout_line={value}") for value in ("false", "true")}
    plain, fitted = (load_file(run.model_file) for run in runs.values())
    changed = {name for name, value in plain.items() if not torch.equal(value, fitted[name])}
    assert changed == {"dmd.readout.out.weight", "dmd.readout.out.bias"}
    found = {value: json.loads((run.path / "metrics.json").read_text()) for value, run in runs.items()}
    line = found["true"]["readout_line"]
    assert found["false"]["readout_line"] is None
    torch.testing.assert_close(fitted["dmd.readout.out.weight"], plain["dmd.readout.out.weight"] * line["slope"])
    corr = [metrics["splits"]["test"]["corr"] for metrics in found.values()]
    assert corr[0] == pytest.approx(corr[1], abs=1e-6)
