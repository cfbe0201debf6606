"""Interleaved timing: wall time, and processor time for machines that others use too."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WARM_UP = 3
MIN_ROUNDS = 2


@dataclass
class Times:
    """Seconds of each round: what the clock says, and what the process used of the processor, all its threads together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, seconds: float = float("inf")) -> dict[str, Times]:
    """Times every call once a round, in an order drawn anew each round, so that drift and warm caches help none."""
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    times = {name: Times() for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    begin = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            if number >= MIN_ROUNDS and time.perf_counter() - begin > seconds:
                break
            shuffle(order)
            for name in order:
                call = calls[name]
                cpu, wall = time.process_time(), time.perf_counter()
                call()
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    finally:
        gc.enable()
    return times


def rows(times: Mapping[str, Times], base: str) -> list[dict[str, Any]]:
    """Medians, spread, and ratios to ``base`` of the medians of both clocks."""
    reference = {clock: float(np.median(getattr(times[base], clock))) for clock in ("wall", "cpu")}
    result = []
    for name, found in times.items():
        p10, p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(found.wall, (10, 50, 90, 99)))
        cpu = float(np.median(found.cpu))
        result.append(
            {
                "name": name,
                "p50_ms": p50,
                "p10_ms": p10,
                "p90_ms": p90,
                "p99_ms": p99,
                "cpu_ms": cpu * 1e3,
                "ratio": p50 / 1e3 / reference["wall"],
                "cpu_ratio": cpu / reference["cpu"],
                "rounds": len(found.wall),
            }
        )
    return result
