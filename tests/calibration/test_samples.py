"""Which samples calibrate, and which data is refused (the command-line refusals are in tests/export)."""

from dataclasses import replace

import numpy as np
import pytest

from dmdkit.calibration import calibration_set
from dmdkit.calibration.samples import search_samples
from dmdkit.errors import CalibrationError
from dmdkit.runtime.manifest import InputRecord
from tests.conftest import tiny_dataset

RECORDS = {
    name: InputRecord(steps=6, features=width, minimum=[-9.0] * width, maximum=[9.0] * width)
    for name, width in {"text": 7, "audio": 4, "vision": 5}.items()
}


def test_samples_come_from_training_only_and_span_the_labels() -> None:
    data = tiny_dataset(train=200)
    chosen = calibration_set(data, RECORDS, count=40).split
    labels = data.splits["train"].labels
    assert len(chosen) == 40
    assert set(chosen.ids) <= set(data.splits["train"].ids)
    assert chosen.labels.min() == labels.min()
    assert chosen.labels.max() == labels.max()


def test_the_record_changes_with_the_content_and_names_the_samples() -> None:
    data = tiny_dataset(train=64)
    first = calibration_set(data, RECORDS).record("max", ["fusion.int8-trt"])
    data.splits["train"].text[5, 5, 5] += 1
    second = calibration_set(data, RECORDS).record("max", ["fusion.int8-trt"])
    assert first.sample_ids == second.sample_ids
    assert first.content_sha256 != second.content_sha256


@pytest.mark.parametrize("count", [0, 31])
def test_too_small_a_request_is_refused(count: int) -> None:
    with pytest.raises(CalibrationError, match="at least 32"):
        calibration_set(tiny_dataset(train=64), RECORDS, count=count)


def test_parity_samples_of_another_file_must_not_be_calibrated_on() -> None:
    data = tiny_dataset(train=64)
    shared = data.splits["train"].take(np.array([3], np.int64))
    with pytest.raises(CalibrationError, match="'train-3' also stands in the parity data"):
        calibration_set(data, RECORDS, held_out={"parity": shared}, count=64)


def test_the_set_covers_extremes_empties_and_every_part_of_the_labels() -> None:
    data = tiny_dataset(train=300)
    train = data.splits["train"]
    train.audio[7, 3, 2] = 8.5
    train.vision[11, 2, 1] = -8.5
    train.text[20:26] = 0.0
    found = calibration_set(data, RECORDS, count=64)
    assert {"train-7", "train-11"} <= set(found.split.ids)
    coverage = found.coverage
    assert (coverage.samples, coverage.available) == (64, 300)
    assert all(stratum.chosen > 0 for stratum in coverage.strata)
    assert sum(stratum.available for stratum in coverage.strata) == 300
    text = coverage.modalities["text"]
    assert text.empty_available == 6
    assert 0 < text.empty_chosen <= 6
    assert all(0.5 < item.range_share <= 1.0 for item in coverage.modalities.values())
    assert coverage.modalities["audio"].extremes > 0


def test_the_same_data_gives_the_same_samples() -> None:
    first, second = (calibration_set(tiny_dataset(train=200), RECORDS, count=48).split.ids for _ in range(2))
    assert first == second
    assert len(set(first)) == 48


def test_a_narrow_a_constant_and_a_one_sided_set_are_refused_and_the_own_data_is_not_for_its_labels() -> None:
    narrow = tiny_dataset(train=64)
    narrow.splits["train"].audio[:] *= 0.02
    with pytest.raises(CalibrationError, match=r"audio shows \d+% of the run's training range"):
        calibration_set(narrow, RECORDS)
    constant = tiny_dataset(train=64)
    constant.splits["train"].vision[:] = 1.5
    with pytest.raises(CalibrationError, match="vision is the same in every calibration sample"):
        calibration_set(constant, RECORDS)
    positive = tiny_dataset(train=64)
    np.abs(positive.splits["train"].labels, out=positive.splits["train"].labels)
    with pytest.raises(CalibrationError, match="labelled between -3 and -1"):
        calibration_set(positive, RECORDS)
    assert len(calibration_set(positive, RECORDS, own_sha256=positive.sha256).split) == 64


