"""``dmdkit report``: the page a person reads, written anew from what the bundle and this machine know."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmdkit.cli.console import finish, note

__all__ = ["report"]


def report(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
) -> None:
    """Write report/report.html again: verdicts, figures, and the latencies that `dmdkit bench` measured here.

    `export` and `check` write it too; nothing is measured here. One file that loads nothing: mail it as it is.

    Example: dmdkit report face.dmd
    """
    from dmdkit.parity.int8_report import int8_report_or_why
    from dmdkit.report import write_report

    page = write_report(bundle)
    _, damage = int8_report_or_why(bundle)
    if damage:
        note(f"{damage} (the page is written without it)")
    finish(str(page))
