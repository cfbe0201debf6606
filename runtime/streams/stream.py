"""A stream over an opened bundle: steps pushed as they come, the exact answer at each."""

from __future__ import annotations

import threading
import time as clocks
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dmdkit.errors import DmdkitError, InputError
from dmdkit.records import MODALITIES
from dmdkit.runtime.backends.base import Runner
from dmdkit.runtime.inputs import RangeGuard
from dmdkit.runtime.manifest import Manifest
from dmdkit.runtime.streams.arrival import Arrivals, Clock, Policy, Times
from dmdkit.runtime.streams.heard import HeardRanges
from dmdkit.runtime.streams.snapshot import Held, read_snapshot, write_snapshot
from dmdkit.runtime.streams.state import StepState

__all__ = ["PastLimit", "Stream", "StreamAnswer"]

Array = npt.NDArray[np.float32]
PastLimit = Literal["stop", "window"]

_PRIMED_AT_ONCE = 4
"""Steps that a second state is fed in one push. A call with 4 steps costs 1.5 times one with a single step (measured), so
that no push costs more than 3 times the median."""


@dataclass(frozen=True)
class StreamAnswer:
    """What a stream says after a push.

    Attributes:
        score: (C,) at the newest step.
        scores: (n, C) at each of the pushed steps that has an answer, the newest last.
        logit_hetero: (3, C), what each modality's exclusive part says alone, in the manifest's ``modality_order``.
        edges_hetero: (6,) in its ``edge_order``; None without GD-Units.
        steps: How many of the newest steps the answer rests on: it is the model's answer for exactly those.
        heard: Steps pushed since the last reset.
        filled: Modality -> hold or absent, where that stands for its newest step.
        out_of_range: Modality -> the share of values outside the training range among the steps the answer rests on,
            where it is to be reported: what :class:`~dmdkit.runtime.Prediction` says of the same window.
        latency_ms: Time from the call to the answer.
        graph: The graph that answered.
    """

    score: Array
    scores: Array
    logit_hetero: Array
    edges_hetero: Array | None
    steps: int
    heard: int
    filled: dict[str, Policy]
    out_of_range: dict[str, float]
    latency_ms: float
    graph: str


