"""Text graphs are measured at single lengths of a sentence, and one that goes wrong at a length fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from dmdkit.parity.ledger import read_ledger
from dmdkit.parity.length_records import LengthRecord, length_records, sentences_of
from dmdkit.parity.verdicts import judged, outcome
from dmdkit.report.facts import read_facts
from dmdkit.report.lengths_section import lengths_section
from dmdkit.report.page import render
from dmdkit.runtime.bundle import Bundle
from tests.runtime.builders import put_file
from tests.text_builders import MAX_TOKENS


def measured(bundle: Path) -> list[LengthRecord]:
    opened = Bundle.open(bundle)
    return length_records(opened, opened.golden(), None, None, lambda: None)


def test_sentences_of_a_length_keep_their_ends_and_go_on_with_the_next_ones() -> None:
    rows = [[1, 10, 11, 12, 2], [1, 20, 2], [1, 2]]
    assert sentences_of(rows, 3) == [[1, 10, 2], [1, 20, 2], [1, 10, 2]]
    assert sentences_of(rows, 6) == [[1, 10, 11, 12, 20, 2], [1, 20, 10, 11, 12, 2], [1, 10, 11, 12, 20, 2]]
    assert [len(row) for row in sentences_of(rows, 50)] == [50, 50, 50]
    assert sentences_of([[1, 2]], 3) == []


def test_an_export_measures_every_text_graph_at_every_length(text_bundle: Path) -> None:
    ledger = read_ledger(text_bundle)
    assert ledger is not None
    graphs = {name for name, graph in Bundle.open(text_bundle).manifest.graphs.items() if graph.kind == "text"}
    assert {(record.target, record.tokens) for record in ledger.lengths} == {
        (name, tokens) for name in graphs for tokens in (3, MAX_TOKENS)
    }
    assert all(record.samples >= 8 for record in ledger.lengths)
    page = render(read_facts(text_bundle))
    assert "By the length of a sentence</h2>" in page
    assert f"{MAX_TOKENS} tokens" in page


def test_a_graph_that_reads_its_padding_fails_at_short_sentences_alone(text_bundle_copy: Path) -> None:
    file = "graphs/text.fp32.onnx"
    model = onnx.load_from_string((text_bundle_copy / file).read_bytes())
    mask = next(tensor for tensor in model.graph.initializer if (numpy_helper.to_array(tensor) == -1e4).all())
    mask.CopyFrom(numpy_helper.from_array(np.zeros(tuple(mask.dims), np.float32), mask.name))
    put_file(text_bundle_copy, file, model.SerializeToString())
    found = {record.tokens: record for record in measured(text_bundle_copy) if record.target == "text.fp32"}
    assert {tokens: record.status for tokens, record in found.items()} == {3: "failed", MAX_TOKENS: "passed"}

    opened, ledger = Bundle.open(text_bundle_copy), read_ledger(text_bundle_copy)
    assert ledger is not None
    ledger = ledger.model_copy(update={"lengths": list(found.values())})
    manifest = judged(opened.manifest, ledger)
    verdict = manifest.graphs["text.fp32"].verdict
    assert verdict.status == "failed"
    assert verdict.reason.startswith("3 tokens: an error of ")
    assert manifest.graphs["text.int8-cpu"].verdict.status == "failed"  # it rests on the fp32 graph
    assert outcome(ledger, manifest) == "failed"


def test_limits_are_parts_of_what_the_score_varies_on_whole_samples(text_bundle: Path) -> None:
    ledger = read_ledger(text_bundle)
    assert ledger is not None
    sd = max(hop.output_sd or 0.0 for hop in ledger.hops if hop.target.startswith("text."))
    limits = {record.limit for record in ledger.lengths if record.target == "text.int8-cpu"}
    assert len(limits) == 1
    assert limits.pop() >= 0.25 * sd


def test_a_bundle_of_one_length_has_none(tiny_bundle: Path) -> None:
    assert measured(tiny_bundle) == []
    section = lengths_section(read_facts(tiny_bundle))
    assert not section.body
    assert section.missing == []


def test_scores_that_are_not_finite_fail() -> None:
    from dmdkit.parity.length_records import _records

    before = {3: np.zeros((2, 1), np.float32)}
    wrong = [np.full((2, 1), np.nan, np.float32), np.zeros((1, 1), np.float32), np.full((2, 1), 0.2, np.float32)]
    for after in wrong:
        assert _records("a", "b", before, {3: after}, 0.1, largest=True)[0].status == "failed"
    assert _records("a", "b", before, {3: np.full((2, 1), 0.05, np.float32)}, 0.1, largest=True)[0].status == "passed"
