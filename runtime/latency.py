"""Latencies measured on this machine, kept in the user's cache so that ``auto`` can choose by them.

A file of its own per bundle content, machine and thread count: a bundle measured on one board says nothing about another.
An entry counts only while the backend has the version it was measured with. Whatever cannot be read or believed is
ignored; the worst a hostile file can do is to choose another graph that passed parity.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmdkit.errors import DmdkitError
from dmdkit.files import write_json
from dmdkit.runtime.backends.registry import BackendName, backend_version
from dmdkit.runtime.manifest import Manifest

__all__ = [
    "Latencies",
    "MedianLatency",
    "bundle_key",
    "cache_directory",
    "fewest_rounds",
    "latency_file",
    "machine_facts",
    "read_latencies",
    "write_latencies",
]


@dataclass(frozen=True)
class MedianLatency:
    """Median latency of one sample in milliseconds.

    Attributes:
        rounds: How often it was timed, each time beside the others.
        interval_ms: 95 % interval of the median; None over too few rounds to have one.
    """

    p50_ms: float
    rounds: int
    interval_ms: tuple[float, float] | None

    def surely_below(self, other: MedianLatency) -> bool:
        """Whether the whole interval lies below the other's; a difference within the noise is none."""
        return self.interval_ms is not None and other.interval_ms is not None and self.interval_ms[1] < other.interval_ms[0]


Latencies = Mapping[tuple[str, BackendName], MedianLatency]
"""(graph name, backend) -> what was measured of it."""

ENOUGH_ROUNDS = 100
"""So many replace any older measurement, fewer only one of no more rounds: an interval over 100 spans the middle fifth of
the times, and what was measured last is then worth more than some narrower interval from another day."""

_MAX_FILE_BYTES = 1 << 16
_CPUINFO_BYTES = 4096


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


_Milliseconds = Annotated[float, Field(gt=0, lt=1e7)]


class _Entry(_Record):
    graph: Annotated[str, Field(max_length=64)]
    backend: BackendName
    version: Annotated[str, Field(max_length=64)]
    p50_ms: _Milliseconds
    rounds: Annotated[int, Field(ge=1, lt=2**31)]
    interval_ms: tuple[_Milliseconds, _Milliseconds] | None

    @property
    def latency(self) -> MedianLatency:
        return MedianLatency(self.p50_ms, self.rounds, self.interval_ms)


class _File(_Record):
    format: Literal[2] = 2
    bundle: Annotated[str, Field(max_length=64)]
    machine: dict[str, str]
    threads: Annotated[int, Field(ge=1)]
    created: Annotated[str, Field(max_length=64)]
    entries: Annotated[list[_Entry], Field(max_length=64)]


def _cpu_model() -> str:
    """The CPU as the system names it; on ARM boards the board, because the CPU has no name there."""
    for file, key in (("/proc/cpuinfo", "model name"), ("/proc/device-tree/model", "")):
        try:
            with Path(file).open("rb") as stream:
                text = stream.read(_CPUINFO_BYTES).decode("utf-8", "replace")
        except OSError:
            continue
        lines = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(key)] if key else [text]
        if lines and lines[0].strip("\0 "):
            return lines[0].strip("\0 ")
    return platform.processor() or "unknown"


def machine_facts() -> dict[str, str]:
    """What the latencies of a graph depend on, as far as a program can see it."""
    return {
        "architecture": platform.machine(),
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "system": platform.system(),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def bundle_key(manifest: Manifest) -> str:
    """A hash of the bundle's graphs and how they are run: the same for a copy, and after a new parity check."""
    graphs = {name: [manifest.files[g.file].sha256, g.session_options] for name, g in manifest.graphs.items()}
    return _digest(graphs)


def cache_directory() -> Path | None:
    """``$XDG_CACHE_HOME/dmdkit`` or ``~/.cache/dmdkit``; None where there is no home."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if chosen and Path(chosen).is_absolute():  # the specification asks to ignore relative ones
        return Path(chosen) / "dmdkit"
    try:
        return Path.home() / ".cache" / "dmdkit"
    except RuntimeError:
        return None


def latency_file(manifest: Manifest, threads: int) -> Path | None:
    """Where the latencies of this bundle, on this machine, with so many threads, are kept."""
    directory = cache_directory()
    if directory is None:
        return None
    return directory / "latency" / f"{bundle_key(manifest)[:24]}-{_digest(machine_facts())[:16]}-t{threads}.json"


def read_latencies(manifest: Manifest, threads: int) -> dict[tuple[str, BackendName], MedianLatency]:
    """What was measured here with the backends as they are now; empty where nothing was or it cannot be believed."""
    path = latency_file(manifest, threads)
    try:
        if path is None or not path.is_file():
            return {}
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            return {}
        found = _File.model_validate_json(data)
    except (OSError, ValidationError, ValueError, RecursionError):
        return {}
    if (found.bundle, found.machine, found.threads) != (bundle_key(manifest), machine_facts(), threads):
        return {}
    versions = {backend: backend_version(backend) for backend in {entry.backend for entry in found.entries}}
    return {
        (entry.graph, entry.backend): entry.latency
        for entry in found.entries
        if entry.graph in manifest.graphs and entry.version == versions[entry.backend]
    }


def fewest_rounds(latencies: Latencies) -> int:
    """Rounds of the measurement; 0 where there is none."""
    return min((found.rounds for found in latencies.values()), default=0)


def write_latencies(manifest: Manifest, threads: int, latencies: Latencies) -> Path | None:
    """Keeps ``latencies`` unless better ones are kept; None where the cache cannot be written, which is no error.

    All are from one measurement and replace all that were kept: two measurements differ by more than their intervals say.

    Args:
        manifest: The bundle's manifest.
        threads: The threads they were measured with.
        latencies: Medians of one sample, on the CPU.
    """
    path = latency_file(manifest, threads)
    if path is None:
        return None
    if fewest_rounds(latencies) < min(ENOUGH_ROUNDS, fewest_rounds(read_latencies(manifest, threads))):
        return path
    versions = {backend: backend_version(backend) for _, backend in latencies}
    entries = [
        _Entry(graph=graph, backend=backend, version=known, **asdict(found))
        for (graph, backend), found in latencies.items()
        if (known := versions[backend]) is not None
    ]
    value = _File(
        bundle=bundle_key(manifest),
        machine=machine_facts(),
        threads=threads,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        entries=entries,
    )
    try:
        write_json(path, value.model_dump(mode="json"))
    except DmdkitError:
        return None
    return path
