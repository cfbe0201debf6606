"""What the command makes of closed standard streams, and of a Ctrl-C that a library turned into something else."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import ROOT

COMMAND = [sys.executable, "-c", "import sys; from dmdkit.cli import main; sys.exit(main())"]


# In processes of their own: a signal in one that tests share has ended all of them.
INTERRUPTED_INSIDE = """
import importlib, signal, sys
from dmdkit.cli import main

def interrupted(*_, **__):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as cause:
        raise RuntimeError("please open an issue") from cause

signal.signal(signal.SIGINT, signal.default_int_handler)
module, _, attribute = sys.argv[1].rpartition(".")
setattr(importlib.import_module(module), attribute, interrupted)
sys.exit(main(sys.argv[2:]))
"""


ALONE = """
import signal
from contextlib import suppress

import pytest

from dmdkit.cli.console import counted_steps, steps
from dmdkit.cli.process import remembered_interrupts, was_interrupted

signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def alone(script: str) -> str:
    """Runs ``script`` after ``ALONE`` in a process of its own; what it said on standard error."""
    program = ALONE + textwrap.dedent(script)
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    ("library", "command"),
    [
        ("torch.onnx.export", ["export", "{run}", "--out", "{out}"]),
        ("onnxruntime.InferenceSession", ["predict", "{bundle}", "--data", "{data}", "--graph", "fp32"]),
        ("dmdkit.cli.feature_files.check_fits", ["check", "{bundle}", "--data", "{data}"]),
    ],
)
def test_an_interrupt_exits_130_whatever_a_library_makes_of_it(library, command, tiny_run, tiny_bundle, tiny_data, tmp_path):
    places = {"run": tiny_run, "bundle": tiny_bundle, "data": tiny_data, "out": tmp_path / "x.dmd"}
    arguments = [part.format(**places) for part in command]
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_INSIDE, library, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.splitlines()[-1] == "error: interrupted"
    assert "issue" not in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_step_begins_after_an_interrupt_that_was_dropped():
    alone("""
        with remembered_interrupts():
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert was_interrupted()
            with steps("working") as on_step, pytest.raises(KeyboardInterrupt):
                on_step("on")
            with counted_steps("working") as (on_step, on_progress):
                with pytest.raises(KeyboardInterrupt):
                    on_step("on")
                with pytest.raises(KeyboardInterrupt):
                    on_progress(1, 2)
        with remembered_interrupts():
            assert not was_interrupted(), "the next command begins anew"
    """)


def test_an_ignored_interrupt_stays_ignored():
    alone("""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with remembered_interrupts():
            signal.raise_signal(signal.SIGINT)
        assert not was_interrupted()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    """)


def test_the_handler_of_whoever_calls_main_is_put_back():
    alone("""
        with remembered_interrupts():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    """)


def test_a_sigterm_ends_a_command_as_a_ctrl_c_does():
    said = alone("""
        import dmdkit.data
        from dmdkit.cli import main

        dmdkit.data.load_dataset = lambda *_, **__: signal.raise_signal(signal.SIGTERM)
        assert main(["data", "inspect", "pyproject.toml"]) == 130
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    """)
    assert said.strip() == "error: interrupted"


def without(descriptor: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the command line with one of its standard streams closed, as ``>&-`` does."""
    return subprocess.run(
        [*COMMAND, *(str(argument) for argument in arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=lambda: os.close(descriptor),
    )  # fmt: skip


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_closed_standard_output_is_one_line(form, tiny_bundle, tiny_data):
    ended = without(1, "predict", tiny_bundle, "--data", tiny_data, "--graph", "fp32", "--limit", "1", *form)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: standard output is closed")
    assert "Traceback" not in ended.stderr


def test_an_answer_in_a_file_needs_no_standard_output(tiny_bundle, tiny_data, tmp_path):
    out = tmp_path / "x.csv"
    ended = without(1, "predict", tiny_bundle, "--data", tiny_data, "--graph", "fp32", "--limit", "1", "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert len(out.read_text().splitlines()) == 2


def test_a_closed_standard_error_loses_nothing_of_the_answer(tiny_bundle, tiny_data):
    ended = without(2, "predict", tiny_bundle, "--data", tiny_data, "--graph", "fp32", "--limit", "1")
    assert ended.returncode == 0
    assert "test-0" in ended.stdout
