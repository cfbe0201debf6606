"""The top of the page: the verdict, four figures, and the one table."""

from __future__ import annotations

from dmdkit.data.fingerprints import SEEN_AS
from dmdkit.parity.compare import MIN_VERIFIED_SAMPLES, HopRecord
from dmdkit.report.facts import Facts, is_explaining, kind_of
from dmdkit.report.markup import Child, Markup, join, tag
from dmdkit.report.numbers import MISSING, change, megabytes, number, percent
from dmdkit.report.parts import Section, long_text, pill, table
from dmdkit.runtime.manifest import GraphRecord

__all__ = ["METRIC_NAMES", "banner", "change_cell", "graphs_section", "metric_change", "tiles"]

METRIC_NAMES = {
    "mae": "MAE",
    "corr": "Correlation with labels",
    "acc2_non_zero": "Acc-2, zero labels left out",
    "f1_non_zero": "F1, zero labels left out",
    "acc2_has_zero": "Acc-2, zero counts as positive",
    "f1_has_zero": "F1, zero counts as positive",
    "acc2_midpoint": "Acc-2, divided at the middle of the range",
    "f1_midpoint": "F1, divided at the middle of the range",
    "acc7": "Acc-7",
    "acc5": "Acc-5",
    "acc3": "Acc-3",
    "accuracy": "Accuracy",
    "f1": "F1, weighted",
    "cross_entropy": "Cross-entropy",
}

_SCORE = "fusion"
"""The graphs whose output is the score, and whose metrics and latency are the model's."""

_HEADLINES = {
    "passed": "Passed: the compressed model gives the same answers",
    "failed": "Failed: not every graph answers like the model it came from",
    "unverified": "Unverified: nothing here says yet that the graphs answer alike",
}


def _where(facts: Facts) -> str:
    if facts.ledger is None:
        return "no samples"
    if facts.ledger.split == "golden":
        given = sum(facts.ledger.left_out.values())
        done = " or ".join(SEEN_AS[use] for use in facts.ledger.left_out)
        left_out = f"; all {given} samples given {done}" if given else ""
        return f"the bundle's own {facts.ledger.samples} golden samples ({facts.manifest.golden.kind}){left_out}"
    kind = "training" if facts.ledger.split == "train" else "held-out"
    left_out = "".join(f", {count} that {SEEN_AS[use]} left out" for use, count in facts.ledger.left_out.items())
    return f"{facts.ledger.samples} {kind} samples ({facts.ledger.split} split of {facts.ledger.data}{left_out})"


def _explained(facts: Facts) -> list[str]:
    """Why the verdict is what it is, one sentence each; the same reason of several graphs is said once."""
    if facts.status == "passed":
        return [f"Every graph stays within every limit, measured on {_where(facts)}."]
    reasons: dict[str, list[str]] = {}
    for name, graph in facts.manifest.graphs.items():
        if graph.verdict.status == facts.status:
            reasons.setdefault(graph.verdict.reason, []).append(name)
    for hop in facts.hops:  # what was measured now may say more than what stands in the manifest
        if hop.status == facts.status and hop.kind != "recorded" and hop.reason not in reasons:
            reasons[hop.reason] = [hop.target]
    said = [f"{', '.join(names)}: {reason}." for reason, names in reasons.items()]
    if facts.status == "failed":
        said.append("A graph that failed is never chosen automatically.")
    if facts.ledger is None:
        said.append("Parity has not been measured; dmdkit check with held-out samples does.")
    elif facts.ledger.samples < MIN_VERIFIED_SAMPLES:
        said.append(f"Fewer than {MIN_VERIFIED_SAMPLES} samples prove nothing; this check had {_where(facts)}.")
    return said


def banner(facts: Facts) -> Markup:
    """The verdict in one line, why, and every graph's own."""
    warnings = [] if facts.ledger is None else facts.ledger.out_of_range.items()
    chips = [
        tag("li", pill(graph.verdict.status, name), tag("small", " simulated") if graph.simulated_on_cpu else None)
        for name, graph in facts.manifest.graphs.items()
    ]
    return tag(
        "section",
        tag("h2", pill(facts.status, _HEADLINES[facts.status])),
        *(tag("p", sentence) for sentence in _explained(facts)),
        *(
            tag(
                "p",
                f"Warning: {percent(share, 1)} of the {name} values lie outside the training range. "
                "Features made in another way are the commonest silent failure.",
                class_="warning",
            )
            for name, share in warnings
        ),
        tag("ul", *chips, class_="chips", aria_label="verdict of each graph"),
        class_=f"banner {facts.status}",
    )


