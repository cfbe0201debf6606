"""What a training that goes on must find as it was left: its checkpoint, and the settings and data it began with."""

from __future__ import annotations

from pathlib import Path

from dmdkit.config import RunConfig, flat_settings, validated
from dmdkit.errors import ConfigError, RunError
from dmdkit.training.checkpoint import TrainingState, load_latest
from dmdkit.training.run import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    FINISHED_FOLDS_FILE,
    PREVIOUS_FILE,
    RunFacts,
    read_facts,
)
from dmdkit.training.run_directory import check_resumable, restart_directory

__all__ = ["left_state"]

_MAY_CHANGE = {"training.epochs", "data.path", "text_encoder.path"}


def left_state(out: Path, config: RunConfig, facts: RunFacts) -> tuple[Path, TrainingState]:
    """The directory where the training of the run ``out`` goes on, and the state it was left in.

    A training that was killed in its first epoch begins anew, but for the folds of a cross-validation that it had finished.

    Args:
        out: The run directory.
        config: The recipe to go on with.
        facts: What is known of the data and sizes to go on with.

    Raises:
        RunError: There is nothing to go on with, or it began with other settings, data or sizes.
        ConfigError: More epochs are trained than ``config`` allows.
    """
    place = check_resumable(out)
    if not (place / CHECKPOINT_FILE).exists():
        restart_directory(place, config, facts, keep=(FINISHED_FOLDS_FILE,))
        return place, TrainingState()
    if _beginning(read_facts(place)) != _beginning(facts):
        raise RunError(f"{out}: the data or the sizes are not those the run began with; start it anew with --force")
    state = load_latest(place / CHECKPOINT_FILE, place / PREVIOUS_FILE)
    _check_settings(config, state, place)
    return place, state


def _beginning(facts: RunFacts) -> RunFacts:
    """What must be the same when a run goes on: not its notes, nor the ranges of features that are learnt with it."""
    inputs = dict(facts.inputs or {})
    if facts.text is not None and facts.text.fine_tuned:
        inputs.pop("text", None)
    return facts.model_copy(update={"notes": [], "inputs": inputs})


def _check_settings(config: RunConfig, state: TrainingState, place: Path) -> None:
    trained, epochs = state.next_epoch, config.training.epochs
    if isinstance(epochs, int) and epochs < trained:
        raise ConfigError(
            f"{place}: expected training.epochs of at least the {trained} that are trained already, found "
            f"{epochs}; give --epochs {trained} or more, or train fewer into another --out"
        )
    if state.config is None:  # a checkpoint of an earlier version
        return
    before = flat_settings(validated(RunConfig, state.config, str(place / CHECKPOINT_FILE)))
    now = flat_settings(config)
    changed = [key for key in {**before, **now} if key not in _MAY_CHANGE and before.get(key) != now.get(key)]
    if changed:
        found = ", ".join(f"{key}: {now.get(key)} (was {before.get(key)})" for key in changed[:5])
        raise RunError(
            f"{place / CONFIG_FILE} changed since the run began: {found}; change it back to go on, or train with it into "
            "another --out"
        )
