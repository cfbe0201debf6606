"""Pushes and what Python's rule makes of them: the rows that go to the state, what stands for what is missing, the refusals."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from dmdkit.errors import InputError
from dmdkit.records import MODALITIES
from dmdkit.runtime.manifest import InputRecord
from dmdkit.runtime.streams.arrival import Arrivals, Clock, Policy

WIDTHS = {"text": 2, "audio": 1, "vision": 1}
OPTIONAL = ("audio",)
Push = dict[str, Any]


class Inputs:
    """What :class:`Arrivals` reads of a manifest."""

    inputs: ClassVar = {
        name: InputRecord(
            steps=9, features=width, minimum=None, maximum=None, trained_absent=name in OPTIONAL, padding_side="none"
        )
        for name, width in WIDTHS.items()
    }


def arrivals_of(options: dict[str, Any]) -> Arrivals:
    """The rule with these options: ``missing`` by modality, ``step_s``, ``tolerance_s``."""
    return Arrivals(Inputs(), options["missing"], options["step_s"], options["tolerance_s"])  # type: ignore[arg-type]


def outcomes_of(options: dict[str, Any], pushes: list[Push]) -> list[dict[str, Any]]:
    """What becomes of each push; one that is refused leaves the clock where it was."""
    arrivals, clock, outcomes = arrivals_of(options), Clock(), []
    for push in pushes:
        values = {
            name: None if push[name] is None else np.array(push[name], np.float32).reshape(-1, WIDTHS[name])
            for name in MODALITIES
        }
        try:
            arrival = arrivals.take(values, push["time"], clock)
        except InputError as refusal:
            outcomes.append({"refusal": str(refusal)})
            continue
        clock = arrival.clock
        rows = {name: array.ravel().tolist() for name, array in arrival.rows.items()}
        outcomes.append({"rows": rows, "filled": arrival.filled, "now": clock.now})
    return outcomes


def _push(step: int, *, time: Any = None, steps: int = 1, without: str = "") -> Push:
    """Values that say which step they are of; ``without``: modalities that are missing."""
    values = {
        name: [float(step + at) for at in range(steps) for _ in range(width)] if name not in without.split() else None
        for name, width in WIDTHS.items()
    }
    return {**values, "count": steps, "time": time}


def _case(
    name: str, *pushes: Push, step_s: float | None = None, tolerance_s: float | None = None, **missing: Policy
) -> dict[str, Any]:
    policies = {modality: missing.get(modality, missing.get("all", "error")) for modality in MODALITIES}
    options = {"missing": policies, "step_s": step_s, "tolerance_s": tolerance_s}
    return {"name": name, "options": options, "pushes": pushes, "outcomes": outcomes_of(options, list(pushes))}


def _times(text: float, others: float) -> dict[str, float]:
    return {"text": text, "audio": others, "vision": others}


def arrivals() -> list[dict[str, Any]]:
    """Every policy against late, early, repeated, missing and disordered steps."""
    tenth = {"step_s": 0.125}  # exact in binary, so that sums are the same everywhere
    first = _push(0, time=0.0)
    return [
        _case("in time", first, _push(1, time=0.125), _push(2, time=0.25), **tenth),
        _case("without times", _push(0), _push(1, steps=3), _push(4)),
        _case("missing refused", first, _push(1, without="vision"), _push(1)),
        _case("missing held", first, _push(1, without="vision"), _push(2, steps=2, without="text vision"), all="hold"),
        _case("nothing to hold", _push(0, without="text"), _push(0), _push(1, without="text"), all="hold"),
        _case("missing absent", _push(0, without="audio"), _push(1, steps=2, without="audio"), audio="absent"),
        _case("nothing at all", first, _push(1, without="text audio vision"), all="hold"),
        _case("late held", first, _push(1, time=_times(0.25, 0.125)), _push(2, time=0.25), **tenth, all="hold"),
        _case("late refused", first, _push(1, time=_times(0.25, 0.125)), _push(1, time=0.125), **tenth),
        _case("early held", first, _push(1, time=_times(0.03125, 0.125)), _push(2, time=0.25), **tenth, all="hold"),
        _case("within the tolerance", first, _push(1, time=_times(0.15625, 0.125)), **tenth, tolerance_s=0.03125),
        _case("beyond the tolerance", first, _push(1, time=_times(0.1875, 0.125)), **tenth, tolerance_s=0.03125),
        _case("repeated refused", first, _push(1, time=_times(0.0, 0.125)), **tenth),
        _case("repeated held", first, _push(1, time=_times(0.0, 0.125)), _push(2, time=0.25), **tenth, all="hold"),
        _case("repeated without a step time", first, _push(1, time=_times(0.0, 4.0)), all="hold"),
        _case("all repeated", first, _push(1, time=0.0), _push(2, time=0.25), **tenth, all="hold"),
        _case(
            "out of order", first, _push(1, time=0.125), _push(2, time=_times(0.0625, 0.25)), _push(2, time=0.25), all="hold"
        ),
        _case("two steps missing", first, _push(3, time=0.375), _push(4, time=0.5), **tenth, all="hold"),
        _case("two steps missing, one absent", first, _push(3, time=0.375), **tenth, all="hold", audio="absent"),
        _case("missing steps refused", first, _push(3, time=0.375), _push(1, time=0.125), **tenth, text="hold"),
        _case("a gap as long as may be", first, _push(9, time=2.0), step_s=0.001953125, all="hold"),
        _case("a gap too long", first, _push(9, time=200.0), **tenth, all="hold"),
        _case("a drift is followed", first, *(_push(n, time=n * 0.1328125) for n in range(1, 6)), **tenth, tolerance_s=0.01),
        _case("times of some", first, _push(1, time={"text": 0.125}), _push(2, time={"vision": 0.25}), **tenth),
        _case("a time of one that is missing", first, _push(1, time=0.125, without="audio"), _push(2, time=0.25), all="hold"),
    ]
