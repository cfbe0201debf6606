"""A stream in C++ over ONNX Runtime: the window's answers at every prefix, and Python's stream, also from its snapshots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dmdkit.runtime import Runtime
from tests.cpp.c_library import CStream, Library
from tests.cpp.test_parity import run_tool
from tests.stream_builders import KERNEL, STEPS, WIDTHS

pytestmark = pytest.mark.slow
Rows = dict[str, np.ndarray]


def random_rows(count: int, seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=(count, width)).astype(np.float32) for name, width in WIDTHS.items()}


def part(rows: Rows, first: int, last: int) -> Rows:
    return {name: array[first:last] for name, array in rows.items()}


@pytest.fixture(scope="module")
def library(native_bin: Path, real_bundle: Path) -> Iterator[Library]:
    opened = Library(native_bin.parent / "lib/libdmdkit.so", real_bundle, "fp32")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def runtime(real_bundle: Path) -> Iterator[Runtime]:
    with Runtime.open(real_bundle, graph="fp32") as opened:
        yield opened


@pytest.fixture
def stream(library: Library) -> Iterator[CStream]:
    opened = library.stream(past_limit="window", missing="hold", step_s=0.1)
    yield opened
    opened.close()


@pytest.mark.parametrize("pushes", [[1] * STEPS, [2, 4, 1, 2], [STEPS]])
def test_every_prefix_answers_as_python_s_stream_and_the_last_as_the_window(
    library: Library, runtime: Runtime, pushes: list[int]
) -> None:
    rows, at = random_rows(STEPS, 3), 0
    stream, reference = library.stream(), runtime.stream()
    answered = 0
    for count in pushes:
        found, expected = stream.push(part(rows, at, at + count)), reference.push(**part(rows, at, at + count))
        at += count
        assert (found is None) == (expected is None)
        if found is None or expected is None:
            continue
        np.testing.assert_allclose(found.score, expected.scores, atol=1e-6)
        assert found.steps == expected.steps == at
        answered += len(found.score)
    window = runtime.explain(**rows)
    assert found is not None
    assert answered == STEPS - KERNEL + 1
    np.testing.assert_allclose(found.score[-1], window.score, atol=1e-5)
    np.testing.assert_allclose(found.logit_hetero[-1], window.logit_hetero.ravel(), atol=1e-5)
    np.testing.assert_allclose(found.edges_hetero[-1], window.edges_hetero, atol=1e-5)
    stream.close()


def test_past_the_limit_both_languages_rest_on_the_same_steps_for_a_thousand_pushes(stream: CStream, runtime: Runtime) -> None:
    rows = random_rows(1000, 4)
    reference = runtime.stream(past_limit="window", missing="hold")
    for at in range(1000):
        found, expected = stream.push(part(rows, at, at + 1)), reference.push(**part(rows, at, at + 1))
        assert (found is None) == (expected is None)
        if found is None or expected is None:
            continue
        assert found.steps == expected.steps
        np.testing.assert_allclose(found.score[0], expected.score, atol=1e-6)


def test_both_languages_report_what_leaves_the_training_range_until_no_answer_rests_on_it(
    stream: CStream, runtime: Runtime
) -> None:
    rows = random_rows(3 * STEPS, 5)
    rows["audio"][KERNEL + 1] *= 1e3
    rows["vision"][STEPS : STEPS + 2] *= 1e3
    reference, reported = runtime.stream(past_limit="window"), []
    for at in range(3 * STEPS):
        found, expected = stream.push(part(rows, at, at + 1)), reference.push(**part(rows, at, at + 1))
        if found is not None and expected is not None:
            assert found.out_of_range == pytest.approx(expected.out_of_range)
            reported.append(frozenset(found.out_of_range))
    assert {frozenset(), frozenset({"audio"}), frozenset({"vision"})} <= {*reported}
    assert not reported[0]
    assert not reported[-1]


@pytest.mark.parametrize("taken", [0, 1, 4, 6, STEPS, STEPS + 3, 31])
def test_either_language_writes_the_same_snapshot_and_goes_on_from_the_other_s(
    stream: CStream, runtime: Runtime, taken: int
) -> None:
    rows, options = random_rows(taken + STEPS, 5), {"past_limit": "window", "missing": "hold", "step_s": 0.1}
    reference, other = runtime.stream(**options), runtime.stream(**options)  # type: ignore[arg-type]
    for at in range(taken):
        stream.push(part(rows, at, at + 1), times=[at * 0.1] * 3)
        reference.push(**part(rows, at, at + 1), time=at * 0.1)
    written, expected = stream.snapshot(), reference.snapshot()
    assert len(written) == len(expected)
    if taken == 0:
        assert written == expected
    other.restore(written)
    assert other.snapshot() == written
    stream.restore(expected)
    assert stream.snapshot() == expected
    for at in range(taken, taken + STEPS):
        found, python = stream.push(part(rows, at, at + 1)), other.push(**part(rows, at, at + 1))
        assert (found is None) == (python is None)
        if found is not None and python is not None:
            assert found.steps == python.steps
            np.testing.assert_allclose(found.score[0], python.score, atol=1e-6)


def test_a_damaged_snapshot_is_refused_and_the_stream_goes_on(stream: CStream) -> None:
    rows = random_rows(STEPS, 6)
    stream.push(part(rows, 0, 5))
    whole = stream.snapshot()
    with pytest.raises(ValueError, match="checksum differs"):
        stream.restore(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    assert stream.snapshot() == whole
    assert stream.push(part(rows, 5, 6)) is not None


def test_dmdkit_run_prints_a_score_a_step(native_bin: Path, real_bundle: Path, runtime: Runtime, tmp_path: Path) -> None:
    samples = {name: np.stack([array, 2 * array]) for name, array in random_rows(STEPS, 7).items()}
    save_file(samples, tmp_path / "samples.safetensors")
    options = ("--input", tmp_path / "samples.safetensors", "--stream", "--graph", "fp32")
    done = run_tool(native_bin / "dmdkit-run", real_bundle, *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["sample"], line["steps"]) for line in lines] == [(s, n) for s in (0, 1) for n in range(KERNEL, STEPS + 1)]
    for sample in (0, 1):
        expected = runtime.stream().push(**{name: array[sample] for name, array in samples.items()})
        assert expected is not None
        found = [line["score"] for line in lines if line["sample"] == sample]
        np.testing.assert_allclose(found, expected.scores, atol=1e-6)


def test_dmdkit_run_hears_a_sample_s_own_steps_as_python_does(
    native_bin: Path, real_bundle: Path, runtime: Runtime, tmp_path: Path
) -> None:
    rows = random_rows(STEPS, 9)
    samples = {name: np.stack([array] * 3) for name, array in rows.items()}
    for array in samples.values():
        array[0, 5:] = 0.0
        array[1, :2] = 0.0
        array[1, 4] = 0.0  # silence inside
    samples["text"][2, -1] = 0.0  # the others go on
    save_file(samples, tmp_path / "samples.safetensors")
    given = ("--input", tmp_path / "samples.safetensors", "--stream", "--graph", "fp32")
    done = run_tool(native_bin / "dmdkit-run", real_bundle, *given)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for sample, (first, last) in enumerate([(0, 5), (2, STEPS), (0, STEPS)]):
        found = [line["score"] for line in lines if line["sample"] == sample]
        expected = runtime.stream().push(**{name: array[sample, first:last] for name, array in samples.items()})
        assert expected is not None
        np.testing.assert_allclose(found, expected.scores, atol=1e-6)
    for array in samples.values():
        array[1, 4:] = 0.0
    save_file(samples, tmp_path / "samples.safetensors")
    done = run_tool(native_bin / "dmdkit-run", real_bundle, *given)
    assert done.returncode == 1
    assert "sample 1 has 2 steps, fewer than the kernel of 3: no step of it has an answer" in done.stderr


@pytest.mark.parametrize("precision", ["fp32", "int8-cpu"])
def test_every_precision_answers_as_in_python(native_bin: Path, real_bundle: Path, precision: str) -> None:
    rows = random_rows(3 * STEPS, 10)
    opened = Library(native_bin.parent / "lib/libdmdkit.so", real_bundle, precision)
    other = Library(native_bin.parent / "lib/libdmdkit.so", real_bundle, "fp32")
    try:
        with Runtime.open(real_bundle, graph=precision) as reference:
            stream, exact = opened.stream(past_limit="window"), other.stream(past_limit="window")
            python = reference.stream(past_limit="window")
            assert python.graph == f"stream.{precision}"
            apart = 0.0
            for at in range(3 * STEPS):
                found, expected = stream.push(part(rows, at, at + 1)), python.push(**part(rows, at, at + 1))
                whole = exact.push(part(rows, at, at + 1))
                if found is None or expected is None or whole is None:
                    continue
                np.testing.assert_allclose(found.score[0], expected.score, atol=1e-6)
                apart = max(apart, float(np.abs(found.score[0] - whole.score[0]).max()))
            assert (apart > 1e-6) == (precision == "int8-cpu"), "the graphs of both precisions must be two"
            stream.close(), exact.close()
    finally:
        opened.close(), other.close()


@pytest.mark.parametrize("graph", ["fp32", "int8-cpu"])
def test_windows_of_real_steps_answer_as_in_python(native_bin: Path, real_bundle: Path, tmp_path: Path, graph: str) -> None:
    samples = {name: np.stack([array] * 3) for name, array in random_rows(STEPS, 8).items()}
    for array in samples.values():
        array[1, KERNEL:] = 0.0
        array[2, STEPS - 1 :] = array[2, :1] = 0.0
    save_file(samples, tmp_path / "samples.safetensors")
    options = ("--input", tmp_path / "samples.safetensors", "--graph", graph, "--batch", 2, "--explain")
    done = run_tool(native_bin / "dmdkit-run", real_bundle, *options, "--output", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "out.safetensors")
    with Runtime.open(real_bundle, graph=graph) as runtime:
        np.testing.assert_allclose(found["score"], runtime.predict(**samples).score, atol=1e-6)
        why = runtime.explain(**samples)
        np.testing.assert_allclose(found["logit_homo"].ravel(), why.logit_homo.ravel(), atol=1e-6)
        stream = runtime.stream().push(**{name: array[1, :KERNEL] for name, array in samples.items()})
    assert stream is not None
    if graph == "fp32":
        np.testing.assert_allclose(found["score"][1], stream.score, atol=1e-5)
    checked = run_tool(native_bin / "dmdkit-run", real_bundle, "--graph", graph, "--self-check", "--every-graph")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_dmdkit_run_says_how_to_export_a_bundle_that_does_not_stream(native_bin: Path, tiny_bundle: Path) -> None:
    done = run_tool(native_bin / "dmdkit-run", tiny_bundle, "--stream", "--graph", "fp32")
    assert done.returncode == 1
    assert "dmdkit export --stream" in done.stderr


@pytest.mark.parametrize(
    "other", [("--self-check",), ("--explain",), ("--bench",), ("--words", "w.txt"), ("--output", "x"), ("--batch", "2")]
)
def test_what_a_stream_does_not_do_is_refused_not_left_out(native_bin: Path, real_bundle: Path, other: tuple[str, ...]) -> None:
    done = run_tool(native_bin / "dmdkit-run", real_bundle, "--stream", "--graph", "fp32", *other)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"--stream prints a line for every step and takes no {other[0]}" in done.stderr
