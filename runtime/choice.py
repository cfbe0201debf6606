"""Which graph predicts, on which backend: only what passed parity there, and of that what is surely the fastest here."""

from __future__ import annotations

from dataclasses import dataclass

from dmdkit.errors import BundleError, InputError, MissingDependencyError
from dmdkit.runtime.backends.registry import BACKENDS, BackendName, installed_backends, proof_name
from dmdkit.runtime.latency import read_latencies
from dmdkit.runtime.manifest import GraphRecord, Manifest

__all__ = ["AUTO_ORDER", "Choice", "check_backend", "choose", "choose_graph", "explain_graph", "has_passed", "text_graph"]

AUTO_ORDER = ("int8-cpu", "fp32")
"""What ``auto`` prefers on a CPU among the graphs that passed parity; int8-trt belongs to TensorRT, a CPU only simulates it."""


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
    proof = proof_name(backend, record.precision)
    return any(name == proof and verdict.status == "passed" for name, verdict in record.backends.items())


def check_backend(backend: str, device: str) -> None:
    """Checks that ``backend`` exists, is installed, and can run on ``device``.

    Raises:
        InputError: There is no such backend, or not on that device.
        MissingDependencyError: Its package is not installed.
        MissingLibraryError: Its library is not here or not usable.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise InputError(f"backend={backend!r}: expected auto, {', '.join(BACKENDS)}, or tensorrt for a bundle's engines")
    if backend in ("openvino", "native") and device == "cuda":
        raise InputError(f"backend={backend!r} runs on CPUs; leave out device='cuda', or use backend='onnxruntime'")
    if backend == "native":
        from dmdkit.runtime.backends.native import load_library

        load_library()
    if backend == "openvino" and backend not in installed_backends():
        raise MissingDependencyError("openvino", "openvino", "the OpenVINO backend")


_WORDS = {"openvino": "in OpenVINO", "native": "on the native kernels"}


def _named(backend: str) -> BackendName | None:
    """The backend with this name; None for auto."""
    return next((name for name in BACKENDS if name == backend), None)


def choose_graph(manifest: Manifest, kind: str, graph: str | None, *, prefer: str | None = None) -> str:
    """The name of the graph to open for ``kind``: the one asked for, or the preferred one that passed parity.

    Args:
        manifest: The bundle's manifest.
        kind: fusion or explain.
        graph: A full name (``fusion.int8-cpu``), a precision (``int8-cpu``), or None for automatic choice.
        prefer: The precision that automatic choice looks at first.

    Raises:
        BundleError: There is none, or none has passed.
    """
    names = [name for name, record in manifest.graphs.items() if record.kind == kind]
    if graph is not None:
        name = graph if graph in manifest.graphs else f"{kind}.{graph}"
        if name not in names:
            raise BundleError(f"no {kind} graph {graph!r}; the bundle has {', '.join(names) or 'none'}")
        return name
    for precision in (*((prefer,) if prefer else ()), *AUTO_ORDER):
        record = manifest.graphs.get(f"{kind}.{precision}")
        if record is not None and record.verdict.status == "passed":
            return f"{kind}.{precision}"
    states = ", ".join(f"{name} {manifest.graphs[name].verdict.status}" for name in names)
    raise BundleError(
        f"no {kind} graph of this bundle has passed parity ({states or 'it has none'}); prove one with "
        f"`dmdkit check`, or name one yourself (graph='fp32')"
    )


def explain_graph(manifest: Manifest, predicting: str, *, asked_for: bool) -> str:
    """The name of the explain graph that goes with graph ``predicting``.

    The same precision where possible, because an explanation of another model misleads. A caller who asked for a graph
    by name answers for its verdict; otherwise only a graph that passed parity explains.

    Raises:
        BundleError: There is none, or none has passed.
    """
    precision = manifest.graphs[predicting].precision
    if asked_for:
        return choose_graph(manifest, "explain", precision if f"explain.{precision}" in manifest.graphs else "fp32")
    return choose_graph(manifest, "explain", None, prefer=precision)


def text_graph(manifest: Manifest, predicting: str, *, asked_for: bool) -> str:
    """The name of the text graph that goes with graph ``predicting``.

    Where the predicting graph was asked for by name, the text graph of its precision, or else fp32, whatever its verdict;
    otherwise the first that passed parity.

    Raises:
        BundleError: None has passed.
    """
    precision = manifest.graphs[predicting].precision
    if asked_for:
        return f"text.{precision}" if f"text.{precision}" in manifest.graphs else "text.fp32"
    return choose_graph(manifest, "text", None)


def choose(manifest: Manifest, kind: str, graph: str | None, *, backend: str, device: str, threads: int) -> Choice:
    """The graph to open for ``kind`` and what runs it.

    A graph that was asked for by name runs where it was asked to, by default in ONNX Runtime, whatever its verdict. Otherwise
    the candidates are the graphs that passed parity, each on the backends it passed on. Of these, latencies measured on
    this machine (``dmdkit bench``) choose on a CPU where their 95 % intervals differ; otherwise the fixed order does.

    Args:
        manifest: The bundle's manifest.
        kind: fusion or explain.
        graph: A full name (``fusion.int8-cpu``), a precision (``int8-cpu``), or None for automatic choice.
        backend: auto, onnxruntime, openvino or native.
        device: auto, cpu or cuda.
        threads: Threads inside one prediction; latencies of another number do not count.

    Raises:
        BundleError: There is no such graph, or none has passed.
        InputError: There is no such backend, or not on that device.
        MissingDependencyError: The backend asked for is not installed.
        MissingLibraryError: The native kernels are asked for and their library is not here or not usable.
    """
    check_backend(backend, device)
    if graph is not None:
        return Choice(choose_graph(manifest, kind, graph), _named(backend) or "onnxruntime")
    if backend == "onnxruntime" or device == "cuda":
        allowed: list[BackendName] = ["onnxruntime"]
    else:
        allowed = [name for name in installed_backends() if backend in ("auto", name)]
    names = {p: f"{kind}.{p}" for p in AUTO_ORDER if f"{kind}.{p}" in manifest.graphs}
    candidates = [Choice(n, b) for b in allowed for n in names.values() if has_passed(manifest.graphs[n], b)]
    if not candidates:
        if backend in _WORDS:
            raise BundleError(
                f"no {kind} graph of this bundle has passed parity {_WORDS[backend]}; prove one with "
                f"`dmdkit check BUNDLE --data FEATURES --backend {backend}`, or name one yourself (graph='fp32')"
            )
        return Choice(choose_graph(manifest, kind, None), "onnxruntime")  # which says what is wrong
    preferred = candidates[0]
    if device == "cuda" or len(candidates) == 1:
        return preferred
    latencies = read_latencies(manifest, threads)
    measured = {c: latencies[c.graph, c.backend] for c in candidates if (c.graph, c.backend) in latencies}
    # Without a figure for the preferred one, others' figures say nothing about whether they are faster.
    if preferred not in measured:
        return preferred
    # The first in the fixed order that nothing surely beats: noise must not turn the choice from one measurement to the next.
    return next(c for c, found in measured.items() if not any(other.surely_below(found) for other in measured.values()))
