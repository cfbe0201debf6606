"""What ``export`` and ``check`` print of INT8: layer -> precision and why, and one sentence per target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmdkit.cli.console import out, print_table, say

if TYPE_CHECKING:
    from dmdkit.runtime.int8_report import Int8Report, LayerRecord

__all__ = ["layers_table", "verdict_sentences"]

_SHOWN = 12
_COMFORTABLE = 120


def _error(layer: LayerRecord) -> str:
    return f"{layer.score_error.p99:.1e}" if layer.score_error is not None else "-"


def _edge(layer: LayerRecord) -> str:
    return f"{layer.edge_error.max:.1e}" if layer.edge_error is not None else "-"


def layers_table(report: Int8Report) -> None:
    """Prints the layers that matter most, on standard output: those INT8 harms most first; the file has them all."""
    measured = [layer for layer in report.layers if layer.score_error is not None]
    if not measured:
        return
    measured.sort(key=lambda layer: -(layer.score_error.p99 if layer.score_error is not None else 0.0))
    precisions = sorted({precision for layer in measured for precision in layer.targets})
    rows = []
    for layer in measured[:_SHOWN]:
        computed = [layer.targets[p].computed if p in layer.targets else "-" for p in precisions]
        row = [layer.name.removeprefix("/"), _error(layer), _edge(layer), *computed]
        if out.width >= _COMFORTABLE:
            row.append("; ".join(f"{p}: {layer.targets[p].reason}" for p in precisions if p in layer.targets))
        rows.append(row)
    heads = ["layer", "score p99", "edges max", *precisions]
    title = f"error when only this layer is INT8, worst {len(rows)} of {len(measured)} (all in report/int8.json)"
    print_table([*heads, "why"] if out.width >= _COMFORTABLE else heads, rows, title=title, right=heads[1:3])


def verdict_sentences(report: Int8Report) -> None:
    """Prints one sentence per INT8 graph, with both shares side by side, on standard output."""
    for target in report.targets:
        shares = (
            f"{target.stored_int8:.0%} of the weights stored, {target.computed_int8:.0%} of the arithmetic computed in INT8"
        )
        say(f"{target.graph}: {target.sentence} ({shares})")
