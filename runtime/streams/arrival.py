"""What arrives at a stream: checked rows, and a policy for modalities that are late, early, repeated or missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from dmdkit.errors import InputError
from dmdkit.records import MODALITIES
from dmdkit.runtime.inputs import as_array
from dmdkit.runtime.manifest import Manifest

__all__ = ["Arrival", "Arrivals", "Clock", "Policy", "Times"]

Array = npt.NDArray[np.float32]
Policy = Literal["error", "hold", "absent"]
Times = float | Mapping[str, float] | None

_MOST_FILLED = 1024
"""Steps that one push fills at most; a longer gap is another utterance."""


@dataclass(frozen=True)
class Arrival:
    """Rows ready for the state.

    Attributes:
        rows: Modality -> float32 (m, D); more than were pushed where missing steps were filled.
        filled: Modality -> what stands for it at the newest step, where it was not itself.
        clock: What the clock says once the rows are in.
    """

    rows: dict[str, Array]
    filled: dict[str, Policy]
    clock: Clock


@dataclass(frozen=True)
class Clock:
    """When steps came, and each modality's last own row.

    Attributes:
        now: Time of the newest step; None before the first with a time.
        last: Modality -> its last own time.
        held: Modality -> its last own row (D,).
    """

    now: float | None = None
    last: dict[str, float] = field(default_factory=dict)
    held: dict[str, Array] = field(default_factory=dict)


def _is_finite(value: object) -> bool:
    """Whether ``value`` is a finite number that a float can hold."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


