"""What the commands share: two consoles, one way to end, one way to say an error, and progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from dmdkit.runtime.ledger import Ledger
    from dmdkit.runtime.manifest import Manifest

__all__ = ["err", "finish", "out", "parity_table", "print_error", "print_json", "steps", "verdict_text"]

WIDE = 160
"""Columns of a table where nobody's terminal sets them (a file, a pipe, a log)."""

out = Console(highlight=False, soft_wrap=True)
if not out.is_terminal:
    out = Console(highlight=False, soft_wrap=True, width=WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_STYLE = {"passed": "green", "failed": "bold red", "unverified": "yellow"}


def print_json(value: Any) -> None:
    """Writes ``value`` to standard output as one JSON document, uncoloured, for machines."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_error(message: str) -> None:
    """Writes one line to standard error."""
    err.print(Text.assemble(("error: ", "red"), " ".join(message.split())))


def note(message: str) -> None:
    """Says what was chosen or noticed, on standard error."""
    err.print(Text(message))


def finish(wrote: str, next_command: str | None = None) -> None:
    """Ends a command: what it wrote, and the command that usually comes next (both on standard error)."""
    err.print(Text.assemble(("wrote ", "green"), wrote))
    if next_command:
        err.print(Text.assemble(("next: ", "dim"), next_command))


@contextmanager
def steps(title: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows the step it is told: a spinner on a terminal, plain lines elsewhere."""
    if not err.is_terminal:
        yield lambda name: note(f"{title}: {name}")
        return
    with err.status(title) as status:
        yield lambda name: status.update(f"{title}: {name}")


def verdict_text(status: str) -> str:
    """A verdict in its colour."""
    return f"[{_STYLE[status]}]{status}[/]"


def _number(value: float | None, form: str = "{:.2e}") -> str:
    return "-" if value is None else form.format(value)


def parity_table(ledger: Ledger, manifest: Manifest) -> None:
    """Prints the ledger on standard output."""
    from rich.table import Table

    title = f"parity on {ledger.samples} samples ({ledger.split}), output sd {manifest.output_sd:.3f}"
    table = Table(title=title, title_justify="left", pad_edge=False)
    key = "accuracy" if manifest.task == "classification" else "mae"
    heads = (
        "hop",
        "max error",
        "p99",
        "mean",
        "correlation",
        "sign flips",
        "edges",
        f"change in {key} [95 %]",
        "verdict",
    )
    for head in heads:
        table.add_column(head, justify="left" if head in ("hop", "verdict") else "right", overflow="fold")
    for hop in ledger.hops:
        change = hop.metrics.get(key)
        shift = "-"
        if change is not None and change.before is not None and change.after is not None:
            shift = f"{change.after - change.before:+.4f}"
            if change.interval is not None:
                shift += f" [{change.interval[0]:+.4f}, {change.interval[1]:+.4f}]"
        edges = max((edge.max_change for edge in hop.edges), default=None)
        label = f"{hop.source} -> {hop.target}" + ("" if hop.kind == "measured" else f" ({hop.kind})")
        table.add_row(
            label,
            _number(hop.max_error),
            _number(hop.p99_error),
            _number(hop.mean_error),
            _number(hop.correlation, "{:.6f}"),
            str(hop.sign_flips),
            _number(edges),
            shift,
            verdict_text(hop.status),
        )
    out.print(table)
    for hop in ledger.hops:
        if hop.status != "passed":
            out.print(Text(f"{hop.target}: {hop.status}: {hop.reason}; worst sample {hop.worst_sample}"))
    for name, share in ledger.out_of_range.items():
        out.print(Text(f"warning: {share:.1%} of the {name} values lie outside the training range"))
