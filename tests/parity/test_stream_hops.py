"""Step graphs stand in the ledger with hops at every prefix, and have verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmdkit.data import Split
from dmdkit.data.real_steps import with_real_steps
from dmdkit.errors import InputError
from dmdkit.parity import stream_hops
from dmdkit.parity.ledger import read_ledger
from dmdkit.parity.stream_hops import window_answers
from dmdkit.runtime import Runtime
from dmdkit.runtime.bundle import Bundle
from tests.stream_builders import KERNEL, SAMPLES, STEPS, stream_dataset, stream_shape, stream_split


def test_a_padded_model_s_stream_is_compared_with_pytorch_at_every_prefix(stream_bundle: Path) -> None:
    ledger = read_ledger(stream_bundle)
    assert ledger is not None
    hop = next(hop for hop in ledger.hops if hop.target == "stream.fp32")
    assert hop.source == "pytorch.fp32"
    assert hop.samples == SAMPLES * (STEPS - KERNEL + 1)
    assert hop.max_error is not None
    assert hop.max_error < 1e-5
    assert set(ledger.stream_cost) == {"windows", "streams"}
    record = Bundle.open(stream_bundle).manifest.stream
    assert record is not None
    assert record.graphs["fp32"].verdict.status == "passed"


def test_a_real_model_s_stream_is_compared_with_its_own_windows(real_bundle: Path) -> None:
    ledger = read_ledger(real_bundle)
    assert ledger is not None
    hops = {hop.target: hop for hop in ledger.hops}
    assert hops["fusion.fp32"].status == hops["explain.fp32"].status == "passed"
    assert (hops["stream.fp32"].source, hops["stream.int8-cpu"].source) == ("explain.fp32", "stream.fp32")
    assert hops["stream.fp32"].max_error is not None
    assert hops["stream.fp32"].max_error < 1e-5
    record = Bundle.open(real_bundle).manifest.stream
    assert record is not None
    assert record.graphs["fp32"].verdict.status == "passed"


def test_a_real_model_s_window_takes_fewer_steps_and_answers_as_its_stream(real_bundle: Path) -> None:
    rows = {name: array[0] for name, array in stream_split(9).features().items()}
    with Runtime.open(real_bundle, graph="fp32") as runtime:
        assert runtime.self_check().passed
        assert not any("padded" in note for note in runtime.notes)
        for count in range(KERNEL, STEPS + 1):
            part = {name: array[:count] for name, array in rows.items()}
            answer = runtime.stream().push(**part)
            assert answer is not None
            np.testing.assert_allclose(runtime.predict(**part).score, answer.score, atol=1e-5)
            behind = {
                name: np.concatenate([array, np.zeros((STEPS - count, array.shape[1]), np.float32)])
                for name, array in part.items()
            }
            np.testing.assert_array_equal(runtime.predict(**behind).score, runtime.predict(**part).score)
        with pytest.raises(InputError, match="has 2 steps; the model needs at least 3"):
            runtime.predict(**{name: array[:2] for name, array in rows.items()})
        with pytest.raises(InputError, match="different numbers of steps"):
            runtime.predict(**{**rows, "audio": rows["audio"][:4]})


def test_a_reader_that_does_not_know_real_steps_refuses_the_bundle(real_bundle: Path) -> None:
    assert [entry.name for entry in Bundle.open(real_bundle).manifest.requires] == ["real-steps"]


def test_a_few_samples_at_a_time_are_compared_as_all_at_once(real_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prefix of every sample at full length would not fit into memory where samples are long."""
    bundle, split = Bundle.open(real_bundle), with_real_steps(stream_dataset(), stream_shape().kernels).splits["test"]
    held: list[int] = []

    def watched(bundle: Bundle, windows: Split) -> dict[str, np.ndarray]:
        held.append(len(windows))
        return window_answers(bundle, windows)

    monkeypatch.setattr(stream_hops, "window_answers", watched)
    together = stream_hops.stream_hops(bundle, split, None, "", None, lambda: None)
    monkeypatch.setattr(stream_hops, "_PREFIX_BYTES", 1)
    apart = stream_hops.stream_hops(bundle, split, None, "", None, lambda: None)
    assert (held[0], max(held[1:])) == (len(split) * (STEPS - KERNEL + 1), STEPS - KERNEL + 1)
    for one, all_ in zip(apart, together, strict=True):
        assert one.samples == all_.samples
        assert one.status == all_.status
        assert one.max_error == pytest.approx(all_.max_error, abs=1e-6)


def test_copies_of_one_sample_prove_no_stream(real_bundle: Path) -> None:
    split = with_real_steps(stream_dataset(), stream_shape().kernels).splits["test"]
    copies = split.take(np.zeros(SAMPLES, np.int64))
    hops = stream_hops.stream_hops(Bundle.open(real_bundle), copies, None, "", 60, lambda: None)
    assert {hop.status for hop in hops if hop.target == "stream.fp32"} == {"unverified"}
