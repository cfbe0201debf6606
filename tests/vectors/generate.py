"""Writes the vectors that hold the rules of Python and C++ together; run it after a rule was changed on purpose.

    python -m tests.vectors.generate

The rules are Python's: what inputs are refused or reported (``dmdkit.runtime.inputs``), what a self-check says
(``dmdkit.runtime.self_check``), what a stream makes of what arrives (``dmdkit.runtime.streams.arrival``), and what words and
token ids are (``dmdkit.runtime.text``). A file's keys say which. JSON has no word for a value that is not finite: "nan",
"inf" and "-inf" stand for them, and null for an infinite error.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dmdkit.errors import InputError
from dmdkit.runtime.inputs import RangeGuard, check_inputs, is_for_text_encoder
from dmdkit.runtime.manifest import InputRecord
from dmdkit.runtime.self_check import check_outputs
from dmdkit.runtime.text.lengths import length_groups
from dmdkit.runtime.text.tokenizer import Layout, lay_out, without_padding
from tests.vectors.arrivals import arrivals
from tests.vectors.explaining import explains

FOLDER = Path(__file__).parent
STEPS = 4
WIDTHS = {"text": 3, "audio": 2, "vision": 1}
NAN, INF = float("nan"), float("inf")
Values = Mapping[str, np.ndarray | None]


def _number(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(float(value))


def _numbers(array: np.ndarray) -> list[float | str]:
    return [_number(value) for value in np.asarray(array, np.float32).ravel()]


def _records(*, optional: tuple[str, ...] = (), **ranges: tuple[list[float], list[float]] | None) -> dict[str, InputRecord]:
    """Inputs whose every column was between -1 and 1 in training, unless ``ranges`` says otherwise."""
    records = {}
    for name, width in WIDTHS.items():
        low, high = ranges.get(name, ([-1.0] * width, [1.0] * width)) or (None, None)
        records[name] = InputRecord(
            steps=STEPS, features=width, minimum=low, maximum=high, trained_absent=name in optional, padding_side="left"
        )
    return records


def _ordinary(batch: int = 1, **changes: np.ndarray | None) -> dict[str, np.ndarray | None]:
    """Samples inside the ranges, without padding, some modalities replaced."""
    generator = np.random.default_rng(batch)
    values: dict[str, np.ndarray | None] = {
        name: generator.uniform(0.1, 0.9, (batch, STEPS, width)).astype(np.float32) for name, width in WIDTHS.items()
    }
    return values | changes


def _changed(name: str, *places: tuple[tuple[int | slice, ...], float], batch: int = 1) -> dict[str, np.ndarray | None]:
    """Ordinary samples with values of one modality replaced; a place is (sample, step, feature)."""
    values = _ordinary(batch)
    array = values[name]
    assert array is not None
    for place, value in places:
        array[place] = value
    return values


def input_case(name: str, values: Values, records: Mapping[str, InputRecord] | None = None) -> dict[str, Any]:
    """A call and what comes of it: which modalities are reported, or why it is refused."""
    records = records or _records()
    guard = RangeGuard(records)
    case: dict[str, Any] = {
        "name": name,
        "records": {
            key: record.model_dump(include={"steps", "features", "minimum", "maximum", "trained_absent"})
            for key, record in records.items()
        },
        "batch": max((len(array) for array in values.values() if array is not None), default=1),
        "values": {key: None if array is None else _numbers(array) for key, array in values.items()},
    }
    try:
        checked = check_inputs(values, records, guard)
    except InputError as cause:
        return case | {"refusal": str(cause)}
    return case | {"alarms": guard.alarms(checked.feed, checked.ordinary)}


def _all(value: float, name: str, batch: int = 1) -> np.ndarray:
    return np.full((batch, STEPS, WIDTHS[name]), value, np.float32)


def range_alarms() -> list[dict[str, Any]]:
    ordinary, strange = _ordinary(5), _ordinary(5)
    for values in (ordinary["audio"], strange["audio"]):
        assert values is not None
    strange["audio"] = np.asarray(strange["audio"]) * np.linspace(0.5, 4.0, 5, dtype=np.float32)[:, None, None]
    constant = {"text": ([0.5, 1000.0, -2.0], [0.5, 1000.0, -2.0])}
    near = np.tile(np.float32([0.50004, 1000.09, -2.00019]), (1, STEPS, 1))
    beyond = np.tile(np.float32([0.50006, 1000.0, -2.0]), (1, STEPS, 1))
    wide = {"audio": ([-3e38, 0.0], [3e38, 1.0])}
    few = {"text": 1 / 12, "audio": 1 / 8}
    return [
        input_case("ordinary samples", ordinary),
        input_case("one strange sample of five is not hidden by the others", _changed("audio", ((3,), 9.0), batch=5)),
        input_case("the sample with the largest share decides", strange),
        input_case("at the margin of half the width", _changed("vision", ((0, 0, 0), 2.0))),
        input_case("beyond the margin and beyond the room for rounding", _changed("vision", ((0, 0, 0), 2.001))),
        input_case("beyond the margin within the room for rounding", _changed("vision", ((0, 0, 0), 2.00005))),
        input_case("below the range", _changed("audio", ((0, 1, 1), -2.5))),
        input_case("a column constant in training, rounded otherwise", _ordinary(text=near), _records(**constant)),
        input_case("a column constant in training, changed", _ordinary(text=beyond), _records(**constant)),
        input_case("a range as wide as float32", _changed("audio", ((0, 0, 0), 3.4e38)), _records(**wide)),
        input_case("a modality without a recorded range", _changed("text", ((0,), 50.0)), _records(text=None)),
        *(input_case(f"one value of {name}: {share:.3f}", _changed(name, ((0, 0, 0), 7.0))) for name, share in few.items()),
        input_case("two modalities at once", _ordinary(2, text=_all(5.0, "text", 2), vision=_all(-5.0, "vision", 2))),
    ]


def padding() -> list[dict[str, Any]]:
    left = _changed("text", ((0, slice(0, 2)), 0.0), ((0, 2, 0), 8.0))
    right = _changed("text", ((0, slice(2, 4)), 0.0), ((0, 1, 0), 8.0))
    away = {"text": ([5.0] * 3, [6.0] * 3)}
    inside = _ordinary(2, text=_all(5.5, "text", 2))
    np.asarray(inside["text"])[0, :3] = 0.0
    one_zero = _ordinary(text=_all(5.5, "text"))
    np.asarray(one_zero["text"])[0, 1, 1] = 0.0
    return [
        input_case("padding on the left does not count", left),
        input_case("padding on the right does not count", right),
        input_case("zeros of padding are not outside a range without zero", inside, _records(**away)),
        input_case("a zero in a step that is there is outside it", one_zero, _records(**away)),
        input_case("one sample of three has no step", _changed("text", ((1,), 0.0), batch=3)),
        input_case("one sample of three has no step of an optional modality", _changed("text", ((1,), 0.0), batch=3),
                   _records(optional=("text",))),
        input_case("negative zeros are padding too", _changed("audio", ((0, slice(0, 3)), -0.0), ((0, 3, 0), 8.0))),
    ]  # fmt: skip


def absence() -> list[dict[str, Any]]:
    zeros = {name: _all(0.0, name) for name in WIDTHS}
    every = tuple(WIDTHS)
    return [
        *(input_case(f"{name} all zero, not optional", _ordinary(**{name: zeros[name]})) for name in WIDTHS),
        *(input_case(f"{name} all zero, optional", _ordinary(**{name: zeros[name]}), _records(optional=(name,)))
          for name in WIDTHS),
        *(input_case(f"{name} absent, not optional", _ordinary(**{name: None})) for name in WIDTHS),
        *(input_case(f"{name} absent, optional", _ordinary(2, **{name: None}), _records(optional=(name,))) for name in WIDTHS),
        input_case("all absent, all optional", dict.fromkeys(WIDTHS), _records(optional=every)),
        input_case("one there, the others optional", _ordinary(text=None, vision=None), _records(optional=every)),
        input_case("everything zero, nothing optional", zeros),
        input_case("all zero without a recorded range", _ordinary(text=zeros["text"]), _records(text=None)),
    ]  # fmt: skip


def non_finite_inputs() -> list[dict[str, Any]]:
    return [
        input_case("a NaN", _changed("text", ((0, 1, 2), NAN))),
        input_case("an infinity in the second sample", _changed("audio", ((1, 3, 0), INF), batch=2)),
        input_case("minus infinity", _changed("vision", ((0, 2, 0), -INF))),
        input_case("the first of several", _changed("text", ((0, 3, 0), NAN), ((0, 1, 1), INF))),
        input_case("a NaN before a modality that is absent", _changed("text", ((0, 0, 0), NAN)) | {"audio": None}),
        input_case("a NaN after a modality that is absent", _changed("vision", ((0, 0, 0), NAN)) | {"audio": None}),
        input_case("a NaN without a recorded range", _changed("text", ((0, 0, 0), NAN)), _records(text=None)),
        input_case("the largest float", _changed("text", ((0, 0, 0), float(np.finfo(np.float32).max)))),
    ]


Outputs = dict[str, np.ndarray]


def check_case(name: str, precision: str, found: Outputs, recorded: Outputs, sd: float = 1.5, **how: bool) -> dict[str, Any]:
    """Outputs now and then, and the verdict."""

    def tensors(outputs: Outputs) -> dict[str, Any]:
        return {key: {"shape": list(array.shape), "values": _numbers(array)} for key, array in outputs.items()}

    verdict = check_outputs("g", precision, found, recorded, sd, **how)
    return {
        "name": name,
        "precision": precision,
        "only_stores_int8": how.get("only_stores_int8", False),
        "engine": how.get("engine", False),
        "output_sd": sd,
        "found": tensors(found),
        "recorded": tensors(recorded),
        "verdict": {
            "passed": bool(verdict.passed),
            "worst_output": verdict.worst_output,
            "max_error": verdict.max_error if math.isfinite(verdict.max_error) else None,
            "tolerance": verdict.tolerance,
            "correlation": verdict.correlation,
        },
    }


def _recorded() -> Outputs:
    generator = np.random.default_rng(5)
    return {
        "score": np.linspace(-2, 2, 8, dtype=np.float32).reshape(8, 1),
        "logit_homo": generator.normal(size=(8, 3, 1)).astype(np.float32),
        "edges_homo": np.full((8, 6), 1 / 6, np.float32),
    }


def _off(outputs: Outputs | None = None, **by: float) -> Outputs:
    """Recorded outputs, one value of each named one moved by so much."""
    moved = {name: array.copy() for name, array in (outputs or _recorded()).items()}
    for name, change in by.items():
        moved[name].flat[-1] += np.float32(change)
    return moved


def self_checks() -> list[dict[str, Any]]:
    then = _recorded()
    large = {"score": np.float32([[1000.0], [0.1]])}
    tenths = {"score": np.full((5, 1), 0.1, np.float32)}
    backwards = {"score": (0.05 - tenths["score"]) + np.linspace(-0.04, 0.04, 5, dtype=np.float32)[:, None]}
    return [
        check_case("nothing moved", "fp32", _off(), then),
        check_case("within fp32's tolerance", "fp32", _off(score=5e-6), then),
        check_case("beyond fp32's tolerance", "fp32", _off(edges_homo=3e-5), then),
        check_case("fp32's tolerance grows with the value", "fp32", _off(large) | {"score": large["score"] + 0.005}, large),
        check_case("an engine in fp32 has the fp32 hop's limit", "fp32", _off(logit_homo=9e-5), then, engine=True),
        check_case("in units of the output's spread", "fp32", _off(logit_homo=2.5e-4), then, 3.0, engine=True),
        check_case("beyond an engine's limit", "fp32", _off(score=9e-4), then, 3.0, engine=True),
        check_case("INT8's tolerance is in standard deviations", "int8-cpu", _off(logit_homo=0.14), then),
        check_case("beyond INT8's tolerance", "int8-trt", _off(logit_homo=0.16), then),
        check_case("an edge's tolerance is not in units of the score", "int8-cpu", _off(edges_homo=0.2), then, 50.0),
        check_case("the edge fails although a score moved further", "int8-cpu", _off(score=4.0, edges_homo=0.2), then, 50.0),
        check_case("the score fails although an edge used more", "int8-cpu", _off(score=0.2, edges_homo=0.15), then),
        check_case("several at once: the one that used most of its tolerance", "int8-cpu",
                   _off(score=0.3, logit_homo=0.2, edges_homo=0.19), then, 2.5),
        check_case("only stored in INT8: fp32's tolerance", "int8-cpu", _off(score=2e-5), then, only_stores_int8=True),
        check_case("scores in another order", "int8-cpu", then | {"score": then["score"][::-1].copy()}, then, 100.0),
        check_case("a constant score correlates with nothing", "int8-cpu", backwards, tenths),
        check_case("fp16 has INT8's limits", "fp16", _off(score=0.1), then, engine=True),
        check_case("an output is missing", "fp32", {"score": then["score"]}, then),
        check_case("an output that was not recorded", "fp32", then | {"other": then["score"]}, then),
        check_case("another shape", "fp32", then | {"score": then["score"].reshape(1, 8)}, then),
        check_case("nothing was recorded", "fp32", {}, {}),
        check_case("an output without values", "fp32", {"score": np.zeros((0, 1), np.float32)},
                   {"score": np.zeros((0, 1), np.float32)}),
        check_case("no spread leaves no room", "int8-cpu", _off(score=1e-6), then, 0.0),
        check_case("no spread and no error", "int8-cpu", _off(), then, 0.0),
    ]  # fmt: skip


def non_finite_checks() -> list[dict[str, Any]]:
    then = _recorded()
    return [
        check_case("a NaN now", "fp32", _off(score=NAN), then),
        check_case("a NaN then", "fp32", _off(), _off(score=NAN)),
        check_case("a NaN in both", "fp32", _off(score=NAN), _off(score=NAN)),
        check_case("an edge is infinite, the score still correlates", "int8-cpu", _off(edges_homo=INF), then),
        check_case("two outputs that cannot be compared: the first by name", "int8-cpu", _off(score=NAN, logit_homo=INF), then),
        check_case("a score that is not finite correlates with nothing", "int8-cpu", _off(score=-INF, edges_homo=0.01), then),
    ]


def kinds() -> list[dict[str, Any]]:
    """Whether a value for ``text`` is words, token ids or features."""
    values: dict[str, Any] = {
        "one sentence": "good film",
        "an empty sentence": "",
        "sentences": ["good", "film"],
        "ids of one sentence": [101, 2204, 102],
        "one id": [101],
        "ids of sentences": [[101, 102], [101, 2204, 102]],
        "negative ids": [[-1, 3]],
        "features of a step": [[0.5, 1.5]],
        "features": [[[0.5, 1.5], [0.0, 0.0]]],
        "whole features": [[[1.0], [2.0]]],
        "nothing": [],
        "nothing of nothing": [[]],
        "ids behind a sentence without one": [[], [101, 102]],
        "a string behind a sentence without a token": [[], "film"],
        "features behind an empty step": [[], [0.5]],
        "a number": 3,
    }
    return [
        {
            "name": name,
            "value": value,
            "kind": "features"
            if not is_for_text_encoder(value)
            else "words"
            if isinstance(value, str) or any(isinstance(item, str) for item in value)
            else "ids",
        }
        for name, value in values.items()
    ]


def rows() -> list[dict[str, Any]]:
    """The tokens of a sentence given as ids, or why it is refused."""
    cases = {
        "plain": [2, 10, 3],
        "padded on the left": [0, 0, 2, 10, 3],
        "padded on the right": [2, 10, 3, 0, 0],
        "padded on both sides": [0, 2, 3, 0],
        "padding between tokens": [0, 2, 0, 10, 3],
        "as long as may be": [2, 10, 11, 12, 13, 3],
        "padded beyond that": [0, 2, 10, 11, 12, 13, 3, 0],
        "too long": [2, 10, 11, 12, 13, 14, 3],
        "nothing": [],
        "padding alone": [0, 0, 0],
        "the last of the vocabulary": [2, 19, 3],
        "beyond the vocabulary": [2, 20, 3],
        "far beyond it": [2, 1 << 40, 3],
        "negative": [2, -5, 3],
        "negative and beyond": [99, -5, 3],
    }
    found = []
    for name, ids in cases.items():
        case = {"name": name, "ids": ids, "max_tokens": 6, "vocabulary_size": 20, "pad_id": 0}
        tokens = without_padding(ids, 0)
        try:
            lay_out([tokens], Layout(6, 0, "left", 20))
            found.append(case | {"tokens": tokens})
        except InputError as cause:
            found.append(case | {"refusal": str(cause)})
    return found


def groups() -> list[dict[str, Any]]:
    """Which sentences of a batch run together."""
    cases = {"one": [5], "alike": [3, 8, 1], "mixed": [8, 9, 1, 50, 16, 17], "all of the longest": [50, 50]}
    return [{"name": name, "lengths": lengths, "groups": length_groups(lengths)} for name, lengths in cases.items()]


def vectors() -> dict[str, str]:
    """File name -> content."""
    files: dict[str, dict[str, Any]] = {
        "range_alarms.json": {"inputs": range_alarms()},
        "padding.json": {"inputs": padding()},
        "absence.json": {"inputs": absence()},
        "arrivals.json": {"arrivals": arrivals()},
        "explain_graph.json": {"explains": explains()},
        "self_check.json": {"self_checks": self_checks()},
        "words.json": {"kinds": kinds(), "rows": rows(), "groups": groups()},
        "non_finite.json": {"inputs": non_finite_inputs(), "self_checks": non_finite_checks()},
    }
    return {name: _text(content) for name, content in files.items()}


def _text(content: dict[str, Any]) -> str:
    """One case a line, so that a change shows as the cases it changes."""
    parts = []
    for key, cases in content.items():
        lines = ",\n".join("  " + json.dumps(case, allow_nan=False) for case in cases)
        parts.append(f'"{key}": [\n{lines}\n]')
    return "{" + ",\n".join(parts) + "}\n"


def main() -> int:
    for name, text in vectors().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
