"""Puts the sections together: one HTML file that loads nothing and runs nothing."""

from __future__ import annotations

from pathlib import Path

from dmdkit.errors import BundleError
from dmdkit.files import write_text
from dmdkit.report.bundle_section import bundle_section
from dmdkit.report.edges_section import edges_section
from dmdkit.report.facts import Facts, read_facts
from dmdkit.report.frame import document
from dmdkit.report.int8_section import calibration_section, layers_section, targets_section
from dmdkit.report.lengths_section import lengths_section
from dmdkit.report.markup import Markup, tag
from dmdkit.report.metrics_section import metrics_section
from dmdkit.report.overview import banner, graphs_section, tiles
from dmdkit.report.parity_section import parity_section
from dmdkit.report.parts import Section
from dmdkit.report.resources_section import resources_section
from dmdkit.report.stream_section import stream_section
from dmdkit.report.subsets_section import subsets_section

__all__ = ["REPORT_PAGE", "render", "write_report"]

REPORT_PAGE = "report/report.html"


def _missing(sections: list[Section]) -> Markup | None:
    reasons = list(dict.fromkeys(reason for section in sections for reason in section.missing))
    if not reasons:
        return None
    title = tag("h2", "What this report does not show")
    return tag("section", title, tag("ul", *(tag("li", reason) for reason in reasons)), class_="missing")


def _subtitle(facts: Facts) -> str:
    manifest = facts.manifest
    if manifest.label_range is not None:
        task = f"regression from {manifest.label_range[0]:g} to {manifest.label_range[1]:g}"
    else:
        task = f"{manifest.model.num_outputs} classes"
    return f"DMD emotion model, {task}. Exported {manifest.created[:10]}" + (
        "" if facts.ledger is None else f", checked {facts.ledger.created[:10]}"
    )


def render(facts: Facts) -> str:
    """The report as one HTML document."""
    table = graphs_section(facts)
    sections = [
        targets_section(facts),
        metrics_section(facts),
        subsets_section(facts),
        stream_section(facts),
        lengths_section(facts),
        resources_section(facts),
        edges_section(facts),
        layers_section(facts),
        calibration_section(facts),
        parity_section(facts),
        bundle_section(facts),
    ]
    parts = [banner(facts), tiles(facts), _section(table), *map(_section, sections), _missing([table, *sections])]
    name = facts.manifest.name
    return document(f"{name}: parity report", "dmdkit parity report", name, _subtitle(facts), parts)


def _section(section: Section) -> Markup | None:
    return tag("section", tag("h2", section.title), section.body) if section.body else None


def write_report(bundle: Path) -> Path:
    """Writes ``report/report.html`` of a bundle from its manifest, its ledger and this machine's latencies.

    Returns:
        The page.

    Raises:
        BundleError: The bundle is damaged, or the page cannot be written.
    """
    path = bundle / REPORT_PAGE
    write_text(path, render(read_facts(bundle)), BundleError, inside=bundle)
    return path
