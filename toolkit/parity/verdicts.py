"""What a ledger's hops say about each graph, and about the bundle as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmdkit.parity.compare import HopRecord, Status
from dmdkit.parity.text_hops import pair_of
from dmdkit.runtime.manifest import OPTIONAL_BACKENDS, GraphRecord, Manifest, StreamRecord, VerdictRecord

if TYPE_CHECKING:
    from dmdkit.parity.ledger import Ledger

__all__ = ["earlier_failures", "judged", "outcome"]

_NOT_MEASURED = VerdictRecord(status="unverified", reason="parity has not been measured", samples=0)


def _verdict(previous: VerdictRecord, own: HopRecord | None, data_sha256: str | None) -> VerdictRecord:
    """The verdict after a hop: less evidence than before undoes neither a proof nor a failure; a measurement does."""
    if own is None or (own.status == "unverified" and previous.status != "unverified"):
        return previous
    return VerdictRecord(status=own.status, reason=own.reason, samples=own.samples, data_sha256=data_sha256)


def _resting_on(base: str, origin: VerdictRecord, verdict: VerdictRecord) -> VerdictRecord:
    """``verdict`` of a graph that was made from, or is judged with, graph ``base``: never better than that one's."""
    if verdict.status == "failed" or origin.status == "passed":
        return verdict
    return verdict.model_copy(update={"status": origin.status, "reason": f"{base}: {origin.reason}"})


def _with_backends(ledger: Ledger, graphs: dict[str, GraphRecord]) -> dict[str, GraphRecord]:
    """The graphs with their verdicts in other backends; a backend that was not run keeps the one it had.

    Such a hop starts at the fp32 graph in ONNX Runtime, so it proves no more than that graph's own verdict.
    """
    hops = {hop.target: hop for hop in ledger.hops}
    result = {}
    for name, graph in graphs.items():
        verdicts, base = dict(graph.backends), f"{graph.kind}.fp32"
        for backend in OPTIONAL_BACKENDS:
            hop = hops.get(f"{name}@{backend}")
            if hop is not None:
                verdict = _verdict(verdicts.get(backend, _NOT_MEASURED), hop, ledger.data_sha256)
                verdicts[backend] = _resting_on(base, graphs[base].verdict, verdict)
        result[name] = graph.model_copy(update={"backends": verdicts})
    return result


def judged(manifest: Manifest, ledger: Ledger) -> Manifest:
    """The manifest with the verdicts of a ledger.

    A lowering is never better proven than its fp32 graph, nor a text graph than together with the fusion graph of its
    precision. A GD-Unit graph alone shares the explain graph's verdict, because its edges are compared there, unless it failed
    by itself.
    """
    hops = {hop.target: hop for hop in ledger.hops}
    for name, graph in manifest.graphs.items():
        together = hops.get(pair_of(graph.precision)) if graph.kind == "text" else None
        if together is not None and name in hops and hops[name].status == "passed" and together.status != "passed":
            hops[name] = together.model_copy(update={"reason": f"{together.target}: {together.reason}"})
    verdicts = {name: _verdict(graph.verdict, hops.get(name), ledger.data_sha256) for name, graph in manifest.graphs.items()}
    for length in ledger.lengths:
        if length.status == "failed" and length.target in verdicts and verdicts[length.target].status != "failed":
            error = "scores that are missing or not finite" if length.error is None else f"an error of {length.error:.3g}"
            reason = f"{length.tokens} tokens: {error}, at most {length.limit:.3g} is allowed"
            failed = VerdictRecord(status="failed", reason=reason, samples=length.samples, data_sha256=ledger.data_sha256)
            verdicts[length.target] = failed
    for name, graph in manifest.graphs.items():
        base = f"{'explain' if graph.kind.startswith('gd_') else graph.kind}.fp32"
        if graph.kind.startswith("gd_") and name not in hops and base in verdicts:
            verdicts[name] = verdicts[base]
        elif name != base and base in verdicts:
            verdicts[name] = _resting_on(base, verdicts[base], verdicts[name])
    graphs = {name: graph.model_copy(update={"verdict": verdicts[name]}) for name, graph in manifest.graphs.items()}
    return manifest.model_copy(
        update={"graphs": _with_backends(ledger, graphs), "stream": _judged_stream(manifest, graphs, ledger)}
    )


def _judged_stream(manifest: Manifest, graphs: dict[str, GraphRecord], ledger: Ledger) -> StreamRecord | None:
    """The step graphs with their verdicts: none is better proven than the windows it repeats."""
    if manifest.stream is None:
        return None
    hops = {hop.target: hop for hop in ledger.hops}
    judged_graphs, base, origin = {}, "fusion.fp32", graphs["fusion.fp32"].verdict
    windows = origin
    for precision, graph in manifest.stream.graphs.items():  # fp32 is first
        elsewhere = dict(graph.backends)
        for backend in OPTIONAL_BACKENDS:
            hop = hops.get(f"stream.{precision}@{backend}")
            if hop is not None:
                there = _verdict(elsewhere.get(backend, _NOT_MEASURED), hop, ledger.data_sha256)
                elsewhere[backend] = _resting_on("fusion.fp32", windows, there)
        verdict = _resting_on(base, origin, _verdict(graph.verdict, hops.get(f"stream.{precision}"), ledger.data_sha256))
        judged_graphs[precision] = graph.model_copy(update={"verdict": verdict, "backends": elsewhere})
        if precision == "fp32":
            base, origin = "stream.fp32", verdict
    return manifest.stream.model_copy(update={"graphs": judged_graphs})


def outcome(ledger: Ledger, manifest: Manifest) -> Status:
    """What a check says as a whole, given the manifest with its verdicts.

    failed if a hop failed, or a graph failed before and nothing has proven it since; unverified if a hop measured now is, or
    if a graph has never been proven; else passed.
    """
    if any(hop.status == "failed" for hop in ledger.hops) or any(length.status == "failed" for length in ledger.lengths):
        return "failed"
    graphs = [*manifest.graphs.values(), *(manifest.stream.graphs.values() if manifest.stream is not None else ())]
    if any(graph.verdict.status == "failed" for graph in graphs):
        return "failed"
    doubtful = any(hop.status == "unverified" and hop.kind != "recorded" for hop in ledger.hops)
    unproven = any(graph.verdict.status != "passed" for graph in graphs)
    return "unverified" if doubtful or unproven else "passed"


def earlier_failures(ledger: Ledger, manifest: Manifest) -> dict[str, str]:
    """Graph -> why it failed, for those whose failure stands in the manifest and in no hop of this ledger.

    Args:
        ledger: What was measured now.
        manifest: The manifest with its verdicts (:func:`judged`).
    """
    now = {hop.target for hop in ledger.hops if hop.status == "failed"}
    now |= {length.target for length in ledger.lengths if length.status == "failed"}
    found = {}
    for name, graph in manifest.graphs.items():
        base = f"{'explain' if graph.kind.startswith('gd_') else graph.kind}.fp32"
        together = pair_of(graph.precision) if graph.kind == "text" else name
        if graph.verdict.status == "failed" and not now & {name, base, together}:
            found[name] = graph.verdict.reason
    return found
