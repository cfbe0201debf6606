"""The table of what a model is worth with only some modalities there."""

from __future__ import annotations

import dataclasses

from dmdkit.report.facts import Facts
from dmdkit.report.page import render
from dmdkit.report.subsets_section import subsets_section


def test_every_subset_has_a_row_that_says_whether_training_knew_it(facts: Facts) -> None:
    page = str(subsets_section(facts).body)
    assert page.count('scope="row"') == 7
    assert "text, vision" in page
    modelled = all(item.trained_absent for item in facts.manifest.inputs.values())
    assert (">no<" in page) is not modelled
    assert "With only some modalities</h2>" in render(facts)


def test_a_ledger_without_subsets_says_how_to_measure_them(facts: Facts) -> None:
    assert facts.ledger is not None
    older = dataclasses.replace(facts, ledger=facts.ledger.model_copy(update={"subsets": {}}))
    assert "dmdkit check --data" in subsets_section(older).missing[0]
    assert "With only some modalities</h2>" not in render(older)