def change_cell(before: float, after: float, interval: tuple[float, float] | None) -> Child:
    """``−0.0002`` over ``[−0.0008, +0.0006]``."""
    shown = None if interval is None else tag("small", f" [{change(interval[0])}, {change(interval[1])}]")
    return join([change(after - before), shown])


def metric_change(hop: HopRecord | None, metric: str) -> Child:
    """A hop's change of a metric; a dash where there is none."""
    found = None if hop is None else hop.metrics.get(metric)
    if found is None or found.before is None or found.after is None:
        return MISSING
    return change_cell(found.before, found.after, found.interval)


def _tile(value: str, name: str, note: str) -> Markup:
    return tag("li", tag("b", value), tag("span", name), tag("small", note))


def _compressed(facts: Facts) -> tuple[str, list[str]] | None:
    """The smallest precision that passed, or else the smallest, and its graphs that make a score (a text encoder counts)."""
    graphs = facts.manifest.graphs
    kinds = [kind for kind in facts.kinds if not is_explaining(kind)]
    choices = {}
    for precision in dict.fromkeys(graph.precision for graph in graphs.values() if graph.precision != "fp32"):
        names = [f"{kind}.{precision}" for kind in kinds]
        if all(name in graphs and facts.base(name) is not None for name in names):
            doubtful = any(graphs[name].verdict.status != "passed" for name in names)
            choices[doubtful, sum(map(facts.size, names)), precision] = names
    best = min(choices, default=None)
    return None if best is None else (best[2], choices[best])


def _latency_tile(facts: Facts) -> Markup:
    scoring = [entry for entry in facts.latencies if kind_of(entry.graph) == _SCORE]
    usable = [entry for entry in scoring if _usable(facts.manifest.graphs[entry.graph], entry.backend)]
    if not usable:
        targets = [] if facts.int8 is None else facts.int8.targets
        paired = next((t for t in targets if kind_of(t.graph) == _SCORE and t.latency.ratio is not None), None)
        if paired is not None and paired.latency.ratio is not None:
            where = paired.latency.machine.get("cpu", "a machine without a name")
            note = f"{paired.graph}, median of {paired.latency.rounds} paired rounds on {where}"
            return _tile(f"{paired.latency.ratio:.2f}×", "the latency of fp32", note)
        return _tile(MISSING, "latency", "not measured on this machine" if not scoring else "no graph has passed")
    best = min(usable, key=lambda entry: entry.p50_ms)
    note = f"{best.graph} in {best.backend}, {facts.threads} thread(s), {facts.machine.get('cpu', 'this machine')}"
    return _tile(f"{number(best.p50_ms)} ms", "for one sample, fastest that passed", note)


def tiles(facts: Facts) -> Markup:
    """Up to four figures: how much smaller, how much worse, how fast, and on how many samples."""
    parts: list[Child] = []
    found = _compressed(facts)
    if found is not None:
        names, bases = found[1], [facts.base(name) or name for name in found[1]]
        before, after = sum(map(facts.size, bases)), sum(map(facts.size, names))
        note = f"{' and '.join(names)}: {megabytes(after)} instead of {megabytes(before)}"
        parts.append(_tile(f"{before / after:.1f}× smaller", "than fp32", note))
        # With a text encoder the hop that counts is the one of both graphs together.
        hop = facts.hop_to(f"text.{found[0]}+{_SCORE}.{found[0]}") or facts.hop_to(f"{_SCORE}.{found[0]}")
        metric = None if hop is None else hop.metrics.get(facts.metric)
        if hop is not None and metric is not None and metric.before is not None and metric.after is not None:
            note = f"{hop.target}: {number(metric.before)} before, {number(metric.after)} after"
            if metric.interval is not None:
                note += f"; 95 % interval {change(metric.interval[0])} to {change(metric.interval[1])}"
            parts.append(_tile(change(metric.after - metric.before), f"change in {METRIC_NAMES[facts.metric]}", note))
    parts.append(_latency_tile(facts))
    samples = "0" if facts.ledger is None else str(facts.ledger.samples)
    parts.append(_tile(samples, "samples checked", "parity not measured" if facts.ledger is None else _where(facts)))
    return tag("ul", *parts, class_="tiles")


