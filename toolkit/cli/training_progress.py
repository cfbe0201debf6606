"""Training progress: a bar with live losses on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dmdkit.cli.console import err, note

__all__ = ["BarProgress", "LineProgress"]

Row = dict[str, float | int | None]
_SHOWN = ("valid_mae", "valid_corr", "valid_acc2_non_zero", "valid_acc7", "valid_accuracy", "valid_f1")


def _line(row: Row, epochs: int, *, best: bool) -> str:
    shown = [f"train {row['train_total']:.3f}", f"valid loss {row['valid_loss']:.4f}"]
    shown += [f"{name.removeprefix('valid_')} {row[name]:.4f}" for name in _SHOWN if row.get(name) is not None]
    epoch = int(row["epoch"] or 0) + 1
    return f"epoch {epoch}/{epochs}  " + "  ".join(shown) + ("  best" if best else "")


class LineProgress:
    """One plain line an epoch."""

    def start(self, epochs: int, batches: int, first_epoch: int) -> None:
        """Remembers the number of epochs."""
        self._epochs = epochs
        if first_epoch:
            note(f"going on after epoch {first_epoch}")

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        """Says nothing: a line a batch would drown the log."""

    def epoch(self, row: Row, *, best: bool) -> None:
        """Prints the epoch's line."""
        note(_line(row, self._epochs, best=best))


class BarProgress:
    """A bar over the batches of an epoch, and one line above it for every finished epoch."""

    def start(self, epochs: int, batches: int, first_epoch: int) -> None:
        """Shows the bar."""
        self._epochs, self._batches = epochs, batches
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )
        self._task = self._progress.add_task("training", total=epochs * batches, completed=first_epoch * batches)

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        """Moves the bar."""
        if not self._progress.live.is_started:
            self._progress.start()
        self._progress.update(
            self._task, completed=epoch * self._batches + batch, description=f"epoch {epoch + 1} loss {loss:.3f}"
        )

    def epoch(self, row: Row, *, best: bool) -> None:
        """Prints the epoch's line; the bar restarts with the next batch, so that an early stop leaves none behind."""
        self._progress.stop()
        err.print(_line(row, self._epochs, best=best), markup=False)
