"""What the graphs weigh, and how long one sample takes on this machine."""

from __future__ import annotations

from dmdkit.report.bars import Bar, bar_chart
from dmdkit.report.facts import Facts, is_explaining
from dmdkit.report.markup import Child, join, tag
from dmdkit.report.numbers import megabytes, number
from dmdkit.report.parts import Section, figures

__all__ = ["resources_section"]


def _kind_class(facts: Facts, name: str) -> str:
    precision = facts.manifest.graphs[name].precision
    return {"fp32": "bar", "fp16": "bar fp16"}.get(precision, "bar int8")


def _sizes(facts: Facts, kind: str) -> list[Bar]:
    bars = []
    for name, graph in facts.manifest.graphs.items():
        if graph.kind == kind:
            size, base = facts.size(name), facts.base(name)
            ratio = "" if base is None else f" · {size / facts.size(base):.2f}×"
            bars.append(Bar(name, size, megabytes(size) + ratio, _kind_class(facts, name)))
    return bars


def _latencies(facts: Facts, kind: str) -> list[Bar]:
    bars = []
    base = facts.latency(f"{kind}.fp32")
    for found in facts.latencies:
        graph = facts.manifest.graphs[found.graph]
        if graph.kind != kind or graph.simulated_on_cpu:
            continue
        ratio = "" if base is None or (found.graph, found.backend) == (f"{kind}.fp32", "onnxruntime") else found.p50_ms / base
        text = f"{number(found.p50_ms)} ms" + (f" · {ratio:.2f}×" if ratio else "")
        where = "" if found.backend == "onnxruntime" else f" in {found.backend}"
        bars.append(Bar(found.graph + where, found.p50_ms, text, _kind_class(facts, found.graph)))
    return bars


def resources_section(facts: Facts) -> Section:
    """Bars of sizes and, where there are any, of latencies."""
    drawn: list[Child] = []
    kinds = [kind for kind in facts.kinds if not kind.startswith("gd_")]  # a GD-Unit alone is a few kilobytes, in fp32 only
    for kind in sorted(kinds, key=is_explaining):
        note = "Times fp32. INT8 files hold the same weights in a quarter of the bytes, and scales."
        drawn.append(
            bar_chart(f"Size of the {kind} graphs", f"File sizes of the {kind} graphs", _sizes(facts, kind), note=note)
        )
    for kind in sorted(kinds, key=is_explaining):
        bars = _latencies(facts, kind)
        if bars:
            alt = f"Median latency of one sample of the {kind} graphs"
            drawn.append(bar_chart(f"Latency of the {kind} graphs", alt, bars, note="Median of one sample; times fp32."))
    missing, said = [], None
    if facts.latencies:
        machine = facts.machine
        said = (
            f"Latencies were measured by dmdkit bench on {machine.get('cpu', 'this machine')} "
            f"({machine.get('cores', '?')} cores, {machine.get('architecture', '?')}, {machine.get('system', '?')}) "
            f"with {facts.threads} thread(s), one sample a call."
        )
        if any(facts.manifest.graphs[found.graph].simulated_on_cpu for found in facts.latencies):
            said += " Graphs that a CPU only simulates have no bar: their time here says nothing about an engine."
    else:
        missing.append(
            "Latency in milliseconds has not been measured on the machine that wrote this report: run dmdkit bench, "
            "then dmdkit report."
        )
    return Section("Size and latency", join([figures(drawn), None if said is None else tag("p", said, class_="note")]), missing)
