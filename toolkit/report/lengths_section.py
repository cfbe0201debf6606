"""The text graphs on sentences of single lengths."""

from __future__ import annotations

from dmdkit.report.facts import Facts
from dmdkit.report.markup import Child, join, tag
from dmdkit.report.numbers import number
from dmdkit.report.parts import Section, pill, table

__all__ = ["lengths_section"]

_TITLE = "By the length of a sentence"


def lengths_section(facts: Facts) -> Section:
    """A table: a row for each text graph, a column for each length; nothing where graphs have one length."""
    text = facts.manifest.text
    if text is None or text.lengths != "dynamic":
        return Section(_TITLE, join([]))
    records = [] if facts.ledger is None else facts.ledger.lengths
    if not records:
        return Section(_TITLE, join([]), ["Parity at single lengths of a sentence: `dmdkit check` measures it."])
    rows: dict[str, list[Child]] = {}
    for record in records:
        row = rows.setdefault(record.target, [record.target, record.source, number(record.limit)])
        error = number(record.error)
        row.append(error if record.status == "passed" else join([error, " ", pill("failed")]))
    tokens = sorted({record.tokens for record in records})
    heads: list[Child] = ["Graph", "Compared with", "Limit", *(f"{count} tokens" for count in tokens)]
    said = (
        f"The error of the score on {records[0].samples} sentences of each length, made from the samples', each by itself: the "
        "largest for fp32 and C++, the root mean square for INT8 and fp16. A graph that fails at one length fails."
    )
    shown = table("Error of the score by the length of a sentence", heads, list(rows.values()), right=range(2, len(heads)))
    return Section(_TITLE, join([tag("p", said), shown]))
