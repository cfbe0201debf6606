"""What a recipe leaves to the data: how long, how fast and in what portions to train, from the number of samples.

Optimiser steps are what learns, not epochs. A recipe may say ``auto`` for these settings; :func:`resolved` puts numbers in
their place, which the run's ``config.yaml`` then holds, so that a run never depends on the rule again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dmdkit.config import RunConfig, TrainingConfig

__all__ = ["ENOUGH_STEPS", "Schedule", "resolved", "schedule_of"]

ENOUGH_STEPS = 100
"""Fewer optimiser steps than about this leave a model far from what it could learn (benchmarks/RESULTS.md)."""

_PLANNED_STEPS = 320
_PATIENT_STEPS = 96
_PLATEAU_STEPS = 32
_SMOOTHED_STEPS = 24
_MOST_EPOCHS, _FEWEST_EPOCHS = 100, 20
_BATCH = 16
_LEARNING_RATE, _CAREFUL_RATE = 1e-3, 5e-4
_MANY_SAMPLES = 300


@dataclass(frozen=True)
class Schedule:
    """The numbers a training runs by; every one is positive."""

    epochs: int
    batch_size: int
    accumulate_batches: int
    learning_rate: float
    plateau_patience: int
    early_stop_patience: int
    validation_window: int

    def steps_per_epoch(self, samples: int, *, complete_groups: bool) -> int:
        """Optimiser steps in an epoch of ``samples``; ``complete_groups``: whether an incomplete group makes none."""
        batches = math.ceil(samples / self.batch_size)
        group = min(self.accumulate_batches, batches)
        return batches // group if complete_groups else math.ceil(batches / group)


def _number(value: float | str, otherwise: float) -> float:
    return otherwise if isinstance(value, str) else value


def schedule_of(settings: TrainingConfig, samples: int) -> Schedule:
    """What ``settings`` say, and where they say auto, what suits ``samples`` training samples.

    Batches of 16. Gradients of up to four batches make a step where there are many, clamp(ceil(N / batch) // 7, 1, 4): 469
    samples get four, 80 get one. The rate is 1e-3, from 300 samples on 5e-4. Epochs make about 320 steps, 20 to 100 epochs;
    patience is 96 of them and at least 6 epochs, and 32 and 3 before the rate is halved; the validation loss that chooses is
    a mean over the epochs of the last 24.
    """
    batch = int(_number(settings.batch_size, _BATCH))
    batches = math.ceil(samples / batch)
    group = int(_number(settings.accumulate_batches, min(max(batches // 7, 1), 4)))
    an_epoch = math.ceil(batches / min(group, batches))
    return Schedule(
        epochs=int(_number(settings.epochs, min(max(math.ceil(_PLANNED_STEPS / an_epoch), _FEWEST_EPOCHS), _MOST_EPOCHS))),
        batch_size=batch,
        accumulate_batches=group,
        learning_rate=_number(settings.learning_rate, _LEARNING_RATE if samples < _MANY_SAMPLES else _CAREFUL_RATE),
        plateau_patience=int(_number(settings.plateau_patience, max(math.ceil(_PLATEAU_STEPS / an_epoch), 3))),
        early_stop_patience=int(_number(settings.early_stop_patience, max(math.ceil(_PATIENT_STEPS / an_epoch), 6))),
        validation_window=int(_number(settings.validation_window, math.ceil(_SMOOTHED_STEPS / an_epoch))),
    )


def resolved(config: RunConfig, samples: int) -> tuple[RunConfig, list[str]]:
    """``config`` with numbers where it said auto, and what was chosen, one readable sentence each."""
    settings = config.training
    schedule = schedule_of(settings, samples)
    left = [name for name in Schedule.__annotations__ if getattr(settings, name) == "auto"]
    told = []
    if left:
        chosen = ", ".join(f"{name} {getattr(schedule, name):g}" for name in left)
        told.append(f"{samples} training samples: {chosen} (training.*: auto)")
    config = config.model_copy(
        update={"training": settings.model_copy(update={name: getattr(schedule, name) for name in left})}
    )
    an_epoch = schedule.steps_per_epoch(samples, complete_groups=settings.incomplete_group == "drop")
    planned = schedule.epochs * an_epoch
    if planned < ENOUGH_STEPS:
        told.append(
            f"only {planned} optimiser steps are planned ({schedule.epochs} epochs of {an_epoch}); below about {ENOUGH_STEPS} "
            "a model learns little: set training.accumulate_batches lower or training.epochs higher"
        )
    return config, told
