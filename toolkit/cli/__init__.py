"""The ``dmdkit`` command: one module a command, each importing its stage only when it runs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.main import get_command

from dmdkit.cli import data
from dmdkit.errors import DmdkitError, ExitCode

__all__ = ["app", "main"]

app = typer.Typer(
    name="dmdkit",
    help="Train DMD emotion models, export the student path to ONNX, quantise it to INT8, and prove it still answers the same.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data.app, name="data")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; the console script passes it to ``sys.exit``.

    Returns:
        0 good, 1 user error, 2 a verdict that is not passed, 3 a missing optional package, 70 our bug, 130 interrupted.
    """
    import click

    from dmdkit.cli.console import err

    try:
        result = get_command(app).main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except DmdkitError as error:
        err.print(f"[red]error:[/red] {error}", markup=True)
        return int(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        err.print("interrupted")
        return int(ExitCode.INTERRUPTED)
    except click.exceptions.Exit as exit_:
        return int(exit_.exit_code)
    except click.ClickException as error:
        error.show()
        return int(ExitCode.USER_ERROR)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.GOOD)
    except Exception:
        traceback.print_exc()
        err.print("[red]this is a bug in dmdkit[/red]; please report the lines above with the output of `dmdkit doctor --json`")
        return int(ExitCode.BUG)
    return int(result) if isinstance(result, int) else int(ExitCode.GOOD)
