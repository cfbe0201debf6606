"""``data.steps=real`` trains on the steps there are, remembers it, and is measured that way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dmdkit.cli import main
from dmdkit.config import RunConfig, load_run_config, recipe_path
from dmdkit.errors import ConfigError
from dmdkit.training.batches import DeviceSplit
from dmdkit.training.evaluation import load_system, predict
from dmdkit.training.run import Run
from tests.conftest import TINY_SETTINGS
from tests.stream_builders import stream_split

REAL = ["data.steps=real", "training.random_prefix=0.5"]


def test_a_run_of_real_steps_is_finished_and_says_so(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [part for setting in [*TINY_SETTINGS, *REAL] for part in ("--set", setting)]
    out = tmp_path / "real"
    assert main(["train", "--data", str(tiny_data), "--out", str(out), "--device", "cpu", *settings]) == 0
    run = Run.open(out)
    assert (run.facts.steps, run.config.training.random_prefix) == ("real", 0.5)
    assert {facts.padding_side for facts in (run.facts.inputs or {}).values()} == {"right"}
    capsys.readouterr()
    assert main(["evaluate", str(out), "--data", str(tiny_data)]) == 0
    split = stream_split()
    features = {"steps": np.full(len(split), 6)} | {
        "text": split.text[:, :6],
        "audio": split.audio[:, :6],
        "vision": split.vision[:, :6],
    }
    assert np.isfinite(predict(load_system(run), type(split)(split.ids, labels=split.labels, **features))).all()


def test_random_prefixes_end_anywhere_from_the_kernel_on() -> None:
    split = stream_split()
    data = DeviceSplit.of(
        type(split)(split.ids, split.text, split.audio, split.vision, split.labels, steps=np.full(len(split), 9)),
        torch.device("cpu"),
    )
    torch.manual_seed(0)
    many = torch.cat([data.real_steps(torch.arange(50), 0.5, 3) for _ in range(20)])  # type: ignore[misc]
    assert set(many.tolist()) == set(range(3, 10))
    assert 0.5 < float((many == 9).float().mean()) < 0.62
    whole = data.real_steps(torch.arange(50), 0.0, 3)
    assert whole is not None
    assert (whole == 9).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["training.random_prefix=0.5"], "add --set data.steps=real"),
        (["data.steps=real", "text_encoder=bert"], "leave text_encoder out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_run_config(recipe_path("small"), settings)


def test_older_recipes_are_padded() -> None:
    config: RunConfig = load_run_config(recipe_path("small"))
    assert config.data.steps == "padded"