def _usable(graph: GraphRecord, backend: str) -> bool:
    verdict = graph.verdict if backend == "onnxruntime" else graph.backends.get(backend)  # type: ignore[call-overload]
    return verdict is not None and verdict.status == "passed"


def _error(hop: HopRecord | None) -> Child:
    """The error that is limited, and its limit."""
    if hop is None:
        return MISSING
    name = "max_error" if "max_error" in hop.limits else "p99_error"
    value = hop.max_error if name == "max_error" else hop.p99_error
    limit = hop.limits.get(name)
    word = "max" if name == "max_error" else "p99"
    if value is None:
        return MISSING
    return join([number(value), tag("small", f" {word}" + ("" if limit is None else f", ≤ {number(limit)}"))])


def _row(facts: Facts, name: str) -> list[Child]:
    graph, base, hop = facts.manifest.graphs[name], facts.base(name), facts.hop_to(name)
    size, latency = facts.size(name), facts.latency(name)
    error = _error(hop)
    simulated = tag("small", " simulated on CPU") if graph.simulated_on_cpu else None
    return [
        join([name, simulated]),
        pill(graph.verdict.status),
        megabytes(size) + ("" if base is None else f" · {size / facts.size(base):.2f}×"),
        f"{percent(graph.weights_stored_int8)} / {percent(graph.multiply_adds_int8)}",
        error,
        MISSING if hop is None or hop.correlation is None else f"{hop.correlation:.5f}",
        metric_change(hop, facts.metric),
        MISSING if latency is None or graph.simulated_on_cpu else f"{number(latency)} ms",
    ]


def graphs_section(facts: Facts) -> Section:
    """The one table: every graph with its verdict, weight, errors, and latency where it was measured."""
    rows = [_row(facts, name) for name in facts.manifest.graphs]
    for name, graph in facts.manifest.graphs.items():
        for backend, verdict in graph.backends.items():
            hop, latency = facts.hop_to(f"{name}@{backend}"), facts.latency(name, backend)
            correlation = MISSING if hop is None or hop.correlation is None else f"{hop.correlation:.5f}"
            timed = MISSING if latency is None else f"{number(latency)} ms"
            where = join([name, tag("small", f" in {backend}")])
            change_of = metric_change(hop, facts.metric)
            rows.append([where, pill(verdict.status), "same file", MISSING, _error(hop), correlation, change_of, timed])
    metric = METRIC_NAMES[facts.metric]
    heads = ["Graph", "Verdict", "Size · of fp32", "INT8 stored / computed", "Error of the score", "Correlation"]
    heads += [f"Change in {metric} [95 %]", "Latency here"]
    shown = table("Every graph of the bundle", heads, rows, right=range(2, 8), hide_caption=True)
    missing = []
    if facts.ledger is not None:
        simulated = [name for name, graph in facts.manifest.graphs.items() if graph.simulated_on_cpu]
        if simulated:
            missing.append(
                f"{', '.join(simulated)}: checked by a CPU that simulates the INT8 arithmetic; no engine of a device ran."
            )
        old = [hop.target for hop in facts.hops if hop.evidence is None and hop.max_error is not None]
        if old:
            missing.append("The ledger was written by an earlier dmdkit, without what figures are drawn from; check again.")
    return Section("Every graph", join([shown, tag("p", long_text(_reading(facts)), class_="note")]), missing)


def _reading(facts: Facts) -> str:
    text = (
        "Error: how far the score is from that of the version before (p99: all but the worst hundredth). "
        "Stored: share of weights kept as INT8. Computed: share of multiply-adds done in INT8; 0 % means weights only."
    )
    return text + ("" if facts.latencies else " Milliseconds: run dmdkit bench, then dmdkit report.")
