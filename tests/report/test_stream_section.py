"""The figure and the table of what streams answer before a sample ends."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from dmdkit.data.real_steps import prefixes, with_real_steps
from dmdkit.parity.ledger import read_ledger
from dmdkit.parity.stream_error import HeardError, error_by_share, stream_error
from dmdkit.report.facts import Facts, read_facts
from dmdkit.report.page import render
from dmdkit.report.stream_section import heard_chart, stream_section
from dmdkit.runtime import Runtime
from dmdkit.runtime.bundle import Bundle
from tests.stream_builders import KERNEL, STEPS, stream_dataset, stream_shape, stream_split


def test_the_error_at_a_share_is_that_of_the_last_answer_by_then() -> None:
    samples = [[(3, 1.0), (4, 3.0), (8, 5.0)], [(2, 0.0), (4, None)], []]
    found = error_by_share(samples, (0.25, 0.5, 1.0))
    assert found == [
        HeardError(share=0.5, error=1.5, samples=2),
        HeardError(share=1.0, error=5.0, samples=1),
    ]


def test_check_measures_what_streams_are_wrong_by(real_bundle: Path) -> None:
    ledger = read_ledger(real_bundle)
    assert ledger is not None
    split = stream_split()
    for array in split.features().values():
        array[np.arange(STEPS) >= 4 + np.arange(len(split))[:, None] % 6] = 0.0
    part = with_real_steps(stream_dataset(split), stream_shape().kernels).splits["test"]
    assert part.steps is not None
    with Runtime.open(real_bundle, graph="fp32") as runtime:
        errors = []
        for index, count in enumerate(part.steps):
            heard = int(0.7 * count + 1e-9)
            if heard >= KERNEL:
                score = runtime.predict(**{name: array[index, :heard] for name, array in part.features().items()}).score[0]
                errors.append(abs(float(score) - float(part.labels[index])))
    found = next(point for point in ledger.stream_by_share if point.share == 0.7)
    assert (found.samples, ledger.stream_by_share[-1].samples) == (len(errors), len(part))
    assert found.error == pytest.approx(np.mean(errors), abs=1e-5)
    assert not ledger.stream_own_labels
    own = dataclasses.replace(part, step_labels=np.full(part.text.shape[:2], 0.5, np.float32))
    measured = stream_error(Bundle.open(real_bundle), own)
    assert measured.stream_own_labels
    assert measured.stream_by_share[-1].error != pytest.approx(ledger.stream_by_share[-1].error)
    assert set(prefixes(own, KERNEL).labels.tolist()) == {0.5}


def test_a_page_shows_the_figure_with_named_axes_and_its_table(real_bundle: Path) -> None:
    facts = read_facts(real_bundle)
    body = str(stream_section(facts).body)
    assert "↑ mean absolute error" in body
    assert "share of the sample&#x27;s steps heard" in body or "share of the sample's steps heard" in body
    assert "against the label of the whole sample" in body
    points = facts.ledger.stream_by_share if facts.ledger else []
    assert body.count('scope="row"') == len(points) >= 5
    assert len(re.findall("<circle", body)) == len(points)
    assert "padded windows" not in body
    assert "Streams: before a sample ends</h2>" in render(facts)


def test_a_padded_model_s_page_says_what_its_streams_cost(stream_bundle: Path) -> None:
    body = str(stream_section(read_facts(stream_bundle)).body)
    assert "The model was trained on padded windows" in body
    assert '<th scope="col" class="num">padded windows</th>' in body


def test_one_point_is_drawn_and_without_any_the_page_says_how_to_measure(real_bundle: Path, facts: Facts) -> None:
    assert "h 0.1" in str(heard_chart([HeardError(share=1.0, error=0.0, samples=3)], "mean absolute error"))
    bare = read_facts(real_bundle)
    assert bare.ledger is not None
    bare = dataclasses.replace(bare, ledger=bare.ledger.model_copy(update={"stream_by_share": []}))
    assert "dmdkit check --data" in stream_section(bare).missing[0]
    assert not stream_section(facts).missing
    assert "Streams: before" not in render(facts)
