"""Ways to damage a bundle, small records to judge without one, and tests of machines without a GPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.gpu import NoGpuError, find_gpu
from dmdkit.runtime.latency import MedianLatency
from dmdkit.runtime.manifest import InputRecord

Array = npt.NDArray[np.float32]


def edit_manifest(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def put_file(bundle: Path, name: str, data: bytes) -> None:
    """Replaces a file and makes the manifest agree, as one would who wants to deceive or only half understands."""
    (bundle / name).write_bytes(data)
    record = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    edit_manifest(bundle, lambda values: values["files"].update({name: record}))


def set_verdict(bundle: Path, status: str, *graphs: str) -> None:
    def edit(values: dict[str, Any]) -> None:
        for name in graphs or values["graphs"]:
            values["graphs"][name]["verdict"]["status"] = status

    edit_manifest(bundle, edit)


def timed(p50_ms: float, *, spread: float = 0.01, rounds: int = 200) -> MedianLatency:
    """A median whose interval reaches so far to either side, as a share of it."""
    return MedianLatency(p50_ms, rounds, (p50_ms * (1 - spread), p50_ms * (1 + spread)))


def golden_inputs(bundle: Path) -> dict[str, Array]:
    return Bundle.open(bundle).golden().inputs


def one_sample(bundle: Path, index: int = 0) -> dict[str, Array]:
    return {name: array[index] for name, array in golden_inputs(bundle).items()}


def input_records(*, trained_absent: bool = False, low: float = -1.0, high: float = 1.0) -> dict[str, InputRecord]:
    """Six steps; 7 text, 4 audio and 5 vision features in one range."""
    widths = {"text": 7, "audio": 4, "vision": 5}
    return {
        name: InputRecord(steps=6, features=width, trained_absent=trained_absent, minimum=[low] * width, maximum=[high] * width)
        for name, width in widths.items()
    }


def features(batch: int | None = None, seed: int = 0) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    lead = () if batch is None else (batch,)
    return {
        name: generator.uniform(-1, 1, (*lead, record.steps, record.features)).astype(np.float32)
        for name, record in input_records().items()
    }


def no_driver_here() -> None:
    try:
        find_gpu()
    except NoGpuError:
        return
    pytest.skip("this machine has an NVIDIA driver")
