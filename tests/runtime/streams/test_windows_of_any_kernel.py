"""Past the limit each answer rests on the steps it says, whatever share of the window the kernel is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dmdkit.runtime.inputs import RangeGuard
from dmdkit.runtime.streams.arrival import Arrivals
from dmdkit.runtime.streams.stream import Stream

WINDOW = 7


class SumOfSteps:
    """A step graph whose answer is the sum of the steps under the kernel at every projected step so far."""

    name = "stream.fp32"

    def __init__(self) -> None:
        self.computed = 0

    def infer_checked(self, feed: dict[str, Any]) -> dict[str, Any]:
        rows, place = feed["text"], int(feed["steps"][0])
        self.computed += len(rows)
        count, kept = len(rows), feed.get("recent_text", rows[:0])
        every = np.concatenate([kept, rows])[:, 0]
        new = np.array([every[at : at + len(kept) + 1].sum() for at in range(count)], np.float32)
        before = feed["keys_1"][0, 0, :place].sum()
        score = (before + np.cumsum(new))[:, None]
        return {
            "score": score,
            "logit_hetero": np.repeat(score[:, None], 3, 1),
            "edges_hetero": np.zeros((count, 6)),
            "new_keys_1": new[None, None],
        }


def stream_of(kernel: int, window: int = WINDOW, runner: SumOfSteps | None = None) -> Stream:
    graph = SimpleNamespace(precision="fp32", file="step.onnx")
    state = SimpleNamespace(name="keys_1", heads=1, width=1)
    record: Any = SimpleNamespace(kernel=kernel, capacity=window - kernel + 1, state=[state], graphs={"fp32": graph})
    inputs = {name: SimpleNamespace(features=1, trained_absent=False) for name in ("text", "audio", "vision")}
    files = {"step.onnx": SimpleNamespace(sha256="0" * 64)}
    manifest: Any = SimpleNamespace(stream=record, inputs=inputs, files=files)
    arrivals, step_graph = Arrivals(manifest, "error", None, None), runner or SumOfSteps()
    return Stream(step_graph, manifest, arrivals, "window", RangeGuard({}), lambda _: None)  # type: ignore[arg-type]


def expected(last: int, steps: int, kernel: int) -> float:
    first = last + 1 - steps
    return float(sum(sum(range(at, at + kernel)) for at in range(first, last - kernel + 2)))


@pytest.mark.parametrize("together", [1, 3, 16])
@pytest.mark.parametrize("kernel", range(1, WINDOW + 1))
def test_no_answer_is_missing_and_each_rests_on_the_steps_it_says(kernel: int, together: int) -> None:
    stream, other = stream_of(kernel), stream_of(kernel)
    for at in range(0, 96, together):
        rows = np.arange(at, at + together, dtype=np.float32)[:, None]
        answer = stream.push(text=rows, audio=rows, vision=rows)
        last = at + together - 1
        if last + 1 < kernel:
            assert answer is None
            continue
        assert answer is not None
        assert answer.steps >= min(last + 1, max(WINDOW // 2, min(kernel, WINDOW - 1)) + 1)
        assert len(answer.scores) == min(together, last + 2 - kernel)
        assert answer.score[0] == expected(last, answer.steps, kernel)
        other.restore(stream.snapshot())
        stream, other = other, stream


@pytest.mark.parametrize("window", [7, 20, 50])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_no_push_computes_more_than_its_own_step_and_four_of_the_state_after_it(kernel: int, window: int) -> None:
    runner = SumOfSteps()
    stream, row, most = stream_of(kernel, window, runner), np.ones(1, np.float32), 0
    for _ in range(4 * window):
        before = runner.computed
        stream.push(text=row, audio=row, vision=row)
        most = max(most, runner.computed - before)
    assert most <= 5
