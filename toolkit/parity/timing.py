"""How fast the graphs of a bundle are on this machine: latency of each on each backend, and the memory each needs."""

from __future__ import annotations

import gc
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmdkit.runtime.backends.base import Feed
from dmdkit.runtime.backends.registry import BackendName, installed_backends
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.open_graph import open_runner

__all__ = [
    "Footprint",
    "LatencySummary",
    "RoundTimes",
    "Target",
    "footprint",
    "measure_latency",
    "median_interval",
    "summarise",
    "targets",
    "timed_rounds",
]

Array = npt.NDArray[np.float32]

WARM_UP = 3
MIN_ROUNDS = 3
"""Rounds that are measured however long they take."""
INTERVAL_ROUNDS = 6
"""The fewest values whose smallest and largest hold the median with 95 % confidence: 1 - 2 (1/2)^6 is 0.969."""

_PROBE_TIMEOUT_S = 120


@dataclass(frozen=True)
class Target:
    """A graph, what runs it, and where."""

    graph: str
    backend: BackendName
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.graph} on {self.backend}" + ("" if self.device == "cpu" else f" ({self.device})")


@dataclass(frozen=True)
class LatencySummary:
    """Latency of one call in milliseconds, over all rounds.

    Attributes:
        p50_interval_ms: 95 % interval of the median; None over too few rounds to have one.
    """

    rounds: int
    mean_ms: float
    p50_ms: float
    p50_interval_ms: tuple[float, float] | None
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Footprint:
    """What a process of its own needed to open one graph and predict.

    Attributes:
        open_ms: Reading the manifest, checking the hash, loading the graph.
        first_ms: Time of the first prediction.
        peak_bytes: Peak resident memory, the interpreter and libraries included.
    """

    open_ms: float
    first_ms: float
    peak_bytes: int


def targets(bundle: Bundle) -> list[Target]:
    """Every graph on every backend and device that is here.

    A lowering that ONNX Runtime's CPU only simulates is left to the simulation: its parity elsewhere is not measured.
    """
    from dmdkit.runtime.backends.onnxruntime import available_devices

    found = []
    for name, record in bundle.manifest.graphs.items():
        found += [Target(name, "onnxruntime", device) for device in available_devices()]
        if record.kind in ("fusion", "explain"):
            elsewhere = [backend for backend in installed_backends() if backend != "onnxruntime" and record.runs_in(backend)]
            found += [Target(name, backend) for backend in elsewhere]
    return found


def median_interval(values: npt.ArrayLike) -> tuple[float, float] | None:
    """The 95 % interval of the median, from ranks, which assume no distribution; None for too few values to have one."""
    ordered = np.sort(np.asarray(values, np.float64))
    count = len(ordered)
    if count < INTERVAL_ROUNDS:
        return None
    half = 0.98 * math.sqrt(count)  # 1.96 standard deviations of a binomial with p = 1/2
    return float(ordered[max(0, math.floor(count / 2 - half))]), float(ordered[min(count - 1, math.ceil(count / 2 + half))])


def summarise(seconds: Sequence[float]) -> LatencySummary:
    """Quantiles of measured times."""
    ms = np.asarray(seconds) * 1e3
    p50, p90, p99 = (float(value) for value in np.percentile(ms, (50, 90, 99)))
    return LatencySummary(len(ms), float(ms.mean()), p50, median_interval(ms), p90, p99, float(ms.max()))


@contextmanager
def _no_collector() -> Iterator[None]:
    """The garbage collector's pauses belong to the process, not to a graph; it is switched off as timeit does."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass
class RoundTimes:
    """Seconds of each round.

    Attributes:
        wall: What the clock says.
        cpu: What the process used of the processor, all its threads together; for machines that others use, too.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def timed_rounds(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    seconds: float = float("inf"),
    on_round: Callable[[int], None] = lambda _: None,
    before_call: Callable[[], object] = lambda: None,
) -> dict[str, RoundTimes]:
    """Times of each call, once a round, so that a machine that slows down does so for all alike.

    The order is drawn anew each round, so that what one call leaves in the caches helps or hurts none in particular.

    Args:
        calls: What to time, by name; each is called a few times first.
        rounds: Number of rounds at most.
        seconds: After so long no further round begins, once there are a few.
        on_round: Called with the number of each finished round.
        before_call: Called before each call, outside its time: to empty the caches, for one.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    times = {name: RoundTimes() for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle  # noqa: S311 - an order, not a secret
    begin = time.perf_counter()
    with _no_collector():
        for number in range(rounds):
            if number >= MIN_ROUNDS and time.perf_counter() - begin > seconds:
                break
            shuffle(order)
            for name in order:
                call = calls[name]
                before_call()
                cpu, wall = time.process_time(), time.perf_counter()
                call()
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
            on_round(number + 1)
    return times


def _batch_of(arrays: Feed, batch: int) -> dict[str, npt.NDArray[Any]]:
    count = len(next(iter(arrays.values())))
    rows = np.arange(batch) % count
    return {name: np.ascontiguousarray(array[rows]) for name, array in arrays.items()}


def measure_latency(
    bundle: Bundle,
    wanted: Sequence[Target],
    *,
    rounds: int,
    threads: int = 1,
    batch: int = 1,
    seconds: float = float("inf"),
    on_round: Callable[[int], None] = lambda _: None,
) -> tuple[dict[Target, LatencySummary], dict[Target, str]]:
    """Latency of each target on golden samples, interleaved; and for those that cannot be opened or run here, why.

    Raises:
        BundleError: The golden samples are damaged.
    """
    golden = bundle.golden()
    failed: dict[Target, str] = {}
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        by_name = {str(target): target for target in wanted}
        for name, target in by_name.items():
            feed = _batch_of(golden.inputs_of(bundle.graph(target.graph).kind), batch)
            try:
                runner = stack.enter_context(
                    open_runner(bundle, target.graph, threads=threads, device=target.device, backend=target.backend)
                )
                runner.infer(feed)
            except Exception as cause:  # a graph that fails here is a row of the answer, not the end of the others
                failed[target] = str(cause) or type(cause).__name__
                continue
            calls[name] = lambda runner=runner, feed=feed: runner.infer(feed)  # type: ignore[misc]
        times = timed_rounds(calls, rounds, seconds=seconds, on_round=on_round) if calls else {}
    return {by_name[name]: summarise(found.wall) for name, found in times.items()}, failed


_PROBE = """
import sys
sys.path[:] = [place for place in sys.path if place]
from dmdkit.parity.footprint_probe import main
main(sys.argv[1:])
"""
"""Without the current directory among the places of modules, where -m and -c put it first: a ``json.py`` there is not ours."""


def footprint(bundle: Path, target: Target, *, threads: int = 1) -> Footprint | None:
    """What a process of its own needs for ``target``; None where it failed.

    A process of its own, because the peak of one that has held other graphs says nothing about this one.
    """
    command = [sys.executable, "-c", _PROBE, str(bundle), target.graph, target.backend]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, and arguments that no shell reads
            [*command, target.device, str(threads)], capture_output=True, timeout=_PROBE_TIMEOUT_S, check=True
        )
        value = json.loads(done.stdout)
        return Footprint(value["open_ms"], value["first_ms"], value["peak_bytes"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None
