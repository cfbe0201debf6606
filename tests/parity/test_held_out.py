"""No verdict rests on what trained, chose or calibrated anything, whatever the samples are called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmdkit.data import Split, load_dataset
from dmdkit.data.fingerprints import SeenSamples
from dmdkit.errors import BundleError
from dmdkit.parity.held_out import CALIBRATION_FILE, SEEN_FILE, held_out
from dmdkit.parity.ledger import measure
from dmdkit.parity.verdicts import judged, outcome
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.manifest import read_manifest, write_manifest
from tests.runtime.builders import put_file


@pytest.fixture
def train(tiny_data: Path) -> Split:
    return load_dataset(tiny_data).splits["train"]


@pytest.fixture
def held(tiny_data: Path) -> Split:
    return load_dataset(tiny_data).splits["test"]


def renamed(split: Split, prefix: str = "other-") -> Split:
    return replace(split, ids=tuple(f"{prefix}{index}" for index in range(len(split))))


def joined(first: Split, second: Split) -> Split:
    arrays = {name: np.concatenate([array, second.features()[name]]) for name, array in first.features().items()}
    return Split((*first.ids, *second.ids), **arrays, labels=np.concatenate([first.labels, second.labels]))


def test_calibration_samples_are_known_by_id_and_by_content(tiny_bundle: Path, train: Split, held: Split):
    bundle = Bundle.open(tiny_bundle)
    assert held_out(bundle, train).split is None
    assert held_out(bundle, renamed(train)).split is None, "other names"
    assert held_out(bundle, replace(train, audio=train.audio * np.float32(1.001))).split is None, "extracted anew"
    assert held_out(bundle, held).split.ids == held.ids
    assert held_out(bundle, joined(renamed(train), held)).split.ids == held.ids


def test_ids_that_count_rows_leave_nothing_out(bundle_copy: Path, train: Split, held: Split):
    numbered = {"ids_are_names": True, "samples": {str(index): "0" * 64 for index in range(64)}}
    put_file(bundle_copy, CALIBRATION_FILE, json.dumps(numbered).encode())
    assert len(held_out(Bundle.open(bundle_copy), renamed(held, "")).split) == 60
    content = json.loads(Bundle.open(bundle_copy).read(CALIBRATION_FILE))
    put_file(bundle_copy, CALIBRATION_FILE, json.dumps({**content, "ids_are_names": False}).encode())
    shuffled = renamed(held, "").take(np.arange(60)[::-1].copy())
    assert len(held_out(Bundle.open(bundle_copy), shuffled).split) == 60


def test_a_bundle_made_before_content_was_kept_still_knows_the_ids(bundle_copy: Path, train: Split, held: Split):
    manifest = read_manifest(bundle_copy)
    files = {name: record for name, record in manifest.files.items() if name != CALIBRATION_FILE}
    write_manifest(bundle_copy, manifest.model_copy(update={"files": files}))
    (bundle_copy / CALIBRATION_FILE).unlink()
    bundle = Bundle.open(bundle_copy)
    assert held_out(bundle, joined(train, held)).split.ids == held.ids


def test_a_damaged_record_is_an_error_not_an_empty_one(bundle_copy: Path, held: Split):
    put_file(bundle_copy, CALIBRATION_FILE, b'{"samples": 3}')
    with pytest.raises(BundleError, match=r"calibration/samples\.json: damaged"):
        held_out(Bundle.open(bundle_copy), held)


def test_a_damaged_record_of_what_made_the_model_is_an_error(bundle_copy: Path, held: Split):
    put_file(bundle_copy, SEEN_FILE, b'{"seen": {"trained": {"ids_are_names": true, "samples": {"a": "AAAA"}}}}')
    with pytest.raises(BundleError, match=r"provenance/samples\.json: damaged: .*expected 96 bytes, found 3"):
        held_out(Bundle.open(bundle_copy), held)


@pytest.mark.parametrize("change", [lambda a: a.astype(np.float16).astype(np.float32), lambda a: a * np.float32(1.00001)])
def test_calibration_samples_are_known_rounded_scaled_and_renumbered(tiny_bundle: Path, train: Split, held: Split, change):
    near = replace(renamed(train, ""), **{name: change(array) for name, array in train.features().items()})
    bundle = Bundle.open(tiny_bundle)
    found = held_out(bundle, joined(near, held))
    assert (found.split.ids, found.left_out) == (held.ids, {"calibrated": 64})


def test_what_chose_the_epoch_is_left_out(tiny_bundle: Path, tiny_data: Path, held: Split):
    valid = load_dataset(tiny_data).splits["valid"]
    found = held_out(Bundle.open(tiny_bundle), joined(renamed(valid), held))
    assert (found.split.ids, found.left_out) == (held.ids, {"validated": 16})


def test_what_trained_is_left_out_where_nothing_was_calibrated(bundle_copy: Path, train: Split, held: Split):
    seen = SeenSamples.model_validate_json((bundle_copy / SEEN_FILE).read_bytes())
    assert set(seen.seen) == {"trained", "validated", "calibrated"}
    put_file(bundle_copy, SEEN_FILE, SeenSamples(seen={"trained": seen.seen["trained"]}).model_dump_json().encode())
    manifest = read_manifest(bundle_copy)
    files = {name: record for name, record in manifest.files.items() if name != CALIBRATION_FILE}
    write_manifest(bundle_copy, manifest.model_copy(update={"files": files, "calibration": None}))
    bundle = Bundle.open(bundle_copy)
    found = held_out(bundle, joined(renamed(train), held))
    assert (found.split.ids, found.left_out) == (held.ids, {"trained": 64})
    ledger = measure(bundle, split=renamed(train), split_name="test", source="x", data_sha256="a" * 64)
    assert (ledger.split, ledger.calibration_samples, ledger.seen_samples) == ("golden", 0, {"trained": 64})
    assert outcome(ledger, judged(bundle.manifest, ledger)) == "unverified"


def test_a_bundle_without_fingerprints_knows_exact_copies_alone(bundle_copy: Path, train: Split, held: Split):
    manifest = read_manifest(bundle_copy)
    files = {name: record for name, record in manifest.files.items() if name != SEEN_FILE}
    write_manifest(bundle_copy, manifest.model_copy(update={"files": files}))
    bundle = Bundle.open(bundle_copy)
    near = replace(train, audio=train.audio * np.float32(1.00001))
    assert held_out(bundle, joined(renamed(train), held)).left_out == {"calibrated": 64}
    assert held_out(bundle, joined(renamed(near), held)).left_out == {}


def test_what_calibrated_is_left_out_of_the_ledger_and_counted(tiny_bundle: Path, train: Split, held: Split):
    bundle = Bundle.open(tiny_bundle)
    few = held.take(np.arange(20))
    given = joined(renamed(train), few)
    ledger = measure(bundle, split=given, split_name="train", source="x", data_sha256="a" * 64)
    assert (ledger.samples, ledger.calibration_samples, ledger.split) == (20, 64, "train")
    assert {hop.status for hop in ledger.hops if hop.kind != "recorded"} == {"unverified"}
    assert outcome(ledger, judged(bundle.manifest, ledger)) == "unverified"


def test_where_nothing_is_left_the_golden_samples_are_compared_and_prove_nothing(tiny_bundle: Path, train: Split):
    bundle = Bundle.open(tiny_bundle)
    ledger = measure(bundle, split=train, split_name="train", source="x", data_sha256="a" * 64)
    assert (ledger.samples, ledger.calibration_samples, ledger.split, ledger.data_sha256) == (16, 64, "golden", None)
    assert outcome(ledger, judged(bundle.manifest, ledger)) == "unverified"


def test_copies_of_one_sample_prove_and_disprove_nothing(tiny_bundle: Path, held: Split):
    copies = renamed(held.take(np.full(60, 7)))
    ledger = measure(Bundle.open(tiny_bundle), split=copies, split_name="test", source="x", data_sha256=None)
    measured = [hop for hop in ledger.hops if hop.kind != "recorded"]
    assert measured
    for hop in measured:
        assert (hop.status, hop.reason) == ("unverified", "1 different samples among 60, 50 are needed to prove anything")


def test_names_of_training_samples_alone_leave_nothing_out(tiny_bundle: Path, train: Split, held: Split):
    found = held_out(Bundle.open(tiny_bundle), replace(held, ids=train.ids[:60]))
    assert found.split is not None
    assert (len(found.split), found.left_out, found.named_alike, found.distinct) == (60, {}, 60, 60)


def test_near_copies_of_a_few_samples_prove_nothing(tiny_bundle: Path, held: Split):
    rng = np.random.default_rng(0)
    copies = renamed(held.take(np.repeat([3, 7], 30)))
    shaken = {
        name: (array + (array != 0) * rng.normal(0, 1e-4, array.shape)).astype(np.float32)
        for name, array in copies.features().items()
    }
    found = held_out(Bundle.open(tiny_bundle), replace(copies, **shaken))
    assert found.distinct == 2
