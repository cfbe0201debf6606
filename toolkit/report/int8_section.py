"""Whether INT8 is worth it on each target, what each layer costs, and what calibrated it."""

from __future__ import annotations

from dmdkit.parity.int8_report import CoverageRecord, Int8Report, LatencyRecord, LayerRecord, MetricRecord, TargetRecord
from dmdkit.report.bars import Bar, bar_chart
from dmdkit.report.facts import Facts
from dmdkit.report.markup import Child, Markup, join, tag
from dmdkit.report.numbers import MISSING, number, percent
from dmdkit.report.overview import METRIC_NAMES, change_cell
from dmdkit.report.parts import Section, details, figures, long_text, pill, table

__all__ = ["calibration_section", "layers_section", "targets_section"]

_DRAWN_LAYERS, _PER_CHART = 20, 10
_WORTH = {True: ("passed", "use it"), False: ("failed", "not worth it here"), None: ("unverified", "open")}


def _latency(found: LatencyRecord) -> Child:
    if found.ratio is None:
        return found.status
    interval = "" if found.interval is None else f" [{number(found.interval[0])}, {number(found.interval[1])}]"
    machine = found.machine.get("cpu", "a machine without a name")
    return join([f"{found.ratio:.2f}×{interval}", tag("small", f" {found.status} on {machine}, {found.rounds} rounds")])


def _tried(target: TargetRecord) -> Markup | None:
    if not target.candidates:
        return None
    rows: list[list[Child]] = [
        [
            join([long_text(found.what), tag("small", " chosen") if found.chosen else None]),
            str(found.calibration_samples),
            str(found.layers_in_float),
            number(found.score_error.p99),
            number(found.correlation, 5),
            number(found.edge_change),
            pill(found.status),
            long_text(found.reason),
        ]
        for found in target.candidates
    ]
    heads = ["Tried", "Samples", "Layers in float", "p99 error", "Correlation", "Edge change", "Verdict", "Why"]
    shown = table(f"What was tried for {target.graph}", heads, rows, right=range(1, 6))
    return details(f"{target.graph}: what was tried ({len(target.candidates)})", shown)


def targets_section(facts: Facts) -> Section:
    """One sentence per compressed graph, with the figures behind it."""
    title = "Is INT8 worth it?"
    if facts.int8 is None or not facts.int8.targets:
        has_int8 = any(graph.precision.startswith("int8") for graph in facts.manifest.graphs.values())
        reason = "the bundle was exported without report/int8.json" if has_int8 else "the bundle has no INT8 graphs"
        reason = "the bundle's report/int8.json is damaged" if facts.int8_damaged else reason
        return Section(title, join([]), [f"Nothing is said about whether INT8 is worth it: {reason}."])
    sentences = []
    for target in facts.int8.targets:
        status, word = _WORTH[target.worth_it]
        sentence = target.sentence.removeprefix(f"{word}: ")
        sentences.append(tag("li", tag("b", target.graph), " ", pill(status, word), " ", long_text(sentence)))
    shown = _target_table(facts, facts.int8.targets)
    return Section(title, join([tag("ul", *sentences, class_="sentences"), shown, *map(_tried, facts.int8.targets)]))


def _target_table(facts: Facts, targets: list[TargetRecord]) -> Markup:
    """Size, latency and metric of every compressed graph; fp16 beside it where the bundle has it."""

    def metric(found: list[MetricRecord]) -> Child:
        one = next((item for item in found if item.name == facts.metric), None)
        return MISSING if one is None else change_cell(one.before, one.after, one.interval)

    half = any(target.fp16_size_bytes is not None for target in targets)
    rows: list[list[Child]] = []
    for target in targets:
        row: list[Child] = [target.graph, f"{target.size_ratio:.2f}×"]
        row += [f"{percent(target.stored_int8)} / {percent(target.computed_int8)}", _latency(target.latency)]
        row += [metric(target.metrics), target.method or "none"]
        if half:
            size = target.fp16_size_bytes
            known = size is not None and target.fp32_size_bytes > 0
            row += [f"{(size or 0) / target.fp32_size_bytes:.2f}×" if known else MISSING, metric(target.fp16_metrics)]
        rows.append(row)
    heads = ["Graph", "Size", "INT8 stored / computed", "Latency", f"Change in {METRIC_NAMES[facts.metric]} [95 %]"]
    heads += ["Calibration method", *(["fp16: size", "fp16: change [95 %]"] if half else [])]
    return table("Against fp32", heads, rows, right=(1, 2, 3, 4, 6, 7))


def _ranked(report: Int8Report) -> list[LayerRecord]:
    """The layers that were measured, those that INT8 harms most first."""
    found = [layer for layer in report.layers if layer.score_error is not None]
    return sorted(found, key=lambda layer: -(layer.score_error.p99 if layer.score_error is not None else 0.0))


def _choice(layer: LayerRecord, precision: str) -> Child:
    found = layer.targets.get(precision)
    if found is None:
        return MISSING
    ratio = "" if found.latency_ratio is None else f"; INT8 takes {found.latency_ratio:.2f}× the time of float"
    text = f"{found.reason}{ratio}"
    return join([f"{found.stored} / {found.computed}", tag("small", long_text(text))])


def _layer_table(report: Int8Report, layers: list[LayerRecord]) -> Markup:
    precisions = sorted({precision for layer in layers for precision in layer.targets})
    rows: list[list[Child]] = []
    for layer in layers:
        score, edges = layer.score_error, layer.edge_error
        rows.append(
            [
                long_text(layer.title),
                layer.kind,
                " × ".join(map(str, layer.weight_shape)) or "no weights",
                f"{layer.multiply_adds / 1e3:.0f} k",
                number(None if score is None else score.p99),
                number(None if edges is None else edges.max),
                *(_choice(layer, precision) for precision in precisions),
            ]
        )
    heads = ["Layer", "Kind", "Weights", "Mult-adds", "Score p99", "Edges max"]
    heads += [f"{precision}: stored / computed" for precision in precisions]
    return table("Every layer: what INT8 alone costs, and what each target does", heads, rows, right=range(3, 6))


