"""Training progress: a bar with live losses on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dmdkit.cli.console import err, note

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from dmdkit.training.progress import Progress as TrainingProgress

__all__ = ["Announced", "BarProgress", "LineProgress", "WithEvents"]

Row = dict[str, float | int | None]
_SHOWN = {
    "mae": "mae",
    "corr": "corr",
    "acc2_non_zero": "acc2",
    "acc2_midpoint": "acc2",
    "acc7": "acc7",
    "accuracy": "accuracy",
    "f1": "f1",
}


def _line(row: Row, epochs: int, *, best: bool) -> str:
    """An epoch in 80 columns: the training loss, the validation loss and its usual metrics."""
    if "valid_loss" not in row:
        return f"epoch {row['epoch']}/{epochs} train {row['train_total']:.3f}"
    loss = "" if "valid_mae" in row else f" loss {row['valid_loss']:.3f}"
    known = [f"{short} {row[f'valid_{name}']:.3f}" for name, short in _SHOWN.items() if row.get(f"valid_{name}") is not None]
    metrics = " ".join(known)
    return f"epoch {row['epoch']}/{epochs} train {row['train_total']:.3f}, valid{loss} {metrics}" + (" best" if best else "")


def _say_resumed(first_epoch: int, epochs: int) -> None:
    if first_epoch:
        note(f"going on after epoch {first_epoch} of {epochs}")


class LineProgress:
    """One plain line an epoch."""

    def start(self, epochs: int, batches: int, first_epoch: int) -> None:
        """Remembers the number of epochs."""
        self._epochs = epochs
        _say_resumed(first_epoch, epochs)

    def fold(self, number: int, folds: int) -> None:
        """Prints the fold's line."""
        note(f"fold {number} of {folds}")

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        """Says nothing: a line a batch would drown the log."""

    def epoch(self, row: Row, *, best: bool) -> None:
        """Prints the epoch's line."""
        note(_line(row, self._epochs, best=best))

    def stop(self) -> None:
        """Leaves nothing behind."""


class BarProgress:
    """A bar over the batches of an epoch, and one line above it for every finished epoch."""

    def start(self, epochs: int, batches: int, first_epoch: int) -> None:
        """Shows the bar."""
        self._epochs, self._batches = epochs, batches
        _say_resumed(first_epoch, epochs)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )
        self._task = self._progress.add_task("training", total=epochs * batches, completed=first_epoch * batches)

    def fold(self, number: int, folds: int) -> None:
        """Prints the fold's line."""
        note(f"fold {number} of {folds}")

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        """Moves the bar."""
        if not self._progress.live.is_started:
            self._progress.start()
        self._progress.update(
            self._task, completed=epoch * self._batches + batch, description=f"epoch {epoch + 1} loss {loss:.3f}"
        )

    def epoch(self, row: Row, *, best: bool) -> None:
        """Prints the epoch's line; the bar restarts with the next batch, so that an early stop leaves none behind."""
        self.stop()
        note(_line(row, self._epochs, best=best))

    def stop(self) -> None:
        """Takes the bar away and gives the cursor back."""
        self._progress.stop()


class Announced:
    """A progress that says what was planned once training begins, so that a training that cannot begin ends in one line.

    Args:
        progress: What shows the training.
        sentences: What was planned.
    """

    def __init__(self, progress: TrainingProgress, sentences: Sequence[str]) -> None:
        self._progress, self._sentences = progress, list(sentences)
        self.batch, self.epoch, self.stop = progress.batch, progress.epoch, progress.stop

    def _announce(self) -> None:
        for sentence in self._sentences:
            note(sentence)
        self._sentences.clear()

    def fold(self, number: int, folds: int) -> None:
        """Says the sentences, then which fold begins."""
        self._announce()
        self._progress.fold(number, folds)

    def start(self, epochs: int, batches: int, first_epoch: int) -> None:
        """Says the sentences, then starts."""
        self._announce()
        self._progress.start(epochs, batches, first_epoch)


class WithEvents:
    """A progress that also writes every column of an epoch's line as TensorBoard events.

    Args:
        progress: What shows the training.
        writer: A ``torch.utils.tensorboard.SummaryWriter``.
    """

    def __init__(self, progress: TrainingProgress, writer: SummaryWriter) -> None:
        self._progress, self._writer = progress, writer
        self.start, self.fold, self.batch = progress.start, progress.fold, progress.batch

    def epoch(self, row: Row, *, best: bool) -> None:
        """Writes the epoch's events, then shows it."""
        number = int(row["epoch"] or 0)
        for name, value in row.items():
            if name != "epoch" and value is not None:
                group, _, rest = name.partition("_")
                tag = f"{group}/{rest}" if group in ("train", "valid") else name
                self._writer.add_scalar(tag, value, number)
        self._writer.flush()
        self._progress.epoch(row, best=best)

    def stop(self) -> None:
        """Closes the events."""
        self._writer.close()
        self._progress.stop()
