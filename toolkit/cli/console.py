"""What the commands share: two consoles, one way to end, one way to say an error, tables, and progress.

Nothing a user or a file says is ever read as markup: both consoles have it switched off, and style comes from
:class:`rich.text.Text` alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleDimensions
from rich.text import Text

from dmdkit.cli.process import discard_output, stop_if_interrupted
from dmdkit.printable import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from dmdkit.parity.compare import HopRecord
    from dmdkit.parity.ledger import Ledger
    from dmdkit.runtime.manifest import Manifest

__all__ = [
    "COMFORTABLE",
    "counted_steps",
    "err",
    "finish",
    "graphs_table",
    "note",
    "out",
    "parity_table",
    "print_error",
    "print_json",
    "print_table",
    "say",
    "steps",
    "verdict_text",
]

WIDE = 160
"""Columns of a table where nobody's terminal sets them (a file, a pipe, a log)."""

COMFORTABLE = 120
"""Columns from which the widest tables show everything they know."""


class _Console(Console):
    """Writes text as it is; where its reader went away, the rest goes nowhere and the command works on to its own end."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property  # type: ignore[misc] # nothing sets it
    def size(self) -> ConsoleDimensions:
        """Columns and lines; a pipe or a file is wide, whatever the terminal behind it."""
        return super().size if self.is_terminal else ConsoleDimensions(WIDE, 25)

    def on_broken_pipe(self) -> None:
        discard_output(self.file)


out = _Console()
err = _Console(stderr=True)

_STYLE = {"passed": "green", "failed": "bold red", "unverified": "yellow"}


def print_json(value: Any) -> None:
    """Writes ``value`` to standard output as one JSON document, uncoloured, for machines.

    It is flushed, as everything the consoles write: what is said after it on standard error stands after it where both go
    to one file.
    """
    try:
        sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output(sys.stdout)


def print_error(message: str) -> None:
    """Writes one line to standard error."""
    err.print(Text.assemble(("error: ", "red"), visible(" ".join(message.split()))))


def say(message: str) -> None:
    """Writes a line of the answer to standard output."""
    out.print(Text(visible(message)))


def note(message: str) -> None:
    """Says what was chosen or noticed, on standard error."""
    err.print(Text(visible(message)))


def finish(wrote: str, next_command: str | None = None) -> None:
    """Ends a command: what it wrote, and the command that usually comes next (both on standard error)."""
    err.print(Text.assemble(("wrote ", "green"), visible(wrote)))
    if next_command:
        err.print(Text.assemble(("next: ", "dim"), visible(next_command)))


def _stoppable(show: Callable[[str], None]) -> Callable[[str], None]:
    def begin(name: str) -> None:
        stop_if_interrupted()
        show(name)

    return begin


@contextmanager
def steps(title: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows the step it is told: a spinner on a terminal, plain lines elsewhere.

    No step begins after a Ctrl-C, which the step before may have dropped.
    """
    if not err.is_terminal:
        yield _stoppable(lambda name: note(f"{title}: {name}"))
        return
    with err.status(title) as status:
        yield _stoppable(lambda name: status.update(Text(visible(f"{title}: {name}"))))


@contextmanager
def counted_steps(title: str) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """Like :func:`steps`, with a second function that takes (done, total) of a long step: a bar on a terminal."""
    if not err.is_terminal:
        yield _stoppable(lambda name: note(f"{title}: {name}")), lambda done, total: stop_if_interrupted()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(visible(title), total=None)
        yield (
            _stoppable(lambda name: progress.reset(task, description=visible(f"{title}: {name}"), total=None)),
            lambda done, total: progress.update(task, completed=done, total=total),
        )


def verdict_text(status: str) -> Text:
    """A verdict in its colour."""
    return Text(status, style=_STYLE.get(status, ""))


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str | Text]], *, title: str | None = None, right: Sequence[str] = ()
) -> None:
    """Prints a table without a frame, on standard output; the columns named in ``right`` hold numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(Text(head), justify="right" if head in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row))
    if title is not None:
        out.print(Text(visible(title), style="bold"))
    out.print(table)


def _number(value: float | None, form: str = "{:.2e}") -> str:
    return "-" if value is None else form.format(value)


def _change(hop: HopRecord, key: str, *, interval: bool) -> str:
    change = hop.metrics.get(key)
    if change is None or change.before is None or change.after is None:
        return "-"
    shown = f"{change.after - change.before:+.4f}"
    if interval and change.interval is not None:
        shown += f" [{change.interval[0]:+.4f}, {change.interval[1]:+.4f}]"
    return shown


def parity_table(ledger: Ledger, manifest: Manifest) -> None:
    """Prints the ledger on standard output: every figure where there is room, else those the verdict rests on."""
    key = "accuracy" if manifest.task == "classification" else "mae"
    wide = out.width >= COMFORTABLE
    rows: list[list[str | Text]] = []
    for hop in ledger.hops:
        label = (f"{hop.source} -> {hop.target}" if wide else hop.target) + ("" if hop.kind == "measured" else f" ({hop.kind})")
        edges = _number(max((edge.max_change for edge in hop.edges), default=None))
        figures = [_number(hop.max_error), _number(hop.p99_error)]
        correlation = _number(hop.correlation, "{:.6f}")
        if wide:
            figures += [_number(hop.mean_error), correlation, str(hop.sign_flips), edges, _change(hop, key, interval=True)]
        else:
            figures = [figures[0], correlation, edges, _change(hop, key, interval=False)]
        rows.append([label, *figures, verdict_text(hop.status)])
    if wide:
        numbers = ["max error", "p99", "mean", "correlation", "sign flips", "edges", f"change in {key} [95 %]"]
    else:
        numbers = ["max error", "correl.", "edges", key]
    print_table(
        ["hop" if wide else "graph", *numbers, "verdict"],
        rows,
        title=f"parity on {ledger.samples} samples ({ledger.split}), output sd {manifest.output_sd:.3f}",
        right=numbers,
    )
    for hop in ledger.hops:
        if hop.status != "passed":
            say(f"{hop.target}: {hop.status}: {hop.reason}; worst sample {hop.worst_sample}")
    for name, share in ledger.out_of_range.items():
        say(f"warning: {share:.1%} of the {name} values lie outside the training range")


def graphs_table(manifest: Manifest) -> None:
    """Prints what was exported, and how much of it is INT8, on standard output."""
    rows = []
    for name, graph in manifest.graphs.items():
        size = manifest.files[graph.file].size_bytes
        base = manifest.graphs.get(f"{graph.kind}.fp32")
        ratio = size / manifest.files[base.file].size_bytes if base is not None else 1.0
        remark = "weights only" if graph.weights_stored_int8 > 0 and graph.multiply_adds_int8 == 0 else ""
        if graph.simulated_on_cpu:
            remark = "for TensorRT"
        stored, computed = f"{graph.weights_stored_int8:.1%}", f"{graph.multiply_adds_int8:.1%}"
        rows.append([name, f"{size / 1e6:.2f} MB", f"{ratio:.3f}", stored, computed, remark])
    numbers = ["size", "of fp32", "INT8 stored", "computed"]
    print_table(["graph", *numbers, ""], rows, right=numbers)
