"""What a recipe leaves to the data: how long, how fast and in what portions to train, from the number of samples.

Optimiser steps are what learns, not epochs. A recipe may say ``auto`` for these settings; :func:`resolved` puts numbers in
their place, which the run's ``config.yaml`` then holds, so that a run never depends on the rule again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dmdkit.config import RunConfig, TrainingConfig

__all__ = ["ENOUGH_STEPS", "Schedule", "folds_of", "resolved", "schedule_of"]

ENOUGH_STEPS = 100
"""Fewer optimiser steps than about this leave a model far from what it could learn (benchmarks/RESULTS.md)."""

TELLING_SAMPLES = 50
"""Validation samples below which the best epoch would be chosen by chance: its loss is known to less than its changes."""

_PLANNED_STEPS = 320
_FIXED_STEPS = 480  # chosen on one generated set's test samples (benchmarks/RESULTS.md); folds choose from one's own
_WEIGHT_AVERAGE = 0.97
_PATIENT_STEPS = 96
_PLATEAU_STEPS = 32
_SMOOTHED_STEPS = 24
_MOST_EPOCHS, _FEWEST_EPOCHS = 100, 20
_BATCH = 16
_LEARNING_RATE, _CAREFUL_RATE = 1e-3, 5e-4
_MANY_SAMPLES = 300


@dataclass(frozen=True)
class Schedule:
    """What a training runs by; numbers but ``weight_average`` are positive."""

    epochs: int
    batch_size: int
    accumulate_batches: int
    learning_rate: float
    plateau_patience: int
    early_stop_patience: int
    validation_window: int
    schedule: Literal["validation", "fixed"]
    weight_average: float

    def steps_per_epoch(self, samples: int, *, complete_groups: bool) -> int:
        """Optimiser steps in an epoch of ``samples``; ``complete_groups``: whether an incomplete group makes none."""
        batches = math.ceil(samples / self.batch_size)
        group = min(self.accumulate_batches, batches)
        return batches // group if complete_groups else math.ceil(batches / group)


def _number(value: float | str, otherwise: float) -> float:
    return otherwise if isinstance(value, str) else value


def schedule_of(settings: TrainingConfig, samples: int, validated: int) -> Schedule:
    """What ``settings`` say, and where they say auto, what suits ``samples`` training and ``validated`` validation samples.

    Batches of 16. Gradients of up to four batches make a step where there are many, clamp(ceil(N / batch) // 7, 1, 4): 469
    samples get four, 80 get one. The rate is 1e-3, from 300 samples on 5e-4.

    Where 50 validation samples or more choose the epoch, epochs make about 320 steps, 20 to 100 epochs; patience is 96 of
    them and at least 6 epochs, and 32 and 3 before the rate is halved; the validation loss that chooses is a mean over the
    epochs of the last 24. Where fewer do, choosing by them ends a training long before it has learnt what it can: then all of
    about 480 steps and at least 20 epochs are trained at one rate, and the weights are an average over about the last 33
    steps.
    """
    batch = int(_number(settings.batch_size, _BATCH))
    batches = math.ceil(samples / batch)
    group = int(_number(settings.accumulate_batches, min(max(batches // 7, 1), 4)))
    an_epoch = math.ceil(batches / min(group, batches))
    chosen = settings.schedule
    if chosen == "auto":
        chosen = "validation" if validated >= TELLING_SAMPLES else "fixed"
    fixed = chosen == "fixed"
    epochs = min(max(math.ceil(_PLANNED_STEPS / an_epoch), _FEWEST_EPOCHS), _MOST_EPOCHS)
    return Schedule(
        epochs=int(_number(settings.epochs, max(math.ceil(_FIXED_STEPS / an_epoch), _FEWEST_EPOCHS) if fixed else epochs)),
        batch_size=batch,
        accumulate_batches=group,
        learning_rate=_number(settings.learning_rate, _LEARNING_RATE if samples < _MANY_SAMPLES else _CAREFUL_RATE),
        plateau_patience=int(_number(settings.plateau_patience, max(math.ceil(_PLATEAU_STEPS / an_epoch), 3))),
        early_stop_patience=int(_number(settings.early_stop_patience, max(math.ceil(_PATIENT_STEPS / an_epoch), 6))),
        validation_window=int(_number(settings.validation_window, math.ceil(_SMOOTHED_STEPS / an_epoch))),
        schedule=chosen,
        weight_average=_number(settings.weight_average, _WEIGHT_AVERAGE if fixed else 0.0),
    )


_UNUSED_WHEN_FIXED = ("plateau_patience", "early_stop_patience", "validation_window")
_FOLDS = 5


def folds_of(settings: TrainingConfig, validated: int) -> int:
    """Folds of the cross-validation that chooses the epochs; 0 where none does.

    Args:
        settings: The recipe.
        validated: Validation samples; 0 where there is no such split.
    """
    return settings.folds if isinstance(settings.folds, int) else 0 if validated else _FOLDS


def resolved(config: RunConfig, samples: int, validated: int) -> tuple[RunConfig, list[str]]:
    """``config`` with numbers where it said auto, and what was chosen, one readable sentence each.

    Args:
        config: The recipe.
        samples: Training samples.
        validated: Validation samples; 0 where there is no such split.
    """
    settings = config.training
    folds = folds_of(settings, validated)
    if folds:  # all samples train, for as many epochs as the folds choose
        samples, validated = samples + validated, 0
        settings = settings.model_copy(update={"schedule": "fixed"})
    schedule = schedule_of(settings, samples, validated)
    left = [name for name in Schedule.__annotations__ if getattr(settings, name) == "auto"]
    fixed, told = schedule.schedule == "fixed", []
    if left:
        shown = [name for name in left if not (fixed and name in _UNUSED_WHEN_FIXED)]
        values = {name: getattr(schedule, name) for name in shown}
        chosen = ", ".join(f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in values.items())
        told.append(f"{samples} training and {validated} validation samples: {chosen} (training.*: auto)")
    if folds:
        told.append(
            f"{folds} folds of the {samples} samples choose how many of {schedule.epochs} epochs are trained; then all samples "
            "train"
        )
    elif "schedule" in left and fixed:
        told.append(
            f"{validated} validation samples are too few to choose an epoch by (from {TELLING_SAMPLES} on they do): all "
            f"{schedule.epochs} epochs are trained; --folds 5 lets a cross-validation choose their number"
        )
    numbers = {"folds": folds, "schedule": schedule.schedule, **{name: getattr(schedule, name) for name in left}}
    config = config.model_copy(update={"training": settings.model_copy(update=numbers)})
    an_epoch = schedule.steps_per_epoch(samples, complete_groups=settings.incomplete_group == "drop")
    planned = schedule.epochs * an_epoch
    if planned < ENOUGH_STEPS:
        told.append(
            f"only {planned} optimiser steps are planned ({schedule.epochs} epochs of {an_epoch}); below about {ENOUGH_STEPS} "
            "a model learns little: set training.accumulate_batches lower or training.epochs higher"
        )
    return config, told
