from __future__ import annotations

import json

import pytest
import typer

from dmdkit import __version__
from dmdkit.cli import app
from tests.cli.helpers import COMMANDS, dmdkit, in_process, python


def test_every_command_is_listed_here():
    group = typer.main.get_command(app)
    names = {name for name in group.commands if name != "data"}
    names |= {f"data {name}" for name in group.commands["data"].commands}
    assert names == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_an_example_and_documents_every_option(command, capsys):
    assert in_process(*command.split(), "--help") == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert f"dmdkit {command}" in said.out.partition("Example")[2]
    found = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]
    assert all(parameter.help for parameter in found.params if parameter.name != "help")


def test_the_first_help_shows_the_usual_line_of_work(capsys):
    assert in_process("--help") == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in ("dmdkit train --data mosi.pkl", "dmdkit export --int8", "dmdkit demo"):
        assert text in out
    for command in COMMANDS:
        assert command.split()[0] in out


def test_no_help_loads_a_stage():
    code = (
        "import sys, json; from dmdkit.cli import main\n"
        "codes = [main([*line.split(), '--help']) for line in ['', *sys.argv[1:]]]\n"
        "heavy = ['torch', 'onnx', 'onnxruntime', 'onnxscript', 'modelopt', 'numpy', 'lightning_fabric', 'safetensors']\n"
        "print(json.dumps([codes, [name for name in heavy if name in sys.modules]]), file=sys.stderr)"
    )
    ended = python(code, *COMMANDS, "data")
    codes, loaded = json.loads(ended.stderr)
    assert set(codes) == {0}
    assert loaded == []


def test_the_version_is_one_line(capsys):
    assert in_process("--version") == 0
    assert capsys.readouterr().out == f"dmdkit {__version__}\n"


def test_python_m_runs_the_same_command():
    ended = python(
        "import runpy, sys; sys.argv[0] = 'dmdkit'; runpy.run_module('dmdkit.cli', run_name='__main__')", "--version"
    )
    assert (ended.returncode, ended.stdout) == (0, f"dmdkit {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "No such command 'fly'"),
        (["train", "--fly"], "No such option: --fly"),
        (["train", "--epochs", "many"], "--epochs"),
        (["train", "--epochs"], "--epochs"),
        (["train", "surplus"], "surplus"),
        (["evaluate"], "Missing argument"),
        (["import", "a.pth"], "--heads"),
        (["predict", "a.dmd"], "--data"),
        (["export", "--method", "magic"], "--method"),
        (["data", "fly"], "No such command 'fly'"),
    ],
)
def test_a_usage_error_is_one_line_that_names_the_help_and_exits_1(arguments, said, capsys):
    assert in_process(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert said in captured.err
    assert captured.err.startswith("error: ")
    general = arguments[0] == "fly" or arguments[-1] == "--epochs"  # the parser forgets which command lacked its value
    assert captured.err.rstrip().endswith(f"see: {'dmdkit' if general else f'dmdkit {arguments[0]}'} --help")


def test_a_usage_error_exits_1_in_a_process_too():
    assert dmdkit("train", "--fly").returncode == 1


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_no_arguments_show_the_help(arguments, capsys):
    assert in_process(*arguments) == 1
    said = capsys.readouterr()
    assert "Usage" in said.out + said.err
