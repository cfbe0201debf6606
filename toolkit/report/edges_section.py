"""Which modality teaches which: the GD-Units' edges of both spaces, before and after compression."""

from __future__ import annotations

from dmdkit.parity.compare import EdgeChange, HopRecord
from dmdkit.report.edge_graph import edge_graph
from dmdkit.report.facts import Facts, kind_of
from dmdkit.report.markup import Child, Markup, join, tag
from dmdkit.report.parts import Section, figures, table

__all__ = ["edges_section"]

_SPACES = {"homo": "Common part (homogeneous space)", "hetero": "Exclusive part (heterogeneous space)"}


def _columns(hops: list[HopRecord], space: str) -> list[tuple[str, list[float], int]]:
    """(graph, mean edges, samples) per version; every lowering is compared on its own samples with the fp32 graph."""
    found: list[tuple[str, list[float], int]] = []

    def add(name: str, edges: list[float], samples: int) -> None:
        if edges and all(name != known for known, _, _ in found):
            found.append((name, edges, samples))

    def of(hop: HopRecord) -> EdgeChange | None:
        return next((edge for edge in hop.edges if edge.space == space), None)

    # The fp32 graph's own hop may have run on the golden samples alone; where a lowering was measured, its samples are used.
    for hop in sorted(hops, key=lambda hop: hop.kind == "recorded"):
        edge = of(hop)
        if edge is not None and not hop.source.startswith("pytorch"):
            add(hop.source, edge.before, hop.samples)
            add(hop.target + (" (simulated)" if hop.kind == "simulated" else ""), edge.after, hop.samples)
    for hop in hops:
        edge = of(hop)
        if edge is not None:
            add(hop.target + (" (simulated)" if hop.kind == "simulated" else ""), edge.after, hop.samples)
    return found


def _numbers(facts: Facts, columns: list[tuple[str, list[float], int]], space: str) -> Markup:
    rows: list[list[Child]] = []
    for index, (student, teacher) in enumerate(facts.manifest.edge_order):
        rows.append([f"{teacher} teaches {student}", *(f"{edges[index]:.4f}" for _, edges, _ in columns)])
    heads: list[Child] = ["Edge", *(name for name, _, _ in columns)]
    return table(f"Mean edges, {_SPACES[space].lower()}", heads, rows, right=range(1, len(heads)))


def edges_section(facts: Facts) -> Section:
    """A graph per space and version."""
    title = "Which modality teaches which"
    hops = [hop for hop in facts.hops if kind_of(hop.target) == "explain" and "@" not in hop.target]
    parts: list[Child] = []
    for space, name in _SPACES.items():
        columns = [c for c in _columns(hops, space) if len(c[1]) == len(facts.manifest.edge_order)]
        if columns:
            drawn = [edge_graph(graph, facts.manifest.edge_order, edges, samples) for graph, edges, samples in columns]
            parts += [tag("h3", name), figures(drawn, "edges"), _numbers(facts, columns, space)]
    if parts:
        text = (
            "An arrow goes from the teacher to the student, in the teacher's colour; its thickness and number are the "
            "normalised edge of the GD-Unit, averaged over the samples. The six edges of a space add up to 1, so 0.167 is "
            "an even share."
        )
        return Section(title, join([tag("p", text), *parts]))
    if not any(name.startswith("edges_") for name in facts.manifest.outputs):
        return Section(
            title,
            join([]),
            ["The bundle has no GD-Units (published checkpoints hold none), so nothing says which modality teaches which."],
        )
    reason = "The last check recorded no edges, so the GD-Units are not drawn: run dmdkit check again."
    return Section(title, join([]), [reason])
