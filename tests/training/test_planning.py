"""What a recipe leaves to the number of samples, and that every sample and every step it promises is there."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from safetensors.torch import load_file

from dmdkit.config import load_run_config, recipe_names, recipe_path
from dmdkit.errors import ConfigError
from dmdkit.training.planning import ENOUGH_STEPS, resolved, schedule_of
from dmdkit.training.run import HISTORY_FILE
from tests.conftest import tiny_dataset
from tests.training.helpers import train_tiny

AUTO = ("epochs", "batch_size", "accumulate_batches", "learning_rate", "plateau_patience", "early_stop_patience")


def small(*assignments: str):
    return load_run_config(recipe_path("small"), assignments)


def test_many_samples_keep_groups_of_four_and_few_get_a_step_every_batch() -> None:
    groups = {
        samples: schedule_of(small().training, samples, 60).accumulate_batches for samples in (2, 50, 80, 200, 300, 469, 5000)
    }
    assert groups == {2: 1, 50: 1, 80: 1, 200: 1, 300: 2, 469: 4, 5000: 4}


@pytest.mark.parametrize("samples", [2, 17, 50, 80, 100, 200, 400, 469, 2000, 20_000])
@pytest.mark.parametrize("validated", [1, 60])
def test_the_small_recipe_plans_enough_steps_for_any_number_of_samples(samples: int, validated: int) -> None:
    schedule = schedule_of(small().training, samples, validated)
    an_epoch = schedule.steps_per_epoch(samples, complete_groups=False)
    assert schedule.epochs * an_epoch >= ENOUGH_STEPS
    assert schedule.plateau_patience <= schedule.early_stop_patience < schedule.epochs
    assert schedule.validation_window < schedule.early_stop_patience


def test_what_was_chosen_is_said_and_stands_in_the_config_in_numbers() -> None:
    config, told = resolved(small("training.learning_rate=0.002"), 80, 60)
    assert "auto" not in config.training.model_dump().values()
    assert config.training.learning_rate == 0.002
    assert told == [
        "80 training and 60 validation samples: epochs 64, batch_size 16, accumulate_batches 1, plateau_patience 7, "
        "early_stop_patience 20, validation_window 5, schedule validation, weight_average 0 (training.*: auto)"
    ]
    assert resolved(config, 80, 60) == (config, [])


def test_a_plan_of_few_steps_is_warned_of() -> None:
    _, told = resolved(small("training.epochs=20", "training.accumulate_batches=5", "training.batch_size=16"), 80, 60)
    assert any("only 20 optimiser steps are planned (20 epochs of 1)" in text for text in told)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "small"])
def test_published_recipes_leave_nothing_to_a_rule(name: str) -> None:
    settings = load_run_config(recipe_path(name)).training
    assert "auto" not in settings.model_dump().values()
    assert (settings.incomplete_group, settings.validation_window, settings.weight_decay) == ("drop", 1, 0.0)
    assert not settings.readout_line


@pytest.mark.parametrize("value", ["0", "automatic", "-1", "1.5"])
def test_another_word_than_auto_is_one_readable_error(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        small(f"training.accumulate_batches={value}")
    assert str(caught.value).count(": training.accumulate_batches: ") == 1


def test_an_incomplete_group_makes_a_step_where_the_recipe_says_so(tmp_path) -> None:
    """Three batches in groups of two: with all three the weights differ from those of two, and the run says both."""
    settings = ("training.epochs=1", "training.batch_size=8", "training.accumulate_batches=2")
    found = []
    for choice in ("drop", "step"):
        run = train_tiny(tmp_path / choice, *settings, f"training.incomplete_group={choice}", dataset=tiny_dataset(train=20))
        found.append(load_file(run.model_file))
    assert any(not torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_best_epoch_is_that_of_the_averaged_validation_loss(tmp_path) -> None:
    run = train_tiny(tmp_path / "run", "training.epochs=6", "training.validation_window=3", "training.learning_rate=0.01")
    with (run.path / HISTORY_FILE).open(encoding="utf-8") as stream:
        losses = [float(row["valid_loss"]) for row in csv.DictReader(stream)]
    averaged = [sum(losses[max(0, i - 2) : i + 1]) / min(i + 1, 3) for i in range(6)]
    import json

    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["best_epoch"] == min(range(6), key=averaged.__getitem__) + 1
    assert math.isfinite(sum(losses))
