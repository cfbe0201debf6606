"""Streams on the native kernels: every prefix answers as its window in every language, and snapshots go from one to another."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dmdkit.errors import InputError
from dmdkit.parity.ledger import measure
from dmdkit.parity.verdicts import judged
from dmdkit.runtime import Runtime
from dmdkit.runtime.backends import proof_name
from dmdkit.runtime.backends.native import LIBRARY_VARIABLE
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.manifest import write_manifest
from tests.cpp.c_library import Library
from tests.cpp.test_parity import run_tool
from tests.cpp.test_streams import part, random_rows
from tests.stream_builders import KERNEL, STEPS, real_dataset

pytestmark = pytest.mark.slow
WINDOW = {"past_limit": "window", "missing": "hold"}


@pytest.fixture(scope="module", autouse=True)
def library_here(native_bin: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        library = native_bin.parent / "lib/libdmdkit_native.so"
        patch.setenv(LIBRARY_VARIABLE, str(library))
        yield library


@pytest.fixture(scope="module")
def native(real_bundle: Path) -> Iterator[Runtime]:
    with Runtime.open(real_bundle, graph="fp32", backend="native") as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(real_bundle: Path) -> Iterator[Runtime]:
    with Runtime.open(real_bundle, graph="fp32") as opened:
        yield opened


@pytest.fixture(scope="module")
def in_cpp(native_bin: Path, real_bundle: Path) -> Iterator[Library]:
    opened = Library(native_bin.parent / "lib/libdmdkit.so", real_bundle, "fp32", "native")
    yield opened
    opened.close()


@pytest.mark.parametrize("pushes", [[1] * STEPS, [2, 4, 1, 2], [STEPS]])
def test_every_prefix_answers_as_the_window_in_python_and_in_c(
    native: Runtime, reference: Runtime, in_cpp: Library, pushes: list[int]
) -> None:
    rows, at = random_rows(STEPS, 3), 0
    stream, there = native.stream(), in_cpp.stream()
    assert stream.backend == native.backend
    for count in pushes:
        now = part(rows, at, at + count)
        at += count
        found, in_c = stream.push(**now), there.push(now)
        assert (found is None) == (in_c is None) == (at < KERNEL)
        if found is None or in_c is None:
            continue
        window = reference.explain(**part(rows, 0, at))
        np.testing.assert_allclose(found.score, window.score, atol=1e-5)
        np.testing.assert_allclose(found.logit_hetero, window.logit_hetero, atol=1e-5)
        np.testing.assert_allclose(found.edges_hetero, window.edges_hetero, atol=1e-5)
        np.testing.assert_array_equal(in_c.score, found.scores)
        np.testing.assert_array_equal(in_c.edges_hetero[-1], found.edges_hetero)
        np.testing.assert_allclose(native.predict(**part(rows, 0, at)).score, window.score, atol=1e-5)
    there.close()


def test_int8_answers_as_the_native_window_of_the_prefix(real_bundle: Path) -> None:
    with Runtime.open(real_bundle, graph="int8-cpu", backend="native") as runtime:
        for sample in range(4):
            rows, stream = random_rows(STEPS, sample), runtime.stream()
            for at in range(STEPS):
                found = stream.push(**part(rows, at, at + 1))
                if found is not None:
                    # The window has one scale for all raw steps of the text, a step one for those under its kernel.
                    np.testing.assert_allclose(found.score, runtime.predict(**part(rows, 0, at + 1)).score, atol=0.02)


def test_past_the_limit_the_answers_rest_on_the_same_steps_for_a_thousand_pushes(native: Runtime, reference: Runtime) -> None:
    rows = random_rows(1000, 4)
    stream, expected = native.stream(past_limit="window"), reference.stream(past_limit="window")
    for at in range(1000):
        found, truth = stream.push(**part(rows, at, at + 1)), expected.push(**part(rows, at, at + 1))
        if found is None or truth is None:
            assert at < KERNEL - 1
            continue
        assert found.steps == truth.steps
        np.testing.assert_allclose(found.score, truth.score, atol=1e-5)


@pytest.mark.parametrize("taken", [0, 1, 6, STEPS, 31])
def test_snapshots_go_from_each_backend_and_language_to_every_other(
    native: Runtime, reference: Runtime, in_cpp: Library, taken: int
) -> None:
    rows = random_rows(taken + STEPS, 5)
    streams = [native.stream(**WINDOW), reference.stream(**WINDOW)]  # type: ignore[arg-type]
    there = in_cpp.stream(past_limit="window", missing="hold")
    for at in range(taken):
        for stream in streams:
            stream.push(**part(rows, at, at + 1))
        there.push(part(rows, at, at + 1))
    ours, theirs = streams[0].snapshot(), streams[1].snapshot()
    assert there.snapshot() == ours
    assert len(ours) == len(theirs)
    streams[0].restore(theirs)
    assert streams[0].snapshot() == theirs
    streams[1].restore(ours)
    assert streams[1].snapshot() == ours
    there.restore(theirs)
    assert there.snapshot() == theirs
    for at in range(taken, taken + STEPS):
        now = part(rows, at, at + 1)
        answers = [stream.push(**now) for stream in streams]
        in_c = there.push(now)
        if answers[0] is None or answers[1] is None or in_c is None:
            continue
        np.testing.assert_allclose(answers[0].score, answers[1].score, atol=1e-5)
        np.testing.assert_array_equal(in_c.score[0], answers[0].score)
    there.close()


def test_streams_over_one_runtime_run_side_by_side(native: Runtime) -> None:
    rows = [random_rows(STEPS, seed) for seed in range(4)]
    expected = [native.stream().push(**own) for own in rows]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            stream, found = native.stream(), []
            for at in range(STEPS):
                answer = stream.push(**part(rows[index], at, at + 1))
                found += [answer.score] if answer else []
            truth = expected[index]
            if truth is None or not np.array_equal(np.stack(found), truth.scores):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bad_input_and_a_closed_runtime_are_errors_and_nothing_pushed_is_lost(native: Runtime, real_bundle: Path) -> None:
    rows = random_rows(STEPS, 6)
    stream, expected = native.stream(), native.stream().push(**rows)
    for at in range(STEPS):
        with pytest.raises(InputError, match="holds nan"):
            stream.push(**{name: np.full_like(array[0], np.nan) for name, array in rows.items()})
        answer = stream.push(**part(rows, at, at + 1))
    assert answer is not None
    assert expected is not None
    np.testing.assert_array_equal(answer.score, expected.score)
    with Runtime.open(real_bundle, graph="fp32", backend="native") as runtime:
        stream = runtime.stream()
        stream.push(**part(rows, 0, KERNEL))
    with pytest.raises(InputError, match="is closed"):
        stream.push(**part(rows, KERNEL, KERNEL + 1))


def test_a_ledger_proves_steps_at_every_prefix_and_streams_then_take_the_kernels_by_themselves(
    real_bundle: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(real_bundle, tmp_path / "proven.dmd"))
    bundle, split = Bundle.open(path), real_dataset().splits["test"]
    ledger = measure(
        bundle, split=split, split_name="test", source="random", data_sha256="0" * 64, backends=("onnxruntime", "native")
    )
    hop = next(hop for hop in ledger.hops if hop.target == "stream.fp32@native")
    steps = split.steps
    assert steps is not None
    assert (hop.source, hop.samples) == ("explain.fp32", int((steps - KERNEL + 1).sum()))
    assert hop.max_error is not None
    assert hop.max_error < 1e-5
    assert any(hop.target == f"stream.int8-cpu@{proof_name('native', 'int8-cpu')}" for hop in ledger.hops)
    manifest = judged(bundle.manifest, ledger)
    assert manifest.stream is not None
    assert manifest.stream.graphs["fp32"].backends["native"].status == "passed"
    write_manifest(path, manifest)
    with Runtime.open(path, backend="native") as runtime:
        assert runtime.stream().backend == runtime.backend


def test_dmdkit_run_streams_on_them(native_bin: Path, real_bundle: Path, reference: Runtime, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    samples = {name: array[None] for name, array in random_rows(STEPS, 7).items()}
    save_file(samples, tmp_path / "samples.safetensors")
    options = ("--input", tmp_path / "samples.safetensors", "--stream", "--graph", "fp32", "--backend", "native")
    done = run_tool(native_bin / "dmdkit-run", real_bundle, *options)
    assert done.returncode == 0, done.stderr
    expected = reference.stream().push(**{name: array[0] for name, array in samples.items()})
    assert expected is not None
    found = [json.loads(line)["score"] for line in done.stdout.splitlines()]
    np.testing.assert_allclose(found, expected.scores, atol=1e-5)
