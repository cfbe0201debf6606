"""Parity hop by hop: figures of the errors, the worst samples, and the numbers in full."""

from __future__ import annotations

from dmdkit.parity.compare import HopRecord
from dmdkit.parity.evidence import SampleError
from dmdkit.report.facts import Facts, is_explaining, kind_of
from dmdkit.report.hop_figures import error_histogram, score_scatter
from dmdkit.report.markup import Child, Markup, join, tag
from dmdkit.report.numbers import MISSING, number
from dmdkit.report.parts import Section, details, figures, long_text, pill, table

__all__ = ["parity_section"]

_KINDS = {
    "simulated": "simulated: a CPU stands in for the engine",
    "recorded": "recorded at export, on the golden samples",
}
_TITLES = {"fusion": "The score", "explain": "The explanation", "text": "The text encoder"}


def _limited_error(hop: HopRecord) -> tuple[str, float] | None:
    """What is limited of the errors, and the bound."""
    for name, word in (("max_error", "largest allowed"), ("p99_error", "99 % must be below")):
        if name in hop.limits:
            return word, hop.limits[name]
    return None


def _values(values: list[float] | None) -> str:
    return MISSING if values is None else ", ".join(number(value) for value in values)


def _worst(samples: list[SampleError]) -> Markup:
    known = any(sample.before is not None for sample in samples)
    labelled = any(sample.label is not None for sample in samples)
    heads = ["Sample", "Error", *(["Before", "After"] if known else []), *(["Label"] if labelled else [])]
    rows: list[list[Child]] = []
    for sample in samples:
        row: list[Child] = [long_text(sample.id), number(sample.error)]
        row += [_values(sample.before), _values(sample.after)] if known else []
        rows.append([*row, MISSING if sample.label is None else f"{sample.label:g}".replace("-", "−")] if labelled else row)
    return table("Samples with the largest errors", heads, rows, right=range(1, len(heads)))


def _facts_line(hop: HopRecord) -> Markup:
    """The hop's numbers as a list of pairs."""

    def limited(name: str, sign: str) -> str:
        return f" ({sign} {number(hop.limits[name])})" if name in hop.limits else ""

    pairs = [
        ("largest error", number(hop.max_error) + limited("max_error", "≤")),
        ("99 % of errors below", number(hop.p99_error) + limited("p99_error", "≤")),
        ("mean error", number(hop.mean_error)),
        ("correlation", number(hop.correlation, 6) + limited("correlation", "≥")),
        ("cosine", number(hop.cosine, 6)),
        ("signal to noise", MISSING if hop.sqnr_db is None else f"{hop.sqnr_db:.1f} dB"),
    ]
    if hop.top1_agreement is not None:
        pairs.append(("same top class", number(hop.top1_agreement, 4) + limited("top1_agreement", "≥")))
    else:
        pairs.append(("sign flips", f"{hop.sign_flips} of {hop.samples}"))
    if hop.edges:
        largest = max(edge.max_change for edge in hop.edges)
        pairs.append(("largest change of an edge", number(largest) + limited("edge_change", "≤")))
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_="pairs")


def _card(hop: HopRecord) -> Markup:
    kind = _KINDS.get(hop.kind)
    found = hop.evidence
    body: list[Child] = []
    if hop.max_error is not None:
        body.append(_facts_line(hop))
    if found is not None:
        drawn: list[Child] = []
        if any(found.histogram.counts):
            drawn.append(error_histogram(found.histogram, hop.target, _limited_error(hop)))
        else:
            body.append(tag("p", f"All {found.histogram.exact} samples have exactly the same score before and after."))
        if found.points:
            drawn.append(score_scatter(found.points, hop.source, hop.target))
        if found.worst and found.worst[0].error > 0:
            drawn.append(_worst(found.worst))
        body.append(figures(drawn))
    else:
        body.append(tag("p", "Worst sample: ", long_text(hop.worst_sample)))
    return tag(
        "article",
        tag("h4", f"{hop.source} → {hop.target} ", pill(hop.status)),
        tag("p", f"{hop.samples} samples; {kind}." if kind else f"{hop.samples} samples.", class_="note"),
        None if hop.status == "passed" else tag("p", long_text(hop.reason), class_="warning"),
        *body,
        class_="hop",
    )


def _missing(facts: Facts) -> list[str]:
    if facts.ledger is None:
        return ["Parity has not been measured, so there are no errors, scores or metrics to show: run dmdkit check."]
    missing = []
    if not facts.ledger.sample_values:
        missing.append(
            "Scores and labels of single samples are left out to keep the data private, so there are no scatter plots "
            "of held-out samples (dmdkit check --sample-values keeps them)."
        )
    if any(hop.kind == "recorded" for hop in facts.hops):
        missing.append(
            "The first hop was not measured now: it compares with what PyTorch gave on the golden samples at export "
            "(dmdkit check --run measures it)."
        )
    if facts.manifest.golden.kind == "synthetic":
        missing.append("The golden samples are synthetic: they show drift on a device, and prove nothing about real data.")
    return missing


def parity_section(facts: Facts) -> Section:
    """A card per hop; those of explaining graphs, whose score is the same, are folded."""
    parts: list[Child] = []
    for kind in sorted(dict.fromkeys(kind_of(hop.target) for hop in facts.hops), key=is_explaining):
        cards = [_card(hop) for hop in facts.hops if kind_of(hop.target) == kind]
        title = _TITLES.get(kind, f"Graphs {kind}")
        if is_explaining(kind):
            parts.append(details(f"{title}: {len(cards)} hop(s) of the {kind} graphs", *cards))
        else:
            parts += [tag("h3", title), *cards]
    if parts:
        text = "Every version of the model against the one it was made from, on the same samples."
        parts.insert(0, tag("p", text))
    return Section("Parity, hop by hop", join(parts), _missing(facts))
