"""Which graph predicts, on which backend: only what passed parity there, the fastest measured here first."""

from __future__ import annotations

from dataclasses import dataclass

from dmdkit.errors import BundleError, InputError, MissingDependencyError
from dmdkit.runtime.backends.registry import BACKENDS, BackendName, installed_backends
from dmdkit.runtime.latency import read_latencies
from dmdkit.runtime.manifest import GraphRecord, Manifest

__all__ = ["Choice", "check_backend", "choose", "has_passed"]


@dataclass(frozen=True)
class Choice:
    """A graph and what runs it."""

    graph: str
    backend: BackendName


def has_passed(record: GraphRecord, backend: BackendName) -> bool:
    """Whether parity of a graph was proven on a backend; a lowering that a CPU only simulates never counts there."""
    if record.simulated_on_cpu:
        return False
    if backend == "onnxruntime":
        return record.verdict.status == "passed"
    verdict = record.backends.get(backend)
    return verdict is not None and verdict.status == "passed"


def check_backend(backend: str, device: str) -> None:
    """Checks that ``backend`` exists, is installed, and can run on ``device``.

    Raises:
        InputError: There is no such backend, or not on that device.
        MissingDependencyError: Its package is not installed.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise InputError(f"backend={backend!r}: expected auto, {', '.join(BACKENDS)}")
    if backend == "openvino":
        if device == "cuda":
            raise InputError("backend='openvino' runs on CPUs; leave out device='cuda', or use backend='onnxruntime'")
        if backend not in installed_backends():
            raise MissingDependencyError("openvino", "openvino", "the OpenVINO backend")


def choose(manifest: Manifest, kind: str, graph: str | None, *, backend: str, device: str, threads: int) -> Choice:
    """The graph to open for ``kind`` and what runs it.

    A graph that was asked for by name runs where it was asked to, by default in ONNX Runtime, whatever its verdict. Otherwise
    the candidates are the graphs that passed parity, each on the backends it passed on. Of these, latencies measured on
    this machine (``dmdkit bench``) choose on a CPU; without them, the fixed order does.

    Args:
        manifest: The bundle's manifest.
        kind: fusion or explain.
        graph: A full name (``fusion.int8-cpu``), a precision (``int8-cpu``), or None for automatic choice.
        backend: auto, onnxruntime or openvino.
        device: auto, cpu or cuda.
        threads: Threads inside one prediction; latencies of another number do not count.

    Raises:
        BundleError: There is no such graph, or none has passed.
        InputError: There is no such backend, or not on that device.
        MissingDependencyError: The backend asked for is not installed.
    """
    from dmdkit.runtime.runtime import AUTO_ORDER, choose_graph

    check_backend(backend, device)
    if graph is not None:
        return Choice(choose_graph(manifest, kind, graph), "openvino" if backend == "openvino" else "onnxruntime")
    if backend == "onnxruntime" or device == "cuda":
        allowed: list[BackendName] = ["onnxruntime"]
    else:
        allowed = [name for name in installed_backends() if backend in ("auto", name)]
    names = {p: f"{kind}.{p}" for p in AUTO_ORDER if f"{kind}.{p}" in manifest.graphs}
    candidates = [Choice(n, b) for b in allowed for n in names.values() if has_passed(manifest.graphs[n], b)]
    if not candidates:
        if backend == "openvino":
            raise BundleError(
                f"no {kind} graph of this bundle has passed parity in OpenVINO; prove one with "
                "`dmdkit check BUNDLE --data FEATURES --backend openvino`, or name one yourself (graph='fp32')"
            )
        return Choice(choose_graph(manifest, kind, None), "onnxruntime")  # which says what is wrong
    preferred = candidates[0]
    if device == "cuda" or len(candidates) == 1:
        return preferred
    latencies = read_latencies(manifest, threads)
    measured = {c: latencies[c.graph, c.backend] for c in candidates if (c.graph, c.backend) in latencies}
    # Without a figure for the preferred one, others' figures say nothing about whether they are faster.
    return min(measured, key=measured.__getitem__) if preferred in measured else preferred
