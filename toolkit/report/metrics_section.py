"""What compression does to the task's metrics, with paired bootstrap intervals."""

from __future__ import annotations

from dmdkit.parity.compare import HopRecord
from dmdkit.report.bars import Interval, interval_chart
from dmdkit.report.facts import Facts, is_explaining, kind_of
from dmdkit.report.markup import Child, join, tag
from dmdkit.report.numbers import change, number
from dmdkit.report.overview import METRIC_NAMES, metric_change
from dmdkit.report.parts import Section, figures, table

__all__ = ["metrics_section"]


def _told(facts: Facts) -> list[HopRecord]:
    """Hops with metrics, one graph's score once: an explaining graph repeats the fusion graph's."""
    return [hop for hop in facts.hops if hop.metrics and not is_explaining(kind_of(hop.target))]


def _named(hop: HopRecord) -> str:
    return hop.target + (" (simulated)" if hop.kind == "simulated" else "")


def _intervals(facts: Facts, hops: list[HopRecord], metric: str) -> list[Interval]:
    rows = []
    for hop in hops:
        found = hop.metrics.get(metric)
        if found is not None and found.interval is not None and found.before is not None and found.after is not None:
            rows.append(Interval(_named(hop), found.after - found.before, *found.interval))
    return rows


def metrics_section(facts: Facts) -> Section:
    """The metric table, and a figure of the changes that have an interval."""
    hops = _told(facts)
    if not hops:
        reason = "The samples had no labels to compare with, so there are no metrics."
        return Section("Task metrics", join([]), [] if facts.ledger is None else [reason])
    names = list(hops[0].metrics)
    first = hops[0].source
    heads: list[Child] = ["Metric", first, *(part for hop in hops for part in (_named(hop), "change [95 %]"))]
    rows: list[list[Child]] = []
    for name in names:
        row: list[Child] = [METRIC_NAMES.get(name, name), number(hops[0].metrics[name].before, 4)]
        for hop in hops:
            found = hop.metrics.get(name)
            row += [number(None if found is None else found.after, 4), metric_change(hop, name)]
        rows.append(row)
    drawn: list[Child] = []
    unmoved: list[str] = []
    for name in names:
        limit = next((hop.limits["mae_change"] for hop in hops if "mae_change" in hop.limits), None) if name == "mae" else None
        shown = [hop for hop in hops if name != "mae" or limit is None or "mae_change" in hop.limits]
        intervals = _intervals(facts, shown, name)
        title = METRIC_NAMES.get(name, name)
        if intervals and not any(row.low or row.high or row.value for row in intervals):
            unmoved.append(title)
        elif intervals:
            note = "Reported, not judged." if limit is None else f"Allowed is the shaded band, ±{change(limit).lstrip('+')}."
            drawn.append(
                interval_chart(f"Change in {title}, with its 95 % interval", f"Change in {title}", intervals, limit, note=note)
            )
    text = (
        "Before and after each step, on the same samples. The intervals come from a paired bootstrap: samples are redrawn in "
        "pairs, so the luck of the draw cancels. Zero inside the interval: no change can be told from chance."
    )
    still = tag("p", f"{', '.join(unmoved)}: not one sample changed in any version.") if unmoved else None
    shown_table = table("Metrics of every version", heads, rows, right=range(1, len(heads)))
    return Section("Task metrics", join([tag("p", text), figures(drawn), still, shown_table]))
