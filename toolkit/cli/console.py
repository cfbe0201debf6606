"""What the commands share: two consoles, one way to end, and one way to say an error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

__all__ = ["err", "finish", "out", "print_json"]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Writes ``value`` to standard output as one JSON document, uncoloured, for machines."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def finish(wrote: str, next_command: str | None = None) -> None:
    """Ends a command: what it wrote, and the command that usually comes next (both on standard error)."""
    err.print(f"[green]wrote[/green] {wrote}")
    if next_command:
        err.print(f"[dim]next:[/dim] {next_command}")
