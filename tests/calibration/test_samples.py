"""Which samples calibrate, and which data is refused (the command-line refusals are in tests/export)."""

import numpy as np
import pytest

from dmdkit.calibration import calibration_set
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
