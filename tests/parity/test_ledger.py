"""The ledger measures every hop, and its verdicts follow the evidence."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dmdkit.data import Split, load_dataset
from dmdkit.errors import BundleError, DataError
from dmdkit.files import locked_directory
from dmdkit.parity.compare import HopRecord
from dmdkit.parity.ledger import Ledger, _subset_metrics, keep, measure, read_ledger, record, run_graph
from dmdkit.parity.verdicts import outcome
from dmdkit.runtime import Runtime
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.manifest import Manifest
from tests.runtime.builders import put_file, set_verdict


@pytest.fixture(scope="module")
def held_out(tiny_data: Path) -> Split:
    return load_dataset(tiny_data, task="regression", label_range=(-3.0, 3.0)).splits["test"]


def measured(bundle: Path, split: Split | None, *, prove_fp32: bool = True, **options: Any) -> tuple[Ledger, Manifest]:
    """Measures and records; where asked, the fp32 graph itself stands in for the PyTorch model."""
    opened = Bundle.open(bundle)

    def reference(part: Split) -> dict[str, np.ndarray]:
        return run_graph(opened, "explain.fp32", part.features(), lambda: None)

    ledger = measure(
        opened,
        split=split,
        split_name="test",
        source="tiny",
        data_sha256="a" * 64,
        reference=reference if prove_fp32 else None,
        **options,
    )
    return ledger, record(bundle, opened.manifest, ledger)


def statuses(manifest: Manifest) -> dict[str, str]:
    return {name: graph.verdict.status for name, graph in manifest.graphs.items()}


def with_status(ledger: Ledger, **status: str) -> Ledger:
    """The ledger with other verdicts on some hops; names are written with underscores."""
    wanted = {name.replace("__", ".").replace("_", "-"): value for name, value in status.items()}
    hops = [
        h.model_copy(update={"status": wanted[h.target], "reason": "as said"}) if h.target in wanted else h for h in ledger.hops
    ]
    return ledger.model_copy(update={"hops": hops})


def test_every_graph_is_proven_on_held_out_samples_and_the_report_says_so(bundle_copy: Path, held_out: Split):
    set_verdict(bundle_copy, "unverified")
    ledger, manifest = measured(bundle_copy, held_out)
    assert set(statuses(manifest).values()) == {"passed"}
    assert outcome(ledger, manifest) == "passed"
    assert [(hop.source, hop.target, hop.kind) for hop in ledger.hops] == [
        ("pytorch.fp32", "fusion.fp32", "measured"),
        ("fusion.fp32", "fusion.int8-cpu", "measured"),
        ("fusion.fp32", "fusion.int8-trt", "simulated"),
        ("pytorch.fp32", "explain.fp32", "measured"),
        ("explain.fp32", "explain.int8-cpu", "measured"),
        ("explain.fp32", "explain.int8-trt", "simulated"),
    ]
    assert Ledger.model_validate_json((bundle_copy / "report/parity.json").read_text()) == ledger
    assert Bundle.open(bundle_copy).manifest == manifest
    assert manifest.graphs["fusion.fp32"].verdict.samples == 60
    assert manifest.graphs["fusion.fp32"].verdict.data_sha256 == "a" * 64


def test_golden_samples_alone_prove_nothing_about_a_new_bundle(bundle_copy: Path):
    set_verdict(bundle_copy, "unverified")
    ledger, manifest = measured(bundle_copy, None)
    assert set(statuses(manifest).values()) == {"unverified"}
    assert outcome(ledger, manifest) == "unverified"


def test_without_the_run_the_first_hop_is_recorded_and_new_lowerings_are_not_proven(bundle_copy: Path, held_out: Split):
    set_verdict(bundle_copy, "unverified")
    ledger, manifest = measured(bundle_copy, held_out, prove_fp32=False)
    first = ledger.hops[0]
    assert (first.kind, first.status, first.samples) == ("recorded", "unverified", 16)
    assert [hop.status for hop in ledger.hops[1:3]] == ["passed", "passed"]
    assert set(statuses(manifest).values()) == {"unverified"}
    assert manifest.graphs["fusion.int8-cpu"].verdict.reason.startswith("fusion.fp32: ")
    assert outcome(ledger, manifest) == "unverified"


def test_lowerings_are_proven_without_the_run_once_fp32_has_been(bundle_copy: Path, held_out: Split):
    set_verdict(bundle_copy, "unverified", "fusion.int8-cpu", "fusion.int8-trt")
    ledger, manifest = measured(bundle_copy, held_out, prove_fp32=False)
    assert set(statuses(manifest).values()) == {"passed"}
    assert outcome(ledger, manifest) == "passed"


def test_less_evidence_does_not_undo_a_proof(bundle_copy: Path, held_out: Split):
    ledger, manifest = measured(bundle_copy, held_out.take(np.arange(10)))
    assert set(statuses(manifest).values()) == {"passed"}
    assert outcome(ledger, manifest) == "unverified"  # what was measured now proves nothing


def test_less_evidence_does_not_undo_a_failure_either(bundle_copy: Path, held_out: Split):
    set_verdict(bundle_copy, "failed", "fusion.int8-cpu")
    ledger, manifest = measured(bundle_copy, held_out.take(np.arange(10)))
    assert statuses(manifest)["fusion.int8-cpu"] == "failed"
    assert outcome(ledger, manifest) == "failed"
    ledger, manifest = measured(bundle_copy, held_out)
    assert statuses(manifest)["fusion.int8-cpu"] == "passed"


def test_a_failed_lowering_fails_alone_and_is_no_longer_chosen(bundle_copy: Path, held_out: Split):
    ledger, manifest = measured(bundle_copy, held_out)
    ledger = with_status(ledger, fusion__int8_cpu="failed")
    manifest = record(bundle_copy, manifest, ledger)
    assert {name for name, status in statuses(manifest).items() if status != "passed"} == {"fusion.int8-cpu"}
    assert outcome(ledger, manifest) == "failed"
    with Runtime.open(bundle_copy) as runtime:
        assert runtime.graph == "fusion.fp32"


def test_a_failed_fp32_graph_fails_everything_made_from_it(bundle_copy: Path, held_out: Split):
    ledger, manifest = measured(bundle_copy, held_out)
    manifest = record(bundle_copy, manifest, with_status(ledger, explain__fp32="failed"))
    failed = {name for name, status in statuses(manifest).items() if status == "failed"}
    assert failed == {"explain.fp32", "explain.int8-cpu", "explain.int8-trt", "gd_homo.fp32", "gd_hetero.fp32"}
    assert manifest.graphs["explain.int8-trt"].verdict.reason == "explain.fp32: as said"


def test_a_reference_that_differs_fails_the_first_hop(bundle_copy: Path, held_out: Split):
    opened = Bundle.open(bundle_copy)
    truth = run_graph(opened, "explain.fp32", held_out.features(), lambda: None)
    truth["edges_hetero"] = truth["edges_hetero"] + np.float32(0.03)
    ledger = measure(opened, split=held_out, split_name="test", source="", data_sha256=None, reference=lambda _: truth)
    assert {hop.target: hop.status for hop in ledger.hops if hop.source == "pytorch.fp32"} == {
        "fusion.fp32": "passed",
        "explain.fp32": "failed",
    }


def test_a_gd_unit_graph_that_gives_other_edges_fails_by_itself(bundle_copy: Path, held_out: Split):
    name = "graphs/gd_homo.onnx"
    model = onnx.load(bundle_copy / name)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(3), tensor.name))
    put_file(bundle_copy, name, model.SerializeToString())
    ledger, manifest = measured(bundle_copy, held_out)
    assert {n for n, status in statuses(manifest).items() if status == "failed"} == {"gd_homo.fp32"}
    assert ledger.hops[-1].target == "gd_homo.fp32"
    assert outcome(ledger, manifest) == "failed"


def test_samples_of_another_size_are_refused_with_both_sizes(bundle_copy: Path, held_out: Split):
    short = Split(held_out.ids, held_out.text[:, 1:], held_out.audio, held_out.vision, held_out.labels)
    with pytest.raises(DataError, match=r"text has 5 steps of 7 features, the bundle .* takes 6 of 7"):
        measured(bundle_copy, short)


def test_features_far_outside_are_noted_in_the_ledger_and_prove_nothing(bundle_copy: Path, held_out: Split):
    strange = Split(held_out.ids, held_out.text, held_out.audio * np.float32(30), held_out.vision, held_out.labels)
    ledger, _ = measured(bundle_copy, strange)
    assert set(ledger.out_of_range) == {"audio"}
    assert "passed" not in {hop.status for hop in ledger.hops}
    assert any("% of the audio values lie outside the training range" in hop.reason for hop in ledger.hops)
    assert measured(bundle_copy, held_out)[0].out_of_range == {}


def test_progress_hears_of_every_graph(bundle_copy: Path, held_out: Split):
    heard: list[int] = []
    measured(bundle_copy, held_out, on_step=lambda: heard.append(1))
    assert len(heard) == 8 + 7  # graphs, and subsets of the modalities


def test_a_bundle_that_cannot_be_written_says_so(bundle_copy: Path, held_out: Split):
    ledger, manifest = measured(bundle_copy, held_out)

    shutil.rmtree(bundle_copy / "report")
    (bundle_copy / "report").write_bytes(b"")
    with pytest.raises(BundleError, match="cannot write"):
        record(bundle_copy, manifest, ledger)


def a_hop(status: str, kind: str) -> HopRecord:
    return HopRecord(source="a", target="fusion.fp32", kind=kind, samples=60, worst_sample="s", status=status, reason="")


@pytest.mark.parametrize(
    ("hops", "verdict", "expected"),
    [
        ([("passed", "measured")], "passed", "passed"),
        ([("passed", "measured")], "unverified", "unverified"),
        ([("unverified", "recorded")], "passed", "passed"),
        ([("unverified", "measured")], "passed", "unverified"),
        ([("unverified", "simulated")], "passed", "unverified"),
        ([("unverified", "recorded")], "unverified", "unverified"),
        ([("passed", "measured"), ("failed", "simulated")], "passed", "failed"),
        ([("failed", "recorded")], "passed", "failed"),
        ([("unverified", "recorded")], "failed", "failed"),
    ],
)
def test_the_outcome_is_the_worst_of_what_was_measured_and_what_is_on_record(
    bundle_copy: Path, hops: list[tuple[str, str]], verdict: str, expected: str
):
    set_verdict(bundle_copy, verdict, "fusion.fp32")
    ledger = Ledger(
        created="", data="", data_sha256=None, split="", samples=60, out_of_range={}, hops=[a_hop(*hop) for hop in hops]
    )
    assert outcome(ledger, Bundle.open(bundle_copy).manifest) == expected


def test_the_report_is_json_even_when_a_graph_gives_nan(bundle_copy: Path, held_out: Split):
    name = "graphs/fusion.int8-cpu.onnx"
    model = onnx.load(bundle_copy / name)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 1:
            values = onnx.numpy_helper.to_array(tensor) * np.float32("nan")
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    put_file(bundle_copy, name, model.SerializeToString())
    _, manifest = measured(bundle_copy, held_out)
    assert statuses(manifest)["fusion.int8-cpu"] == "failed"
    report = json.loads((bundle_copy / "report/parity.json").read_text(), parse_constant=pytest.fail)
    assert "not finite" in report["hops"][1]["reason"]


def test_a_verdict_is_not_kept_in_a_bundle_that_is_another_by_now(bundle_copy: Path) -> None:
    measured, ledger = Bundle.open(bundle_copy), read_ledger(bundle_copy)
    assert ledger is not None
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["graphs"]["fusion.fp32"]["verdict"]["reason"] = "of a check beside this"
    path.write_text(json.dumps(manifest))
    keep(measured, ledger)
    manifest["files"]["graphs/fusion.fp32.onnx"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="was changed while it was measured; check it again"):
        keep(measured, ledger)
    assert json.loads(path.read_text()) == manifest
    with locked_directory(bundle_copy), pytest.raises(BundleError, match="another command is changing it"):
        keep(measured, ledger)


def test_metrics_with_only_some_modalities_stand_in_the_ledger(tiny_bundle: Path, held_out: Split) -> None:
    opened = Bundle.open(tiny_bundle)
    options: dict[str, Any] = {"split_name": "test", "source": "tiny", "data_sha256": None}
    found = measure(opened, split=held_out, **options)
    assert next(iter(found.subsets)) == "text"
    assert len(found.subsets) == 7
    features = held_out.features() | {"audio": np.zeros_like(held_out.audio)}
    scores = run_graph(opened, "fusion.fp32", features, lambda: None)["score"][:, 0]
    assert found.subsets["text+vision"]["mae"] == pytest.approx(float(np.abs(scores - held_out.labels).mean()), rel=1e-5)
    after = next(hop for hop in found.hops if hop.target == "fusion.int8-cpu").metrics
    assert found.subsets["text+audio+vision"]["mae"] == after["mae"].before
    assert measure(opened, split=None, **options).subsets == {}


def test_samples_without_labels_have_no_metrics_of_subsets(tiny_bundle: Path, held_out: Split) -> None:
    unlabelled = replace(held_out, labels=np.full_like(held_out.labels, np.nan))
    assert _subset_metrics(Bundle.open(tiny_bundle), unlabelled, lambda: None) == {}
