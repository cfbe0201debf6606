"""``dmdkit targets``: the devices that engines are built for."""

from __future__ import annotations

from typing import Annotated

import typer

from dmdkit.cli.console import note, print_json, say

__all__ = ["targets"]


def targets(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the devices that `dmdkit build` makes engines for.

    Example: dmdkit targets
    """
    from dmdkit.export.targets import load_target, target_names

    known = [load_target(name) for name in target_names()]
    if json:
        print_json(
            {
                "targets": [
                    {"name": target.name, "title": target.title, "build": target.build, "preferred": target.preferred}
                    for target in known
                ]
            }
        )
        return
    for target in known:
        say(f"{target.name:18} {target.title}")
    note("next: dmdkit build BUNDLE --target NAME --dry-run")
