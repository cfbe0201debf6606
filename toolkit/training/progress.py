"""Callbacks of a training."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "SilentProgress"]


class Progress(Protocol):
    """What a caller may show while training runs."""

    def start(self, epochs: int, batches: int, first_epoch: int) -> None:
        """Training is about to run epochs ``first_epoch`` .. ``epochs`` - 1 of ``batches`` batches each."""

    def fold(self, number: int, folds: int) -> None:
        """Fold ``number`` of a cross-validation, from 1, is about to be trained."""

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        """A batch was done."""

    def epoch(self, row: dict[str, float | int | None], *, best: bool) -> None:
        """An epoch was done; ``row`` is its line in history.csv."""

    def stop(self) -> None:
        """No more epochs come, however training ended."""


class SilentProgress:
    """Shows nothing."""

    def start(self, epochs: int, batches: int, first_epoch: int) -> None:
        """Shows nothing."""

    def fold(self, number: int, folds: int) -> None:
        """Shows nothing."""

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        """Shows nothing."""

    def epoch(self, row: dict[str, float | int | None], *, best: bool) -> None:
        """Shows nothing."""

    def stop(self) -> None:
        """Shows nothing."""
