"""``dmdkit report``: the page a person reads, written anew from what the bundle and this machine know."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmdkit.cli.console import finish, note

__all__ = ["report"]


def report(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE|RUN", help="A bundle or a run directory.")],
) -> None:
    """Write report/report.html again: verdicts, figures, and the latencies that `dmdkit bench` measured here.

    `export` and `check` write it too; nothing is measured here. One file that loads nothing: mail it as it is. Of a run, it
    is report.html: what it reached beside the majority and ridge, and every loss term, the rate and the metrics by epoch.

    Examples: dmdkit report face.dmd

    dmdkit report runs/mosi
    """
    if (bundle / "history.csv").is_file():
        from dmdkit.report import write_run_report

        finish(str(write_run_report(bundle)))
        return
    from dmdkit.parity.int8_report import int8_report_or_why
    from dmdkit.report import write_report

    page = write_report(bundle)
    _, damage = int8_report_or_why(bundle)
    if damage:
        note(f"{damage} (the page is written without it)")
    finish(str(page))