def _range_table(layers: list[LayerRecord]) -> Markup | None:
    rows: list[list[Child]] = [
        [
            long_text(layer.title),
            str(found.operand),
            number(found.minimum),
            number(found.maximum),
            number(found.p99_9),
            percent(found.zero_share),
            number(found.scale),
        ]
        for layer in layers
        for found in layer.activations
    ]
    heads = ["Layer", "Operand", "Minimum", "Maximum", "99.9 % below", "Exact zeros", "INT8 step"]
    return table("Activations on the calibration samples", heads, rows, right=range(1, 7)) if rows else None


def _charts(ranked: list[LayerRecord], of: str = "") -> list[Markup]:
    """The layers that INT8 harms most, a figure for each ten, on one scale; ``of``: which part of the model they are."""
    bars = []
    for layer in ranked[:_DRAWN_LAYERS]:
        assert layer.score_error is not None
        chosen = layer.targets.get("int8-trt")
        kind = "bar int8" if chosen is not None and chosen.computed == "int8" else "bar float"
        bars.append(Bar(layer.title, layer.score_error.p99, number(layer.score_error.p99), kind))
    note = "99 % of the score's errors are below. Green: int8-trt computes it in INT8; orange: it stays in float."
    drawn = []
    for first in range(0, len(bars), _PER_CHART):
        part = bars[first : first + _PER_CHART]
        caption = f"Layers {first + 1} to {first + len(part)} of {len(ranked)}{of}, most harmed first"
        drawn.append(bar_chart(caption, "Error when one layer alone is INT8", part, note=note, most=bars[0].value))
    return drawn


def layers_section(facts: Facts) -> Section:
    """A chart of the layers that INT8 harms most, and every layer in a table."""
    title = "Layer sensitivity"
    if facts.int8 is None:
        return Section(title, join([]))  # the section on targets says so
    ranked = _ranked(facts.int8)
    others = [layer for layer in facts.int8.layers if layer.score_error is None]
    missing: list[str] = []
    parts: list[Child] = []
    if not ranked:
        missing.append("The layers were not ranked by what INT8 costs each (--int8-search none), so there is no such chart.")
    else:
        parts.append(tag("p", "How far the score moves when one layer alone computes in INT8 and the rest stays in float."))
        words = [layer for layer in ranked if layer.reads_words]
        rest = [layer for layer in ranked if not layer.reads_words]
        # Apart, or the text encoder's would hide the others.
        parts.append(figures([*_charts(rest), *_charts(words, " of the text encoder")]))
    search = facts.int8.search
    if search is not None:
        ended = (
            ""
            if search.complete
            else " The time ran out before every layer was measured, or nothing that was tried held with room to spare."
        )
        text = f"Ranked on {search.samples} samples ({search.split}), never those of the parity check.{ended}"
        parts.append(tag("p", text, class_="note"))
    if facts.int8.layers:
        shown = [*ranked, *others]
        parts.append(details(f"All {len(shown)} layers", _layer_table(facts.int8, shown), deep=True))
        ranges = _range_table(shown)
        parts.append(None if ranges is None else details("Activation ranges", ranges, deep=True))
    return Section(title, join(parts), missing)


def _strata(found: CoverageRecord) -> Markup:
    bars = []
    for part in found.strata:
        name = f"class {part.low:g}" if part.low == part.high else f"labels {part.low:.3g} to {part.high:.3g}".replace("-", "−")
        share = part.chosen / found.samples if found.samples else 0.0
        mark = part.available / found.available if found.available else 0.0
        bars.append(Bar(name, share, f"{part.chosen} of {part.available}", "bar", mark))
    note = "Bars: share of the calibration samples. Upright marks: share of the training samples."
    return bar_chart("Labels of the calibration samples", "Calibration samples per part of the labels", bars, note=note)


def _modalities(found: CoverageRecord) -> Markup:
    bars = [Bar(name, item.range_share, percent(item.range_share)) for name, item in found.modalities.items()]
    note = "Mean over the features: their range in the calibration samples over that in training."
    return bar_chart("Training range covered", "Share of the training range that calibration saw", bars, note=note, most=1.0)


def calibration_section(facts: Facts) -> Section:
    """Which samples calibrated, and what of the training data they show."""
    title, record = "Calibration", facts.manifest.calibration
    if record is None:
        return Section(title, join([]))  # without INT8 there is nothing to calibrate
    used = ", ".join(record.used_by) or "no graph"
    said = tag("p", f"{len(record.sample_ids)} training samples, method {record.method}; their ranges are used by {used}.")
    found = None if facts.int8 is None else facts.int8.calibration
    if found is None:
        reason = "How the calibration samples cover labels and ranges was not recorded, so their coverage is not drawn."
        return Section(title, said, [reason])
    rows: list[list[Child]] = [
        [name, percent(item.range_share), str(item.extremes), f"{item.empty_chosen} of {item.empty_available}"]
        for name, item in found.modalities.items()
    ]
    heads = ["Modality", "Training range covered", "Samples for their extremes", "Empty samples taken"]
    drawn = [_strata(found)] if found.strata else []
    drawn += [_modalities(found)] if found.modalities else []
    numbers = table("Coverage per modality", heads, rows, right=range(1, 4))
    return Section(title, join([said, figures(drawn), numbers]))
