"""The ``dmdkit`` command: one module a command, each importing its stage only when it runs."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.main import get_command

from dmdkit.cli import (
    add_precision,
    bench,
    build,
    bundle,
    data,
    demo,
    doctor,
    export,
    inspect,
    report,
    reproduce,
    run,
    targets,
    triton,
)
from dmdkit.errors import ConfigError, DmdkitError, ExitCode
from dmdkit.printable import is_utf8, visible

__all__ = ["app", "main"]

app = typer.Typer(
    name="dmdkit",
    help=(
        "Train DMD emotion models, export the student path to ONNX, quantise it to INT8, and prove it still answers "
        "the same.\n\nThe usual line: dmdkit train --data mosi.pkl, then dmdkit export --int8, then dmdkit predict. "
        "See it run once: dmdkit demo."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("train")(run.train)
app.command("import")(run.import_weights)
app.command("evaluate")(run.evaluate)
app.command("reproduce")(reproduce.reproduce)
app.command("export")(export.export)
app.command("add-precision")(add_precision.add_precision)
app.command("targets")(targets.targets)
app.command("build")(build.build)
app.command("triton")(triton.triton)
app.command("check")(bundle.check)
app.command("bench")(bench.bench)
app.command("predict")(bundle.predict)
app.command("inspect")(inspect.inspect)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(data.app, name="data")

# typer brings its own click since 0.26 and used the package before; both name the base of usage errors the same.
_UsageError = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _version(show: bool) -> None:
    if show:
        from dmdkit import __version__
        from dmdkit.cli.console import say

        say(f"dmdkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def _one_line(error: Any) -> str:
    """A usage error as one line that names the help of the command it happened in."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "dmdkit"
    return f"{error.format_message().rstrip('.')}; see: {command} --help"


def _flush() -> None:
    """Writes what a library left in standard output; the command is done, whether anybody reads that or not."""
    from dmdkit.cli.process import discard_output

    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output(sys.stdout)


def _check_utf8(arguments: Sequence[str]) -> None:
    """Refuses names of files that are not UTF-8: no run, bundle or report could record them, nor C++ read them back."""
    for argument in arguments:
        if not is_utf8(argument):
            raise ConfigError(f"{visible(argument)}: expected an argument that is UTF-8, found other bytes; rename the file")


def _system_advice(error: Exception) -> str | None:
    """What to do about what the system refused anywhere in a command; None for another error."""
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOSPC:
        return f"{os.strerror(errno.ENOSPC)}; free some space, or write elsewhere"
    if code == errno.ENAMETOOLONG:
        name = visible(str(error.filename))  # type: ignore[attr-defined]
        return f"{name:.60}...: expected a path this system can hold, found a longer name; shorten it"
    return None


def _run(arguments: Sequence[str] | None) -> int:  # noqa: PLR0911 - one return an exit code
    from dmdkit.cli.console import print_error
    from dmdkit.cli.process import discard_output, was_interrupted

    try:
        _check_utf8(sys.argv[1:] if arguments is None else arguments)
        result = get_command(app).main(
            args=list(arguments) if arguments is not None else None, prog_name="dmdkit", standalone_mode=False
        )
        _flush()
        if result == ExitCode.INTERRUPTED:  # typer turns Ctrl-C into this code without a word
            print_error("interrupted")
    except DmdkitError as error:
        told = not was_interrupted() or error.exit_code == ExitCode.INTERRUPTED  # else it is what a library made of the signal
        print_error(str(error) if told else "interrupted")
        return int(error.exit_code if told else ExitCode.INTERRUPTED)
    except (typer.Abort, KeyboardInterrupt):
        print_error("interrupted")
        return int(ExitCode.INTERRUPTED)
    except typer.Exit as end:
        return int(end.exit_code)
    except SystemExit as end:  # the page of help, which typer prints itself, at a closed pipe
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        discard_output(sys.stdout)
        return int(ExitCode.GOOD)
    except Exception as error:
        if was_interrupted():
            print_error("interrupted")
            return int(ExitCode.INTERRUPTED)
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            return int(ExitCode.USER_ERROR)
        if isinstance(error, _UsageError):
            print_error(_one_line(error))
            return int(ExitCode.USER_ERROR)
        advice = _system_advice(error)
        if advice is not None:
            if error.errno == errno.ENOSPC:  # type: ignore[attr-defined]
                discard_output(sys.stdout)
            print_error(advice)
            return int(ExitCode.USER_ERROR)
        traceback.print_exc()
        print_error("this is a bug in dmdkit; please report the lines above with the output of `dmdkit doctor --json`")
        return int(ExitCode.BUG)
    return int(result) if isinstance(result, int) else int(ExitCode.GOOD)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; the console script passes it to ``sys.exit``.

    Returns:
        0 good, 1 user error, 2 a verdict that is not passed, 3 a missing optional package, 70 our bug, 130 interrupted.
    """
    from dmdkit.cli.process import open_streams, remembered_interrupts

    open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is shown escaped
            stream.reconfigure(errors="backslashreplace")
    with remembered_interrupts():
        return _run(arguments)
