"""``dmdkit triton``: a bundle becomes a model repository for Triton Inference Server."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dmdkit.cli.console import finish, print_json

__all__ = ["triton"]


def triton(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory whose fp32 graphs passed parity.")],
    out: Annotated[Path, typer.Argument(help="The model repository to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing model repository.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the names of its models as JSON.")] = False,
) -> None:
    """Write a Triton model repository: the proven graphs, the proven engines, and an ensemble in front of them.

    Nothing is exported or measured here: a graph that has not passed parity is refused, with the command that proves it.

    Example: dmdkit triton face.dmd models/
    """
    from dmdkit.export.triton import write_triton
    from dmdkit.runtime.bundle import Bundle

    names = write_triton(Bundle.open(bundle), out, force=force)
    if json:
        print_json({"repository": str(out), "models": names})
    finish(f"{out}/ with {', '.join(names)}", f"tritonserver --model-repository={shlex.quote(str(out.absolute()))}")
