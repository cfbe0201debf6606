"""What only a process of its own can show: signals, terminals, closed pipes, full disks, and our own bugs."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmdkit.training.run import RUN_FILES
from tests.cli.helpers import TINY_FLAGS, dmdkit, in_process
from tests.conftest import ROOT
from tests.training.helpers import tree

COMMAND = [sys.executable, "-c", "import sys; from dmdkit.cli import main; sys.exit(main())"]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.02)


SLOWLY = """
import signal, sys, time
from dmdkit.cli import main
from dmdkit.training import trainer

step = trainer.LiveTraining._step

def slow_step(*arguments):
    time.sleep(0.05)
    return step(*arguments)

trainer.LiveTraining._step = slow_step
# What a shell starts in the background ignores Ctrl-C, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
"""The command line with batches slow enough to be stopped among the first epochs."""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_training_stopped_from_outside_goes_on_to_the_same_bytes(number, tiny_data, tmp_path):
    run, flags = tmp_path / "run", ["--data", tiny_data, *TINY_FLAGS, "--set", "training.early_stop_patience=100000"]
    command = [sys.executable, "-c", SLOWLY, "train", "--out", run, *flags, "--epochs", "100000"]
    with subprocess.Popen([str(part) for part in command], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        wait_for(run / "last.ckpt", process)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert err.splitlines()[-1] == f"error: interrupted; go on with: dmdkit train --resume --out {run}"
        assert "Traceback" not in err
    else:
        assert process.returncode == -number
    from dmdkit.training.checkpoint import load_state

    epochs = str(load_state(run / "last.ckpt").next_epoch + 2)
    assert in_process("train", "--resume", "--out", run, "--device", "cpu", "--epochs", epochs) == 0
    assert in_process("train", "--out", tmp_path / "unbroken", *flags, "--epochs", epochs) == 0
    for name in ("model.safetensors", "metrics.json"):
        assert (run / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    assert set(tree(run)) == set(RUN_FILES)


def test_interrupting_anything_else_exits_130(monkeypatch, capsys, tiny_bundle, tiny_data):
    from dmdkit.runtime import Runtime

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Runtime, "predict", interrupted)
    assert in_process("predict", tiny_bundle, "--data", tiny_data, "--graph", "fp32") == 130
    assert capsys.readouterr().err.strip() == "error: interrupted"


def test_our_own_bug_shows_a_traceback_and_how_to_report_it(monkeypatch, capsys, tiny_data):
    def buggy(*_, **__):
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("dmdkit.data.load_dataset", buggy)
    assert in_process("data", "inspect", tiny_data) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "surprise" in err
    assert "this is a bug in dmdkit; please report the lines above with the output of `dmdkit doctor --json`" in err


def on_terminal(columns: int, *arguments: object, cwd: Path) -> tuple[int, str]:
    """Exit code and everything written, on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    # Before the command starts, so that it never sees another size; and no fork of this process with all its threads.
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "CI"):
        environment.pop(name, None)
    command = [*COMMAND, *(str(argument) for argument in arguments)]
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not part:
                break
            written += part
        os.close(ours)
    return process.returncode, written.decode()


@pytest.fixture(scope="module")
def training_on_a_terminal(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    return on_terminal(80, "train", "--data", tiny_data, "--out", "run", *TINY_FLAGS, cwd=folder)


def test_training_on_a_terminal_has_a_bar_with_losses_and_a_line_an_epoch(training_on_a_terminal):
    code, written = training_on_a_terminal
    assert code == 0, written
    assert re.search(r"epoch 1 loss \d+\.\d{3}", ESCAPE.sub("", written))
    assert "━" in written
    plain = [line.rpartition("\r")[2] for line in ESCAPE.sub("", written).splitlines()]
    assert len([line for line in plain if re.match(r"epoch \d/2 train .*valid mae", line)]) == 2


def test_the_bar_gives_the_cursor_back(training_on_a_terminal):
    _, written = training_on_a_terminal
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") > -1


@pytest.mark.slow
def test_an_interrupted_bar_gives_the_cursor_back(tiny_data, tmp_path):
    code = (
        "import sys; from dmdkit.training import trainer; from dmdkit.cli import main\n"
        "step, calls = trainer.LiveTraining._step, []\n"
        "def interrupted(*arguments):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3: raise KeyboardInterrupt\n"
        "    return step(*arguments)\n"
        "trainer.LiveTraining._step = interrupted; sys.exit(main())"
    )
    original = COMMAND[2]
    COMMAND[2] = code
    try:
        status, written = on_terminal(80, "train", "--data", tiny_data, "--out", "run", *TINY_FLAGS, cwd=tmp_path)
    finally:
        COMMAND[2] = original
    assert status == 130
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") > -1
    assert ESCAPE.sub("", written).splitlines()[-1].startswith("error: interrupted; go on with")


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 160])
def test_tables_fit_the_terminal(columns, tiny_run, bundle_copy, tiny_data, tmp_path):
    commands = (
        ["inspect", bundle_copy],
        ["inspect", tiny_run],
        ["check", bundle_copy, "--data", tiny_data],
        ["predict", bundle_copy, "--data", tiny_data, "--graph", "fp32", "--limit", "3"],
        ["doctor"],
        ["data", "inspect", tiny_data],
        ["bench", bundle_copy, "--rounds", "3", "--no-memory"],
    )
    for command in commands:
        code, written = on_terminal(columns, *command, cwd=tmp_path)
        assert code in (0, 2), written
        tables = [line for line in ESCAPE.sub("", written).splitlines() if re.search(r"\S {3,}\S", line)]
        assert tables
        assert max(len(line.rstrip()) for line in tables) <= columns
        assert "…" not in written, "nothing is cut off"
    if columns == 80:
        assert re.search(r"explain\.int8-trt\s+\d", ESCAPE.sub("", on_terminal(80, "inspect", bundle_copy, cwd=tmp_path)[1]))


@pytest.mark.slow
def test_a_pipe_gets_no_escape_codes_and_no_wrapped_rows(tiny_run, bundle_copy, tiny_data, tmp_path):
    environment = {**os.environ, "COLUMNS": "40", "TERM": "xterm-256color"}
    for command in (
        ["check", bundle_copy, "--data", tiny_data],
        ["inspect", bundle_copy],
        ["evaluate", tiny_run],
        ["train", "--fly"],
        ["train", "--data", tiny_data, "--out", tmp_path / "run", *TINY_FLAGS],
    ):
        ended = dmdkit(*command, env=environment)
        assert "\x1b" not in ended.stdout + ended.stderr
        assert "\r" not in ended.stdout + ended.stderr
        if command[0] == "check":
            assert re.search(
                r"^fusion\.fp32 -> fusion\.int8-trt \(simulated\) .*\[[+-]0\.\d{4}, [+-]0\.\d{4}\]", ended.stdout, re.M
            )


def test_a_closed_pipe_is_no_error(tiny_bundle):
    command = [*COMMAND, "inspect", str(tiny_bundle), "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.wait(timeout=120) == 0
        assert process.stderr.read() == ""


def with_closed_pipe(*arguments: object) -> tuple[int, str]:
    """Exit code and standard error of a command whose reader of standard output is gone before it writes."""
    command = [*COMMAND, *(str(argument) for argument in arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        _, said = process.communicate(timeout=120)
    return process.returncode, said


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_closed_pipe_hides_no_verdict_and_loses_none(form, bundle_copy, tiny_data):
    before = (bundle_copy / "report/parity.json").read_bytes()
    code, said = with_closed_pipe(
        "check", bundle_copy, "--data", tiny_data, "--split", "train", "--backend", "onnxruntime", *form
    )
    assert code == 2, said
    assert "Traceback" not in said
    assert "report.html" in said, "the rest of the command was done"
    assert (bundle_copy / "report/parity.json").read_bytes() != before


def test_a_closed_pipe_turns_no_other_answers_into_the_same(bundle_copy):
    from safetensors.numpy import load_file, save_file

    from dmdkit.files import sha256_of_file

    golden, manifest = bundle_copy / "golden/golden.safetensors", bundle_copy / "manifest.json"
    arrays, old = load_file(golden), sha256_of_file(golden)
    arrays["recorded/fusion.fp32/score"] = arrays["recorded/fusion.fp32/score"] + 1
    size = golden.stat().st_size
    save_file(arrays, golden)
    text = manifest.read_text().replace(old, sha256_of_file(golden))
    manifest.write_text(text.replace(f'"size_bytes": {size}', f'"size_bytes": {golden.stat().st_size}'))
    code, said = with_closed_pipe("inspect", bundle_copy)
    assert code == 2, said


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["check", "--help"]])
def test_a_page_of_help_in_a_closed_pipe_is_no_error(arguments):
    assert with_closed_pipe(*arguments) == (0, "")


def test_names_that_the_terminal_cannot_encode_are_escaped(tmp_path, tiny_data):
    name = shutil.copy(tiny_data, tmp_path / "gefühl七.npz")
    # The file's name is read as UTF-8 whatever the locale of whoever runs the tests.
    locale = {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ended = dmdkit("data", "inspect", name, env={**os.environ, **locale})
    assert ended.returncode == 0, ended.stderr
    assert "gef\\xfchl\\u4e03.npz" in ended.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_standard_output_on_a_full_disk_is_one_line(tiny_bundle, json):
    with Path("/dev/full").open("w") as full:
        command = [*COMMAND, "inspect", str(tiny_bundle), *json]
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "error: No space left on device; free some space, or write elsewhere"
    assert "Traceback" not in ended.stderr


@contextmanager
def files_of_at_most(size_bytes: int):
    """Makes writing beyond a size fail in the system, below Python and PyTorch, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size_bytes", [0, 400, 20_000, 60_000])
def test_a_disk_that_fills_is_one_line_and_nothing_half_written(
    size_bytes, tiny_data, tiny_run, published_weights, tmp_path, capsys
):
    commands = {
        "train": ["train", "--data", tiny_data, "--out", tmp_path / "run", *TINY_FLAGS],
        "import": ["import", published_weights, "--heads", "2", "--out", tmp_path / "imported"],
        "data sample": ["data", "sample", "--out", tmp_path / "sample.npz"],
        "data sample safetensors": ["data", "sample", "--out", tmp_path / "sample.safetensors"],
    }
    for name, command in commands.items():
        capsys.readouterr()
        with files_of_at_most(size_bytes):
            code = in_process(*command)
        said = capsys.readouterr().err.splitlines()
        assert code == 1, (name, said)
        assert said[-1].startswith("error: cannot write")
        assert "space" in said[-1] or "writable" in said[-1]
        assert not any("Traceback" in line for line in said)
    left = {name for name in tree(tmp_path) if name != "run"}
    assert left <= {"run/config.yaml", "run/facts.json", "run/environment.json"}, "a run that began and can be resumed"
    if left:
        assert in_process("train", "--resume", "--out", tmp_path / "run", "--device", "cpu") == 0
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == (tiny_run / "model.safetensors").read_bytes()


def test_a_disk_that_fills_later_says_how_to_go_on(tiny_data, tiny_run, tmp_path, monkeypatch, capsys):
    import torch

    save, calls = torch.save, []

    def full(values, path):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise RuntimeError("[enforce fail at inline_container.cc:783] . PytorchStreamWriter failed writing file data/3")
        save(values, path)

    monkeypatch.setattr(torch, "save", full)
    run = tmp_path / "run"
    assert in_process("train", "--data", tiny_data, "--out", run, *TINY_FLAGS) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "the disk may be full" in line
    assert line.endswith(f"then go on with: dmdkit train --resume --out {run}")
    assert sorted(tree(run)) == [
        "config.yaml",
        "environment.json",
        "facts.json",
        "history.csv",
        "last.ckpt",
        "previous.ckpt",
    ]
    assert in_process("train", "--resume", "--out", run, "--device", "cpu") == 0
    assert (run / "model.safetensors").read_bytes() == (tiny_run / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_bundle(tiny_run, bundle_copy, monkeypatch, capsys):
    before = tree(bundle_copy.parent)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dmdkit.export.bundle_files.write_manifest", full)
    assert in_process("export", tiny_run, "--out", bundle_copy, "--force") == 1
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert tree(bundle_copy.parent) == before


def test_too_little_memory_is_one_line(tiny_data, tmp_path, monkeypatch, capsys):
    import torch

    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("dmdkit.training.trainer.LiveTraining._step", exhausted)
    assert in_process("train", "--data", tiny_data, "--out", tmp_path / "run", *TINY_FLAGS) == 1
    assert "does not fit into memory; lower training.batch_size" in capsys.readouterr().err.splitlines()[-1]


def test_a_runtime_error_of_our_own_stays_a_bug(tiny_data, tmp_path, monkeypatch, capsys):
    def buggy(*_, **__):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr("dmdkit.training.trainer.LiveTraining._step", buggy)
    assert in_process("train", "--data", tiny_data, "--out", tmp_path / "run", *TINY_FLAGS) == 70
    assert "shape mismatch" in capsys.readouterr().err