class Stream:
    """Steps in, the exact answer at each step out; :meth:`dmdkit.runtime.Runtime.stream` makes one.

    Streams over one runtime share its graph and nothing else, so each may have a thread of its own; calls on one stream
    wait for each other. An error leaves what was pushed before as it was, and the stream usable; of a push of more steps than
    fit into one state it says how many were kept.

    Args:
        runner: The step graph, opened.
        manifest: The bundle's manifest.
        arrivals: Checks and policies of what is pushed.
        past_limit: What happens past the longest length the model was trained at: stop, or window.
        guard: The runtime's range guard.
        report: What counts and reports alarms of the guard.
    """

    def __init__(
        self,
        runner: Runner,
        manifest: Manifest,
        arrivals: Arrivals,
        past_limit: PastLimit,
        guard: RangeGuard,
        report: Callable[[dict[str, float]], None],
    ) -> None:
        if past_limit not in ("stop", "window"):
            raise InputError(f"past_limit={past_limit!r:.40}: expected stop or window")
        record = manifest.stream
        assert record is not None
        self._runner, self._manifest, self._report = runner, manifest, report
        self._arrivals, self._past_limit = arrivals, past_limit
        self._lock = threading.Lock()
        graph = next(g for g in record.graphs.values() if f"stream.{g.precision}" == runner.name)
        self._sha256 = manifest.files[graph.file].sha256
        self.limit = record.capacity + record.kernel - 1
        """Steps that one answer can rest on: the longest length the model was trained at."""
        self._overlap = min(max(self.limit // 2, record.kernel), self.limit - 1)
        self._ranges = HeardRanges(guard, self.limit)
        # Native kernels keep the state themselves.
        new_state = getattr(runner, "new_state", StepState)
        self._state = new_state(manifest)
        self._next = new_state(manifest) if past_limit == "window" else StepState(manifest)
        self._clear()

    def _clear(self) -> None:
        self._state.clear()
        self._next.clear()
        self._heard, self._start = 0, 0
        self._waiting = {name: self._state.recent[name][:0] for name in MODALITIES}
        self._clock = Clock()
        self._ranges.clear()

    @property
    def heard(self) -> int:
        """Steps pushed since the last reset."""
        return self._heard

    @property
    def graph(self) -> str:
        """The graph that answers."""
        return self._runner.name

    @property
    def backend(self) -> str:
        """What runs it, with its version."""
        return self._runner.backend

    def push(
        self, *, text: object = None, audio: object = None, vision: object = None, time: Times = None
    ) -> StreamAnswer | None:
        """Takes one step, or several at once.

        Args:
            text: float32 (D,) or (m, D) raw features; None: missing, which the stream's policy answers.
            audio: Likewise.
            vision: Likewise.
            time: Seconds, of the step or by modality.

        Returns:
            The answer at the newest step; None while fewer than k steps were heard.

        Raises:
            InputError: A wrong shape, type or value, a time out of order, something missing that the policy refuses, the
                stream is full and ``past_limit`` is stop, or the runtime is closed.
            AnswerError: The answer is not finite.
        """
        start = clocks.perf_counter()
        with self._lock:
            arrival = self._arrivals.take({"text": text, "audio": audio, "vision": vision}, time, self._clock)
            count = len(arrival.rows["text"])
            if self._past_limit == "stop" and count > self._state.room:
                raise InputError(
                    f"the stream heard {self._heard} steps and takes {self.limit}, the longest the model was trained at; "
                    f"{count} more do not fit: reset it, or open it with past_limit='window'"
                )
            outputs = self._advance(arrival.rows)
            self._clock = arrival.clock
            if not outputs:
                return None
            edges, alarms = outputs.get("edges_hetero"), self._ranges.alarms(self._state.steps)
            answer = StreamAnswer(
                score=outputs["score"][-1],
                scores=outputs["score"],
                logit_hetero=outputs["logit_hetero"][-1],
                edges_hetero=None if edges is None else edges[-1],
                steps=self._state.steps,
                heard=self._heard,
                filled=arrival.filled,
                out_of_range=alarms,
                latency_ms=(clocks.perf_counter() - start) * 1e3,
                graph=self._runner.name,
            )
        self._report(alarms)  # outside the lock: a callback may ask the stream
        return answer

    def _advance(self, rows: Mapping[str, Array]) -> dict[str, Array]:
        """Feeds rows of any number; where a state is full, the next one goes on."""
        found: list[dict[str, Array]] = []
        done, count = 0, len(rows["text"])
        while done < count:
            if not self._state.room:
                self._hand_over()
            size = min(count - done, self._state.room)
            part = {name: rows[name][done : done + size] for name in MODALITIES}
            try:
                answers = self._state.advance(self._runner, part)
            except DmdkitError as cause:
                if not done:
                    raise
                kept = f"after {done} of {count} steps, which the stream keeps"
                raise type(cause)(f"{kept}: {cause}") from cause
            if answers:
                found.append(answers)
            done += size
            self._heard += size
            self._ranges.hear(part)
            if self._past_limit == "window":
                self._prime(part)
        if not found:
            return {}
        return {name: np.concatenate([part[name] for part in found]) for name in found[-1]}

    def _prime(self, part: Mapping[str, Array]) -> None:
        """Keeps what the next state will rest on, and feeds as much of it as must not wait."""
        begin, size = self.limit - self._overlap, len(part["text"])
        first = max(0, begin - (self._state.steps - size))
        if first < size:
            self._waiting = {name: np.concatenate([self._waiting[name], part[name][first:]]) for name in MODALITIES}
        due = self._overlap - _PRIMED_AT_ONCE * self._state.room - self._next.steps
        due = min(due, len(self._waiting["text"]))
        if due > 0:
            self._next.advance(self._runner, {name: self._waiting[name][:due] for name in MODALITIES})
            self._waiting = {name: self._waiting[name][due:] for name in MODALITIES}

    def _hand_over(self) -> None:
        """The next state, which holds the newest steps by now, takes the place of the full one."""
        if len(self._waiting["text"]):  # a restored stream that did not prime
            self._next.advance(self._runner, self._waiting)
            self._waiting = {name: self._waiting[name][:0] for name in MODALITIES}
        self._state, self._next = self._next, self._state
        self._start = self._heard - self._state.steps
        self._next.clear()
        # A kernel above half the window: the state after this one begins among steps already heard, its last recent ones.
        known = self._state.steps - (self.limit - self._overlap)
        if known > 0:
            self._waiting = {name: self._state.recent[name][-known:] for name in MODALITIES}

    def reset(self) -> None:
        """Forgets every step, for the next utterance."""
        with self._lock:
            self._clear()

    def snapshot(self) -> bytes:
        """The state as bytes, which :meth:`restore` of a stream over the same bundle and precision takes, in any backend."""
        with self._lock:
            primed = self._next.steps > 0 or len(self._waiting["text"]) > 0
            states = [self._state.held(), self._next.held()] if primed else [self._state.held()]
            starts = [self._start, self._start + self.limit - self._overlap][: len(states)]
            return write_snapshot(Held(self._heard, states, starts, self._waiting, self._clock), self._sha256)

    def restore(self, snapshot: bytes) -> None:
        """Goes on where the snapshot was taken.

        Raises:
            InputError: It is none, damaged, of another version, bundle or precision; the stream is as it was.
        """
        held = read_snapshot(snapshot, self._sha256, self._manifest)
        if len(held.states) == 1 and self._past_limit == "window" and held.states[0].steps > self.limit - self._overlap:
            raise InputError("the snapshot is of a stream with past_limit='stop', which kept no steps for the window after it")
        with self._lock:
            self._clear()
            self._state.take(held.states[0])
            if len(held.states) == 2 and self._past_limit == "window":  # one that stops would not feed it on
                self._next.take(held.states[1])
                self._waiting = held.waiting
            self._heard, self._start, self._clock = held.heard, held.starts[0], held.clock
