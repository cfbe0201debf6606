"""A stream answers each push exactly, says what is wrong with a bad one, and loses nothing over it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dmdkit.errors import BundleError, InputError
from dmdkit.runtime import Runtime
from dmdkit.runtime.streams.stream import Stream, StreamAnswer
from tests.stream_builders import KERNEL, STEPS, WIDTHS

Rows = dict[str, np.ndarray]


def random_rows(count: int, seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=(count, width)).astype(np.float32) for name, width in WIDTHS.items()}


def one(rows: Rows, at: int) -> Rows:
    return {name: array[at] for name, array in rows.items()}


def pushed(stream: Stream, rows: Rows) -> list[StreamAnswer | None]:
    return [stream.push(**one(rows, at)) for at in range(len(rows["text"]))]


@pytest.fixture(scope="module")
def runtime(stream_bundle: Path) -> Iterator[Runtime]:
    with Runtime.open(stream_bundle, graph="fp32") as opened:
        yield opened


def test_the_first_pushes_have_no_answer_and_the_last_is_the_window_s(runtime: Runtime) -> None:
    rows = random_rows(STEPS)
    answers = pushed(runtime.stream(), rows)
    assert answers[: KERNEL - 1] == [None] * (KERNEL - 1)
    assert [answer.steps for answer in answers[KERNEL - 1 :] if answer] == list(range(KERNEL, STEPS + 1))
    last, window = answers[-1], runtime.explain(**rows)
    assert last is not None
    np.testing.assert_allclose(last.score, window.score, atol=1e-5)
    np.testing.assert_allclose(last.logit_hetero, window.logit_hetero, atol=1e-5)
    np.testing.assert_allclose(last.edges_hetero, window.edges_hetero, atol=1e-5)


def test_several_steps_at_once_answer_as_one_by_one(runtime: Runtime) -> None:
    rows = random_rows(STEPS, 1)
    single = np.concatenate([a.scores for a in pushed(runtime.stream(), rows) if a])
    stream, found, at = runtime.stream(), [], 0
    for count in (1, 4, 2, 2):
        answer = stream.push(**{name: array[at : at + count] for name, array in rows.items()})
        found += [answer.scores] if answer else []
        at += count
    np.testing.assert_allclose(np.concatenate(found), single, atol=1e-5)


def test_past_the_limit_a_stream_stops_or_its_answers_rest_on_a_window(runtime: Runtime) -> None:
    rows = random_rows(5 * STEPS, 2)
    stream = runtime.stream()
    pushed(stream, {name: array[:STEPS] for name, array in rows.items()})
    with pytest.raises(InputError, match=f"heard {STEPS} steps and takes {STEPS}.*past_limit='window'"):
        stream.push(**one(rows, STEPS))
    assert stream.heard == STEPS
    answers = pushed(runtime.stream(past_limit="window"), rows)
    at_once = [runtime.stream(past_limit="window").push(**rows)]
    for at, answer in enumerate(answers[KERNEL - 1 :], start=KERNEL - 1):
        assert (answer is not None and answer.steps > STEPS // 2) or at < STEPS
        alone = runtime.stream().push(**{name: array[at + 1 - answer.steps : at + 1] for name, array in rows.items()})  # type: ignore[union-attr]
        np.testing.assert_allclose(answer.score, alone.score, atol=1e-5)  # type: ignore[union-attr]
    assert at_once[0] is not None
    assert answers[-1] is not None
    np.testing.assert_allclose(at_once[0].scores[:, 0], [a.score[0] for a in answers if a], atol=1e-5)


def test_a_snapshot_goes_on_where_it_was_taken(runtime: Runtime) -> None:
    rows = random_rows(4 * STEPS, 3)
    for taken in (0, 1, KERNEL, STEPS - 1, STEPS + 1, 3 * STEPS - 2):
        stream, other = runtime.stream(past_limit="window"), runtime.stream(past_limit="window")
        pushed(stream, {name: array[:taken] for name, array in rows.items()})
        other.restore(stream.snapshot())
        assert other.snapshot() == stream.snapshot()
        rest = {name: array[taken : taken + STEPS] for name, array in rows.items()}
        for a, b in zip(pushed(stream, rest), pushed(other, rest), strict=True):
            assert (a is None) == (b is None)
            if a and b:
                np.testing.assert_array_equal(a.score, b.score)
                assert (a.steps, a.heard) == (b.steps, b.heard)


def test_a_stream_that_stops_keeps_nothing_for_one_that_goes_on(runtime: Runtime) -> None:
    rows = random_rows(STEPS, 13)
    primed = runtime.stream(past_limit="window")
    pushed(primed, {name: array[: STEPS - 2] for name, array in rows.items()})
    stops = runtime.stream()
    stops.restore(primed.snapshot())
    stops.push(**one(rows, STEPS - 2))
    # What the second state was not fed would be missing in its answers.
    with pytest.raises(InputError, match="past_limit='stop'"):
        runtime.stream(past_limit="window").restore(stops.snapshot())


def test_a_snapshot_that_is_none_or_another_bundle_s_is_refused(runtime: Runtime) -> None:
    stream = runtime.stream()
    pushed(stream, random_rows(4))
    data = stream.snapshot()
    other = bytearray(data)
    for wrong, said in (
        (b"", "no snapshot"),
        (data[:-1], "damaged"),
        (data[:60] + b"\xff" + data[61:], "damaged"),
        (b"dmdkitS9" + data[8:], "version"),
    ):
        with pytest.raises(InputError, match=said):
            stream.restore(wrong)
    import hashlib

    other[8:40] = bytes(32)
    whole = bytes(other[:-32])
    with pytest.raises(InputError, match="another bundle"):
        stream.restore(whole + hashlib.sha256(whole).digest())
    assert stream.snapshot() == data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": np.full(7, np.nan, np.float32)}, "'text' holds nan at step 0, feature 0"),
        ({"audio": np.zeros(5, np.float32)}, r"'audio' has shape \(5,\), expected \(4,\)"),
        ({"vision": np.zeros((2, 5), np.float32)}, "equally many steps.*vision 2"),
        ({"text": "words"}, "dtype"),
        ({"audio": None}, "audio is missing; push it, or open the stream"),
        ({"time": float("inf")}, "expected finite seconds"),
        ({"time": 10**400}, "expected finite seconds"),
    ],
)
def test_a_bad_push_is_one_clear_error_and_nothing_is_lost(runtime: Runtime, change: dict[str, object], said: str) -> None:
    rows = random_rows(STEPS, 4)
    good, stream = pushed(runtime.stream(), rows), runtime.stream()
    for at in range(STEPS):
        with pytest.raises(InputError, match=said):
            stream.push(**{**one(rows, at), **change})  # type: ignore[arg-type]
        answer = stream.push(**one(rows, at))
        assert (answer is None) == (good[at] is None)
    assert answer is not None
    assert good[-1] is not None
    np.testing.assert_array_equal(answer.score, good[-1].score)


def test_times_out_of_order_are_an_error_with_both_times(runtime: Runtime) -> None:
    rows, stream = random_rows(2), runtime.stream()
    stream.push(**one(rows, 0), time=2.5)
    with pytest.raises(InputError, match=r"text is out of order: 1.25\d* s came after 2.50"):
        stream.push(**one(rows, 1), time={"text": 1.25, "audio": 3.0, "vision": 3.0})
    assert stream.heard == 1


@pytest.mark.parametrize(
    ("time", "word"),
    [({"text": 0.2, "audio": 0.1, "vision": 0.2}, "repeated"), ({"text": 0.2, "audio": 0.24, "vision": 0.2}, "late"),
     ({"text": 0.2, "audio": 0.16, "vision": 0.2}, "early")],
)  # fmt: skip
def test_a_modality_that_is_not_in_time_is_held_absent_or_an_error(runtime: Runtime, time: dict[str, float], word: str) -> None:
    rows = random_rows(4, 6)
    for policy in ("error", "hold", "absent"):
        stream = runtime.stream(missing={"audio": policy}, step_s=0.1, tolerance_s=0.03)  # type: ignore[dict-item]
        for at in range(2):
            stream.push(**one(rows, at), time=0.1 * at)
        if policy == "error":
            with pytest.raises(InputError, match=f"audio is {word}"):
                stream.push(**one(rows, 2), time=time)
            continue
        answer, plain = stream.push(**one(rows, 2), time=time), runtime.stream()
        changed = {name: array[:3].copy() for name, array in rows.items()}
        changed["audio"][2] = rows["audio"][1] if policy == "hold" else 0.0
        expected = plain.push(**changed)
        assert answer is not None
        assert expected is not None
        assert answer.filled == {"audio": policy}
        np.testing.assert_allclose(answer.score, expected.score, atol=1e-6)


def test_steps_that_are_missing_altogether_are_filled_or_an_error(runtime: Runtime) -> None:
    rows = random_rows(3, 7)
    stream = runtime.stream(step_s=0.1)
    stream.push(**one(rows, 0), time=0.0)
    with pytest.raises(InputError, match="missing for 2 steps"):
        stream.push(**one(rows, 1), time=0.3)
    stream = runtime.stream(step_s=0.1, missing="hold")
    stream.push(**one(rows, 0), time=0.0)
    answer = stream.push(**one(rows, 1), time=0.3)
    assert answer is not None
    assert answer.heard == 4
    expected = runtime.stream().push(**{name: array[[0, 0, 0, 1]] for name, array in rows.items()})
    assert expected is not None
    np.testing.assert_allclose(answer.score, expected.score, atol=1e-6)


def test_absence_that_was_not_trained_and_options_that_cannot_be_are_refused(runtime: Runtime) -> None:
    for options, said in (
        ({"missing": "absent"}, "text may not be absent"),
        ({"missing": "guess"}, "expected error, hold or absent"),
        ({"past_limit": "forget"}, "expected stop or window"),
        ({"step_s": -1.0}, "above 0"),
        ({"step_s": "0.1"}, "step_s='0.1': expected seconds"),
        ({"step_s": 10**400}, "above 0"),
        ({"step_s": 0.1, "tolerance_s": "x"}, "tolerance_s='x': expected seconds"),
        ({"tolerance_s": 0.1}, "beside step_s"),
    ):
        with pytest.raises(InputError, match=said):
            runtime.stream(**options)  # type: ignore[arg-type]


def test_streams_in_several_threads_do_not_disturb_each_other(runtime: Runtime) -> None:
    alone = [pushed(runtime.stream(), random_rows(STEPS, seed))[-1] for seed in range(4)]
    found: list[StreamAnswer | None] = [None] * 4

    def work(seed: int) -> None:
        stream = runtime.stream()
        for _ in range(20):
            stream.reset()
            found[seed] = pushed(stream, random_rows(STEPS, seed))[-1]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, found, strict=True):
        assert a is not None
        assert b is not None
        np.testing.assert_array_equal(a.score, b.score)


def test_a_closed_runtime_says_so(stream_bundle: Path) -> None:
    runtime = Runtime.open(stream_bundle, graph="fp32")
    stream = runtime.stream()
    pushed(stream, random_rows(KERNEL))
    runtime.close()
    with pytest.raises(InputError, match="closed"):
        stream.push(**one(random_rows(1), 0))
    with pytest.raises(InputError, match="closed"):
        runtime.stream()
    assert stream.heard == KERNEL


def test_a_bundle_without_a_step_graph_names_the_command_that_adds_one(tiny_bundle: Path) -> None:
    with Runtime.open(tiny_bundle, graph="fp32") as runtime, pytest.raises(BundleError, match="dmdkit export --stream"):
        runtime.stream()


def test_a_model_that_was_trained_padded_says_so_once(stream_bundle: Path) -> None:
    with Runtime.open(stream_bundle, graph="fp32") as runtime:
        runtime.stream()
        runtime.stream()
        assert sum("trained on padded windows" in note for note in runtime.notes) == 1


def test_what_leaves_the_training_range_is_reported_as_of_the_window(real_bundle: Path) -> None:
    heard: list[dict[str, float]] = []
    rows = random_rows(STEPS)
    strange = rows | {"audio": rows["audio"].copy()}
    strange["audio"][3:5] *= 1e3
    with Runtime.open(real_bundle, graph="fp32", on_out_of_range=heard.append) as runtime:
        expected = [runtime.predict(**{name: array[:at] for name, array in strange.items()}) for at in range(KERNEL, STEPS + 1)]
        assert set(expected[-1].out_of_range) == {"audio"}
        assert not expected[0].out_of_range
        before, reported = runtime.out_of_range_count, [*heard]
        stream = runtime.stream()
        answers = [answer for answer in pushed(stream, strange) if answer]
        assert [answer.out_of_range for answer in answers] == [found.out_of_range for found in expected]
        assert runtime.out_of_range_count == 2 * before
        assert heard == reported * 2
        stream.reset()
        assert all(not answer.out_of_range for answer in pushed(stream, rows) if answer)


def test_an_answer_past_the_limit_forgets_the_strange_steps_it_no_longer_rests_on(runtime: Runtime) -> None:
    rows = random_rows(2 * STEPS, 3)
    rows["vision"][:2] *= 1e3
    answers = pushed(runtime.stream(past_limit="window"), rows)
    told = [bool(answer.out_of_range) for answer in answers if answer]
    assert told[0]
    rests_on = [answer.heard - answer.steps for answer in answers if answer]
    assert not any(said for said, first in zip(told, rests_on, strict=True) if first >= 2)


def test_shorter_windows_are_refused_as_longest_ones_are(real_bundle: Path) -> None:
    rows = random_rows(STEPS - 2)
    masked = np.ma.masked_array(rows["text"], mask=np.zeros(rows["text"].shape, bool))
    masked[1, 2] = np.ma.masked
    with Runtime.open(real_bundle, graph="fp32") as runtime:
        for ask in (runtime.predict, runtime.explain):
            with pytest.raises(InputError, match="'text' has 1 masked values"):
                ask(**rows | {"text": masked})
            with pytest.raises(InputError, match="'text' is no array"):
                ask(**rows | {"text": [[1.0], [2.0, 3.0]]})


@pytest.mark.parametrize("ask", ["predict", "explain"])
def test_padding_before_a_sample_is_padding_as_that_behind_it_is(real_bundle: Path, ask: str) -> None:
    rows = random_rows(STEPS)
    for array in rows.values():
        array[:2] = 0.0
    rows["audio"][2:4] = 0.0  # silent while the others are not
    whole = {name: np.stack([array, random_rows(STEPS, 1)[name]]) for name, array in rows.items()}
    with Runtime.open(real_bundle, graph="fp32") as runtime:
        own = getattr(runtime, ask)(**{name: array[2:] for name, array in rows.items()})
        np.testing.assert_allclose(getattr(runtime, ask)(**rows).score, own.score, atol=1e-6)
        np.testing.assert_allclose(getattr(runtime, ask)(**whole).score[0], own.score, atol=1e-6)


@pytest.mark.parametrize("steps", [0, KERNEL - 1, STEPS])
def test_a_window_of_fewer_steps_than_the_kernel_or_of_none_is_refused(real_bundle: Path, steps: int) -> None:
    rows = {name: np.zeros((2, steps, width), np.float32) for name, width in WIDTHS.items()}
    for array in rows.values():
        array[0] = 1.0
    empty = {name: array[1] for name, array in rows.items()}
    with Runtime.open(real_bundle, graph="fp32") as runtime:
        with pytest.raises(InputError, match="sample 0 has 0 steps"):
            runtime.predict(**empty)
        with pytest.raises(InputError, match=f"sample {int(steps == STEPS)} has {0 if steps == STEPS else steps} steps"):
            runtime.explain(**rows)
