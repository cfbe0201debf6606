"""Latency of one graph over another, from interleaved rounds: each round gives one ratio, so a slow moment hurts both."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from dmdkit.parity.int8_report import LatencyRecord
from dmdkit.parity.timing import median_interval, timed_rounds
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.latency import machine_facts
from dmdkit.runtime.open_graph import open_runner

__all__ = ["PairedRatio", "latency_record", "paired_ratio"]

ROUNDS = 200
SECONDS = 12.0


@dataclass(frozen=True)
class PairedRatio:
    """Median over interleaved rounds of one latency over another, with the 95 % interval of that median."""

    ratio: float
    low: float
    high: float
    rounds: int


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> PairedRatio:
    """The ratio of each round, and of these the median; its interval comes from ranks, which assume no distribution.

    Args:
        numerator: Seconds, one per round.
        denominator: Seconds of the same rounds.
    """
    ratios = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    low, high = median_interval(ratios) or (float(ratios.min()), float(ratios.max()))
    return PairedRatio(float(np.median(ratios)), low, high, len(ratios))


def latency_record(bundle: Bundle, graph: str, *, rounds: int = ROUNDS, seconds: float = SECONDS) -> LatencyRecord:
    """Latency of ``graph`` over the fp32 graph of its kind: one golden sample, one thread, ONNX Runtime's CPU.

    Args:
        bundle: An opened bundle.
        graph: A graph that the CPU runs for real, not one it only simulates.
        rounds: Largest number of rounds.
        seconds: No round begins after so long.

    Raises:
        BundleError: A graph or the golden samples are damaged.
    """
    kind = bundle.graph(graph).kind
    feed = {name: np.ascontiguousarray(array[:1]) for name, array in bundle.golden().inputs_of(kind).items()}
    with ExitStack() as stack:
        runners = {name: stack.enter_context(open_runner(bundle, name)) for name in (graph, f"{kind}.fp32")}
        calls = {name: lambda runner=runner: runner.infer(feed) for name, runner in runners.items()}
        times = timed_rounds(calls, rounds, seconds=seconds)
    found = paired_ratio(times[graph].wall, times[f"{kind}.fp32"].wall)
    return LatencyRecord(
        status="measured", ratio=found.ratio, interval=(found.low, found.high), rounds=found.rounds, machine=machine_facts()
    )
