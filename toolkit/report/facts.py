"""Everything a report is drawn from, read from the bundle and from this machine's measured latencies."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from dmdkit.parity.compare import HopRecord, Status
from dmdkit.parity.int8_report import Int8Report, int8_report_or_why
from dmdkit.parity.ledger import Ledger, read_ledger
from dmdkit.parity.verdicts import outcome
from dmdkit.runtime.latency import machine_facts, read_latencies
from dmdkit.runtime.manifest import Manifest, read_manifest

__all__ = ["Facts", "Latency", "kind_of", "read_facts"]

_EXPLAINING = ("explain", "gd_")


@dataclass(frozen=True)
class Latency:
    """Median latency of one sample."""

    graph: str
    backend: str
    p50_ms: float


@dataclass(frozen=True)
class Facts:
    """What the sections draw from.

    Attributes:
        manifest: The bundle's.
        ledger: The last check, or None before the first.
        int8: What became INT8 and why, or None.
        int8_damaged: Whether there is such a report, but not one that can be read.
        latencies: What ``dmdkit bench`` measured on this machine, one sample a call.
        threads: The threads it was measured with.
        machine: The machine that wrote the report.
    """

    manifest: Manifest
    ledger: Ledger | None
    int8: Int8Report | None = None
    int8_damaged: bool = False
    latencies: list[Latency] = field(default_factory=list)
    threads: int = 1
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def hops(self) -> list[HopRecord]:
        """The hops of the last check."""
        return [] if self.ledger is None else self.ledger.hops

    @property
    def kinds(self) -> list[str]:
        """The kinds of graphs, in the manifest's order."""
        return list(dict.fromkeys(graph.kind for graph in self.manifest.graphs.values()))

    @property
    def status(self) -> Status:
        """The verdict on the bundle as a whole."""
        if self.ledger is not None:
            return outcome(self.ledger, self.manifest)
        found = {graph.verdict.status for graph in self.manifest.graphs.values()}
        if "failed" in found:
            return "failed"
        return "passed" if found == {"passed"} else "unverified"

    @property
    def metric(self) -> str:
        """The metric that verdicts rest on or that says most."""
        return "accuracy" if self.manifest.task == "classification" else "mae"

    def hop_to(self, target: str) -> HopRecord | None:
        """The hop that ends at a graph, ``NAME`` or ``NAME@BACKEND``."""
        return next((hop for hop in self.hops if hop.target == target), None)

    def size(self, graph: str) -> int:
        """Bytes of a graph's file."""
        return self.manifest.files[self.manifest.graphs[graph].file].size_bytes

    def latency(self, graph: str, backend: str = "onnxruntime") -> float | None:
        """Median latency in milliseconds on this machine."""
        return next((found.p50_ms for found in self.latencies if (found.graph, found.backend) == (graph, backend)), None)

    def base(self, graph: str) -> str | None:
        """The fp32 graph that ``graph`` was made from; None for that one itself."""
        name = f"{self.manifest.graphs[graph].kind}.fp32"
        return name if name != graph and name in self.manifest.graphs else None


def kind_of(target: str) -> str:
    """``fusion`` of ``fusion.fp32@openvino``."""
    return target.partition(".")[0]


def is_explaining(kind: str) -> bool:
    """Whether graphs of this kind explain scores rather than make them."""
    return kind.startswith(_EXPLAINING)


def read_facts(bundle: Path) -> Facts:
    """Reads what there is.

    Raises:
        BundleError: The manifest or the ledger is damaged.
    """
    manifest = read_manifest(bundle)
    counts = dict.fromkeys((1, 2, 4, 8, os.cpu_count() or 1))
    measured = {threads: found for threads in counts if (found := read_latencies(manifest, threads))}
    threads = next(iter(measured), 1)
    int8, damage = int8_report_or_why(bundle)
    return Facts(
        manifest=manifest,
        ledger=read_ledger(bundle),
        int8=int8,
        int8_damaged=bool(damage),
        latencies=[Latency(*key, found.p50_ms) for key, found in measured.get(threads, {}).items()],
        threads=threads,
        machine=machine_facts(),
    )