def test_every_class_must_be_there() -> None:
    data = tiny_dataset(train=64)
    splits = {name: replace(s, labels=(s.labels > 0).astype(np.int64)) for name, s in data.splits.items()}
    classes = replace(data, task="classification", label_range=None, num_classes=2, splits=splits)
    assert len(calibration_set(classes, RECORDS).coverage.strata) == 2
    splits["train"].labels[:] = 1
    with pytest.raises(CalibrationError, match="no calibration sample of class 0"):
        calibration_set(classes, RECORDS)


def test_search_samples_are_neither_calibrated_on_nor_judged_by() -> None:
    data = tiny_dataset(train=200, valid=60)
    chosen = calibration_set(data, RECORDS, count=64)
    name, validation = search_samples(data, chosen)
    assert name == "valid"
    assert set(validation.ids) <= set(data.splits["valid"].ids)
    name, validation = search_samples(tiny_dataset(train=200, valid=16), chosen)
    assert name == "train, without the calibration samples"
    assert not set(validation.ids) & set(chosen.split.ids)
    few = tiny_dataset(train=64)
    name, validation = search_samples(few, calibration_set(few, RECORDS))
    assert name == "the calibration samples"


def test_what_parity_is_measured_on_chooses_nothing_also_where_it_is_the_validation_split() -> None:
    data = tiny_dataset(train=200, valid=120)
    chosen = calibration_set(data, RECORDS, count=64)
    valid = data.splits["valid"]
    name, validation = search_samples(data, chosen, held_out={"valid": valid})
    assert name == "train, without the calibration samples"
    # A file of its own whose samples have other names but the same features.
    renamed = replace(valid.take(np.arange(60)), ids=tuple(f"other-{index}" for index in range(60)))
    name, validation = search_samples(data, chosen, held_out={"test": renamed})
    assert name == "valid"
    assert set(validation.ids) == set(valid.ids[60:])


def test_ids_numbered_anew_in_each_split_calibrate_and_the_search_still_has_its_samples() -> None:
    data = tiny_dataset(train=200, valid=60)
    splits = {name: replace(part, ids=tuple(map(str, range(len(part))))) for name, part in data.splits.items()}
    numbered = replace(data, splits=splits)
    parity = {"test": splits["test"]}
    chosen = calibration_set(numbered, RECORDS, held_out=parity, count=64)
    assert not chosen.ids_are_names
    name, validation = search_samples(numbered, chosen, held_out=parity)
    assert (name, len(validation)) == ("valid", 60)
    # The same sample under another number is found by its content.
    splits["test"].text[3], splits["test"].audio[3], splits["test"].vision[3] = (
        array[int(chosen.split.ids[0])] for array in splits["train"].features().values()
    )
    with pytest.raises(CalibrationError, match="has the same features as '3' in the test data"):
        calibration_set(numbered, RECORDS, held_out=parity, count=64)


def test_an_id_of_two_different_samples_in_one_file_is_no_reason_to_refuse_it() -> None:
    data = tiny_dataset(train=64)
    test = data.splits["test"]
    shared = replace(data, splits={**data.splits, "test": replace(test, ids=("train-3", *test.ids[1:]))})
    assert len(calibration_set(shared, RECORDS, held_out={"test": shared.splits["test"]}).split) == 64


def test_training_samples_as_parity_data_are_named_as_the_mistake() -> None:
    data = tiny_dataset(train=64)
    with pytest.raises(CalibrationError, match=r"measure parity on held-out ones \(--parity-split") as caught:
        calibration_set(data, RECORDS, held_out={"train": data.splits["train"]}, count=64)
    assert "calibrate with training samples only" not in str(caught.value)