class Arrivals:
    """Checks what is pushed and fills what is not there.

    Args:
        manifest: The bundle's manifest.
        missing: What stands for a modality that is missing, late, early or repeated: error, hold (its last row) or absent
            (zeros, where the model was trained without it); one for all, or by modality.
        step_s: Seconds between steps; None: times are only checked for their order.
        tolerance_s: How far a modality's time may be from its step's; None: half a step.

    Raises:
        InputError: A policy or time that cannot be.
    """

    def __init__(
        self, manifest: Manifest, missing: Policy | Mapping[str, Policy], step_s: float | None, tolerance_s: float | None
    ) -> None:
        self._widths = {name: manifest.inputs[name].features for name in MODALITIES}
        policies = dict(missing) if isinstance(missing, Mapping) else dict.fromkeys(MODALITIES, missing)
        for name, policy in policies.items():
            if name not in MODALITIES or policy not in get_args(Policy):
                raise InputError(f"missing={missing!r:.80}: expected error, hold or absent, for all or by modality")
            if policy == "absent" and not manifest.inputs[name].trained_absent:
                raise InputError(
                    f"missing: {name} may not be absent: this model never saw a sample without it; use hold or error, or train "
                    "with training.modality_dropout"
                )
        self._policy: dict[str, Policy] = {name: policies.get(name, "error") for name in MODALITIES}
        if step_s is not None and not (_is_finite(step_s) and step_s > 0):
            raise InputError(f"step_s={step_s!r:.40}: expected seconds between steps, above 0")
        if tolerance_s is not None and not (_is_finite(tolerance_s) and tolerance_s >= 0 and step_s is not None):
            raise InputError(f"tolerance_s={tolerance_s!r:.40}: expected seconds, 0 or more, beside step_s")
        self._step = step_s
        self._tolerance = tolerance_s if tolerance_s is not None else (step_s or 0.0) / 2

    def take(self, values: Mapping[str, object], time: Times, clock: Clock) -> Arrival:
        """The rows of one push.

        Args:
            values: Modality -> (D,) or (m, D); None: missing.
            time: Seconds, of the push or by modality; None: it came in time.
            clock: What came before.

        Raises:
            InputError: A wrong shape, type or value, a time out of order, or something missing that the policy refuses.
        """
        given = {name: self._rows(name, value) for name, value in values.items() if value is not None}
        if not given:
            raise InputError("a push without text, audio and vision; push at least one of them")
        counts = {name: len(rows) for name, rows in given.items()}
        count = next(iter(counts.values()))
        if set(counts.values()) != {count}:
            raise InputError(f"a push takes equally many steps of each modality, found {_listed(counts)}")
        times = self._times(time, given, count)
        self._check_order(times, clock)
        gap, wrong = self._placed(times, clock)
        missing = {name: wrong.get(name, "missing") for name in MODALITIES if name not in given or name in wrong}
        filled = {name: self._filling(name, why, clock) for name, why in missing.items()}
        if gap:
            for name in MODALITIES:
                self._filling(name, f"missing for {gap} steps", clock)
        rows = {}
        for name in MODALITIES:
            between = [np.repeat(self._stand_in(name, clock), gap, axis=0)] if gap else []
            own = np.repeat(self._stand_in(name, clock), count, axis=0) if name in filled else given[name]
            rows[name] = np.ascontiguousarray(np.concatenate([*between, own])) if between else own
        good = [value for name, value in times.items() if name not in wrong]
        return Arrival(rows, filled, self._moved(clock, given, times, gap, good, filled))

    def _rows(self, name: str, value: object) -> Array:
        array = as_array(name, value)
        width = self._widths[name]
        if array.dtype.kind not in "fiu":
            raise InputError(f"input {name!r} has dtype {array.dtype}, expected float32")
        if array.ndim not in (1, 2) or array.shape[-1] != width or not array.size:
            raise InputError(f"input {name!r} has shape {array.shape}, expected ({width},) or (steps, {width})")
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(np.atleast_2d(array), np.float32)
        if not np.isfinite(array).all():
            step, feature = np.argwhere(~np.isfinite(array))[0]
            raise InputError(f"input {name!r} holds {array[step, feature]} at step {step}, feature {feature} of this push")
        return array

    def _times(self, time: Times, given: Mapping[str, Array], count: int) -> dict[str, float]:
        if time is None:
            return {}
        if count > 1:
            raise InputError(f"time={time!r:.60} for {count} steps at once; push steps that have times one by one")
        times = dict(time) if isinstance(time, Mapping) else dict.fromkeys(given, time)
        for name, value in times.items():
            if name not in MODALITIES or not _is_finite(value):
                raise InputError(f"time of {name!r:.20} is {value!r:.40}, expected finite seconds of text, audio or vision")
        return {name: float(value) for name, value in times.items() if name in given}

    def _check_order(self, times: Mapping[str, float], clock: Clock) -> None:
        for name, value in times.items():
            before = clock.last.get(name)
            if before is not None and value < before:
                raise InputError(
                    f"{name} is out of order: {value:.6f} s came after {before:.6f} s; push steps as they happened"
                )

    def _placed(self, times: Mapping[str, float], clock: Clock) -> tuple[int, dict[str, str]]:
        """Whole steps that are missing before this one, and the modalities that are not of this step, each with why."""
        wrong = {
            name: f"repeated ({value:.6f} s again)"
            for name, value in times.items()
            if name in clock.last and value == clock.last[name]
        }
        if self._step is None or clock.now is None:
            return 0, wrong
        fresh = {name: value for name, value in times.items() if name not in wrong}
        expected, gap = clock.now + self._step, 0
        if fresh:
            gap = max(0, round((min(fresh.values()) - expected) / self._step))
            if gap > _MOST_FILLED:
                raise InputError(
                    f"{gap} steps are missing between {clock.now:.6f} s and {min(fresh.values()):.6f} s; reset the stream"
                )
        expected += gap * self._step
        for name, value in fresh.items():
            if abs(value - expected) > self._tolerance * (1 + 1e-9):
                late = "late" if value > expected else "early"
                wrong[name] = f"{late} ({value:.6f} s, expected {expected:.6f} s within {self._tolerance:.6f} s)"
        return gap, wrong

    def _filling(self, name: str, why: str, clock: Clock) -> Policy:
        policy = self._policy[name]
        if policy == "error":
            raise InputError(f"{name} is {why}; push it, or open the stream with missing='hold' or 'absent'")
        if policy == "hold" and name not in clock.held:
            raise InputError(f"{name} is {why}, and there is no earlier step of it to hold; begin with all modalities")
        return policy

    def _stand_in(self, name: str, clock: Clock) -> Array:
        if self._policy[name] == "hold":
            return clock.held[name][None]
        return np.zeros((1, self._widths[name]), np.float32)

    def _moved(
        self,
        clock: Clock,
        given: Mapping[str, Array],
        times: Mapping[str, float],
        gap: int,
        good: list[float],
        filled: Mapping[str, Policy],
    ) -> Clock:
        """The clock after this push; it follows the times that were right, so that a slow drift is no error."""
        own = {name: rows[-1].copy() for name, rows in given.items() if name not in filled}
        now = clock.now
        if good:
            now = sum(good) / len(good)
        elif now is not None and self._step is not None:
            now += (gap + 1) * self._step
        return replace(clock, now=now, last=clock.last | dict(times), held=clock.held | own)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
