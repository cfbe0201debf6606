"""What ``export`` and ``check`` print of INT8: layer -> precision and why, and one sentence per target."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from dmdkit.cli.console import note, print_table, say

if TYPE_CHECKING:
    from dmdkit.parity.int8_report import Int8Report, LayerRecord

__all__ = ["layers_table", "tried_table", "verdict_sentences"]

_SHOWN = 12
_GENERAL = re.compile(r"\d+\.\d\d")
"""Figures that differ from layer to layer, so that equal reasons can be counted."""


def _error(layer: LayerRecord) -> str:
    return f"{layer.score_error.p99:.1e}" if layer.score_error is not None else "-"


def _edge(layer: LayerRecord) -> str:
    return f"{layer.edge_error.max:.1e}" if layer.edge_error is not None else "-"


def _worst(layers: list[LayerRecord], of: str) -> None:
    """Prints the first of ``layers``, which are ranked; ``of``: which part of the model they are."""
    precisions = sorted({precision for layer in layers for precision in layer.targets})
    rows = [
        [
            layer.title,
            f"{layer.multiply_adds / 1e3:.0f} k",
            _error(layer),
            _edge(layer),
            *(layer.targets[p].computed if p in layer.targets else "-" for p in precisions),
        ]
        for layer in layers[:_SHOWN]
    ]
    numbers = ["mult-adds", "score p99", "edges max"]
    title = f"error when only this layer is INT8, worst {len(rows)} of {len(layers)}{of} (all in report/int8.json)"
    print_table(["layer", *numbers, *precisions], rows, title=title, right=numbers)


def layers_table(report: Int8Report) -> None:
    """Prints the layers that INT8 harms most, and what each target computes them in, on standard output.

    The file has all of them with the reason for each; here a reason is said once, with the number of layers it holds for.
    """
    measured = [layer for layer in report.layers if layer.score_error is not None]
    if not measured:
        return
    measured.sort(key=lambda layer: -(layer.score_error.p99 if layer.score_error is not None else 0.0))
    words = [layer for layer in measured if layer.reads_words]
    for part, of in (([layer for layer in measured if not layer.reads_words], ""), (words, " of the text encoder")):
        if part:
            _worst(part, of)
    reasons = Counter(
        (precision, choice.computed, _GENERAL.sub("R", choice.reason))
        for layer in measured
        for precision, choice in layer.targets.items()
    )
    rows = [[p, computed, str(count), reason] for (p, computed, reason), count in sorted(reasons.items())]
    print_table(["target", "computed", "layers", "why"], rows, right=["layers"])


def tried_table(report: Int8Report) -> None:
    """Prints what was tried per target, on standard output."""
    shown: set[str] = set()
    for target in report.targets:
        # Fusion and explain come of one search, a text encoder of its own.
        name = target.graph if target.graph.startswith("text.") else target.precision
        if name in shown or not target.candidates:
            continue
        shown.add(name)
        rows = [
            [
                ("* " if item.chosen else "  ") + item.what,
                f"{item.score_error.p99:.1e}",
                f"{item.score_error.sqnr_db:.1f}" if item.score_error.sqnr_db is not None else "-",
                f"{item.edge_change:.1e}" if item.edge_change is not None else "-",
                item.status,
            ]
            for item in target.candidates
        ]
        samples = report.search.samples if report.search is not None else 0
        where = f" on {samples} samples ({report.search.split})" if report.search is not None else ""
        numbers = ["p99", "SQNR dB", "edges"]
        title = f"tried for {name}{where}; * is what was taken"
        print_table(["what", *numbers, "verdict"], rows, title=title, right=numbers)


def verdict_sentences(report: Int8Report) -> None:
    """Prints one sentence per INT8 graph, with both shares side by side, on standard output."""
    search = report.search
    if search is not None and not search.complete:
        say(
            f"the INT8 search did not get through in {search.seconds:.0f} s: layers were not measured, or nothing tried holds "
            "with room to spare"
        )
        note("it goes on from there with: dmdkit export RUN --int8 --force --int8-search-seconds MORE")
    for target in report.targets:
        shares = (
            f"{target.stored_int8:.0%} of the weights stored, {target.computed_int8:.0%} of the arithmetic computed in INT8"
        )
        say(f"{target.graph}: {target.sentence} ({shares})")
