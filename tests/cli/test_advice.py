"""Every command and flag that a message names is one that whoever reads it can type.

A message is a text with a space in it, an f-string with its holes left blank. A flag behind a command (``dmdkit check --data``)
must be that command's. A flag without one must be known to every command that can say the message.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from dmdkit.errors import InputError
from dmdkit.runtime.choice import check_backend
from tests.cli.helpers import COMMANDS, in_process
from tests.conftest import ROOT

COMMAND = re.compile(rf"\bdmdkit ((?:data )?[a-z]+(?:-[a-z]+)*)|\b({'|'.join(COMMANDS)})(?= --)")
CODE = re.compile(r"``.*?``")
"""In docstrings for developers, flags stand in double backticks."""
FLAG = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
NOT_OURS = {"--model-repository", "--stronglyTyped"}
"""Of tritonserver and trtexec, whose command lines are shown."""

DATA = ("data inspect", "data convert", "train", "evaluate", "export", "check", "predict", "add-precision")
RUNS = ("train", "import")
SAID_BY: dict[str, tuple[str, ...]] = {
    "toolkit/cli/add_precision.py": ("add-precision",),
    "toolkit/cli/bench.py": ("bench",),
    "toolkit/cli/build.py": ("build",),
    "toolkit/cli/demo.py": ("demo",),
    "toolkit/cli/doctor.py": ("doctor",),
    "toolkit/cli/report.py": ("report",),
    "toolkit/cli/targets.py": ("build",),
    "toolkit/cli/triton.py": ("triton",),
    "toolkit/cli/export.py": ("export",),
    "toolkit/cli/int8.py": ("export", "check"),
    "toolkit/cli/feature_files.py": DATA,
    "toolkit/cli/data.py:inspect": ("data inspect",),
    "toolkit/cli/data.py:sample": ("data sample",),
    "toolkit/cli/data.py:convert": ("data convert",),
    "toolkit/cli/data.py:_refuse_existing": ("data sample", "data convert"),
    "toolkit/cli/data.py:_print_report": ("data convert",),  # "Training and converting": both have what it names
    "toolkit/cli/data.py": ("data sample", "data convert"),
    "toolkit/cli/bundle.py:check": ("check",),
    "toolkit/cli/bundle.py:predict": ("predict",),
    "toolkit/cli/inspect.py:inspect": ("inspect",),
    "toolkit/cli/bundle.py:_check_out_file": ("predict",),
    "toolkit/cli/bundle.py": ("check",),
    "toolkit/cli/run.py:evaluate": ("evaluate",),
    "toolkit/cli/run.py:import_weights": ("import",),
    "toolkit/cli/run.py": ("train",),
    "toolkit/cli/backends.py": ("check",),
    "toolkit/config.py": ("train",),
    "toolkit/files.py": ("data sample", "data convert", "export", "build"),
    "toolkit/data/": DATA,
    "toolkit/model/published.py": ("import",),
    "toolkit/report/parity_section.py": ("check",),
    "toolkit/report/int8_section.py": ("export",),
    "toolkit/training/checkpoint.py": ("train",),
    "toolkit/training/devices.py": ("train", "evaluate"),
    "toolkit/training/folds.py": ("train",),
    "toolkit/training/importing.py": ("import",),
    "toolkit/training/outcome.py": ("train",),
    "toolkit/training/planning.py": ("train",),
    "toolkit/training/resuming.py": ("train",),
    "toolkit/training/run.py": RUNS,
    "toolkit/training/run_directory.py": RUNS,
    "toolkit/training/run_directory.py:check_resumable": ("train",),
    "toolkit/training/trainer.py": ("train",),
    "runtime/engines/build.py": ("build",),
    "toolkit/parity/cpp_runner.py": ("check",),
    "calibration/samples.py": ("export",),
    "export/bundle_files.py": ("export",),
    "export/bundle_writer.py": ("export",),
    "export/kit.py": ("build",),
    "export/targets.py": ("build",),
    "export/triton.py": ("triton",),
}
"""File, or file and function, or folder -> the commands that can say its messages; the longest that fits counts."""

A_PROGRAM_OF_ITS_OWN = {"runtime/engines/device_kit.py"}
"""It goes to the device in a kit, with its own arguments."""


def messages(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name of the top-level function or "", and text."""
    for top in tree.body:
        inside = {part for node in ast.walk(top) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        for node in ast.walk(top):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
                yield getattr(top, "name", ""), "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
                yield getattr(top, "name", ""), node.value


def named_in(text: str) -> Iterator[tuple[str | None, str | None]]:
    """Commands, each with None; and flags, each with the command before it in the same sentence or None."""
    for sentence in re.split(r"[;\n]|, or |\. ", CODE.sub("", text)):
        command = None
        for found in re.finditer(f"{COMMAND.pattern}|{FLAG.pattern}", sentence):
            if found[1] or found[2]:
                command = found[1] or found[2]
                yield command, None
            elif found[0] not in NOT_OURS:
                yield command, found[0]


SOURCES = [
    path
    for folder in ("toolkit", "export", "calibration", "runtime")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not {"cpp", "ros2"} & set(path.relative_to(ROOT).parts)
]


def commands_that_say(path: str, function: str) -> tuple[str, ...]:
    fitting = [key for key in SAID_BY if key in (path, f"{path}:{function}") or (key[-1] == "/" and path.startswith(key))]
    return SAID_BY[max(fitting, key=len)] if fitting else ()


@cache
def named() -> set[tuple[str, str | None]]:
    """Every (command, flag) that is advised, with where it is said on failure."""
    found: set[tuple[str, str | None]] = set()
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        if name in A_PROGRAM_OF_ITS_OWN:
            continue
        for function, text in messages(ast.parse(path.read_text())):
            if " " not in text.strip():  # a declaration, or an argument for another program
                continue
            for command, flag in named_in(text):
                if command is None and flag not in ("--help", "--version", "--set"):
                    sayers = commands_that_say(name, function)
                    assert sayers, f"{name}: who says {flag} in {text!r}?"
                    found |= {(sayer, flag) for sayer in sayers}
                elif command is not None and _is_command(command):
                    found.add((command.strip(), flag))
    return found


_WORDS = {
    "and", "knows", "did", "plan", "that", "reads", "does", "raises", "extra", "it", "parity", "can", "training", "wrote",
}  # fmt: skip
"""What follows the name in sentences about it: "this dmdkit reads"."""


def _is_command(word: str) -> bool:
    return word not in _WORDS


def test_every_command_that_a_message_names_has_a_help(capsys):
    commands = {command for command, _ in named()}
    assert len(commands) > 10, "the messages are found"
    for command in sorted(commands):
        assert in_process(*command.split(), "--help") == 0, command
    capsys.readouterr()


def test_every_flag_that_a_message_names_is_in_the_help_of_the_command(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    pairs = {(command, flag) for command, flag in named() if flag is not None}
    assert len(pairs) > 50, "the messages are found"
    wrong = []
    for command in sorted({command for command, _ in pairs}):
        in_process(*command.split(), "--help")
        shown = set(FLAG.findall(capsys.readouterr().out))
        wrong += [f"dmdkit {command} {flag}" for other, flag in sorted(pairs) if other == command and flag not in shown]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("next: dmdkit check X --data Y --run Z", [("check", None), ("check", "--data"), ("check", "--run")]),
        ("pass --calib; or see `dmdkit data inspect X`", [(None, "--calib"), ("data inspect", None)]),
        ("tritonserver --model-repository=X", []),
        ("an em--dash and a minus -v", []),
    ],
)
def test_commands_and_flags_are_found_in_a_text(text, expected):
    assert list(named_in(text)) == expected


def test_cpp_messages_name_commands_that_exist():
    text = "".join(path.read_text() for path in (ROOT / "runtime/cpp/src").glob("*.cpp"))
    found = set(re.findall(r"`dmdkit ([a-z]+)", text))
    assert found
    assert found <= set(COMMANDS)


def test_a_split_that_is_not_there_is_named_by_the_option_of_the_command(tiny_run, tiny_data, tmp_path, capsys):
    capsys.readouterr()
    parity = ["--parity-data", tiny_data, "--parity-split", "dev"]
    assert in_process("export", tiny_run, "--out", tmp_path / "x.dmd", *parity) == 1
    assert "name one it has with --parity-split: train, valid, test" in capsys.readouterr().err
    assert in_process("evaluate", tiny_run, "--split", "dev") == 1
    assert "name one it has with --split: train, valid, test" in capsys.readouterr().err


def test_the_refusal_of_a_backend_names_every_backend_there_is():
    with pytest.raises(InputError, match="expected auto, onnxruntime, openvino, native, or tensorrt"):
        check_backend("magic", "cpu")
