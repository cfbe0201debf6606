"""What the model is worth with only some modalities there."""

from __future__ import annotations

from dmdkit.report.facts import Facts
from dmdkit.report.markup import Child, join, tag
from dmdkit.report.numbers import MISSING, number
from dmdkit.report.overview import METRIC_NAMES
from dmdkit.report.parts import Section, table

__all__ = ["subsets_section"]


def subsets_section(facts: Facts) -> Section:
    """A table: a row for each of the seven subsets of modalities, a column for each metric of the fp32 graph."""
    subsets = {} if facts.ledger is None else facts.ledger.subsets
    if not subsets:
        reason = "What the model is worth with only some modalities: `dmdkit check --data` measures it on samples with labels."
        return Section("With only some modalities", join([]), [reason])
    names = list(next(iter(subsets.values())))
    heads: list[Child] = ["Modalities there", "Modelled", *(METRIC_NAMES.get(name, name) for name in names)]
    inputs, rows = facts.manifest.inputs, list[list[Child]]()
    for there, metrics in subsets.items():
        absent = [name for name in inputs if name not in there.split("+")]
        modelled = "yes" if all(inputs[name].trained_absent for name in absent) else "no"
        values = [metrics.get(name) for name in names]
        rows.append([there.replace("+", ", "), modelled, *(MISSING if v is None else number(v, 4) for v in values)])
    text = (
        "The fp32 graph on the same samples, where the other modalities are all zero, as from sensors that are not there. "
        "Modelled is a subset whose absent modalities were absent in training often enough; elsewhere the runtime refuses it."
    )
    shown = table("Metrics with only some modalities", heads, rows, right=range(2, len(heads)))
    return Section("With only some modalities", join([tag("p", text), shown]))
