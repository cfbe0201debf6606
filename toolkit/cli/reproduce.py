"""``dmdkit reproduce``: trains a run again and compares."""

from __future__ import annotations

import shlex
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from dmdkit.cli.console import finish, note, print_json, say
from dmdkit.cli.feature_files import own_dataset_of_run, split_of
from dmdkit.cli.requirements import require
from dmdkit.errors import ExitCode, RunError

__all__ = ["reproduce"]


def reproduce(
    run: Annotated[Path, typer.Argument(help="A run directory that was trained.")],
    out: Annotated[Path | None, typer.Option(help="Keep the second training here; without it, it is thrown away.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a run's recipe on its data once more, and compare: bit by bit on the same CPU and versions, else within a bound.

    Ends with exit code 2 where the second training is another one.

    Example: dmdkit reproduce runs/mosi
    """
    require("reproduction", "train", "torch", "lightning_fabric")
    import torch

    from dmdkit.cli.run import train_run
    from dmdkit.training.reproducing import compared, environment_of
    from dmdkit.training.run import CONFIG_FILE, Run

    first = Run.open(run)
    if first.facts.origin != "train":
        raise RunError(f"{run}: it was imported, not trained, so there is nothing to train again")
    dataset = own_dataset_of_run(first, needed_for="a new `dmdkit train --data`")
    split = "test" if "test" in dataset.splits else "valid" if "valid" in dataset.splits else "train"
    threads, recorded = torch.get_num_threads(), environment_of(run).get("torch_threads")
    with ExitStack() as held:
        target = out or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="dmdkit-reproduce-"))) / "run"
        held.callback(torch.set_num_threads, threads)
        if isinstance(recorded, int) and recorded > 0:  # sums come in another order with another number
            torch.set_num_threads(recorded)
        second = train_run(None, str(run / CONFIG_FILE), target, [], device=device, quiet=True)
        found = compared(first, second, split_of(dataset, split))
    if json:
        print_json({"run": str(run), "split": split, **vars(found)})
    else:
        say(found.sentence)
    for change in found.environment if found.status == "identical" else ():
        note(f"although {change}")
    if out is not None:
        finish(f"{out}/", f"dmdkit evaluate {shlex.quote(str(out))}")
    if found.status == "different":
        raise typer.Exit(ExitCode.NOT_PASSED)
