"""What an application may hand in, what it hears otherwise, and when features count as strange."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dmdkit.data import MODALITIES, load_dataset
from dmdkit.errors import InputError
from dmdkit.runtime.inputs import OUT_OF_RANGE_SHARE, RANGE_MARGIN, RangeGuard, check_inputs
from dmdkit.runtime.manifest import InputRecord
from tests.runtime.builders import features, input_records

RECORDS = input_records()


def test_one_sample_gets_a_batch_axis_and_a_batch_keeps_its_own():
    one, many = check_inputs(features(), RECORDS), check_inputs(features(3), RECORDS)
    assert not one.batched
    assert many.batched
    assert list(one.feed) == list(MODALITIES)
    assert one.feed["text"].shape == (1, 6, 7)
    assert many.feed["text"].shape == (3, 6, 7)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8, ">f4"])
def test_other_numbers_become_contiguous_float32(dtype: str):
    values = features(2)
    values["text"] = np.asfortranarray(values["text"]).astype(dtype)
    array = check_inputs(values, RECORDS).feed["text"]
    assert array.dtype == np.dtype(np.float32)
    assert array.flags.c_contiguous
    assert np.array_equal(array, values["text"].astype(np.float32))


def test_lists_are_taken_and_the_callers_arrays_are_not_written_to():
    values = features()
    copies = {name: array.copy() for name, array in values.items()}
    check_inputs({name: array.tolist() for name, array in values.items()}, RECORDS)
    check_inputs(values, RECORDS)
    assert all(np.array_equal(values[name], copies[name]) for name in values)


class Refusing:
    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise RuntimeError("this tensor is on another device")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((6, 8), np.float32), r"'text' has shape \(6, 8\), expected \(6, 7\) or \(batch, 6, 7\)"),
        (np.zeros((7, 6), np.float32), "has shape"),
        (np.zeros((0, 6, 7), np.float32), "has shape"),
        (np.zeros((1, 1, 6, 7), np.float32), "has shape"),
        (np.zeros(42, np.float32), "has shape"),
        (np.float32(1), "has shape"),
        (np.zeros((6, 7), bool), "has dtype bool, expected float32"),
        (np.zeros((6, 7), complex), "has dtype complex128"),
        (np.full((6, 7), "1"), "has dtype <U1"),
        (np.zeros((6, 7), object), "has dtype object"),
        ("text", "has dtype"),
        ([[1.0], [1.0, 2.0]], "'text' is no array"),
        (Refusing(), "'text' is no array: this tensor is on another device"),
    ],
)
def test_what_is_no_array_of_the_right_shape_and_numbers_is_refused_by_name(value: object, message: str):
    with pytest.raises(InputError, match=message):
        check_inputs({**features(), "text": value}, RECORDS)


def masked_in_part() -> np.ma.MaskedArray:
    array = np.ma.masked_array(features(2)["text"], mask=np.zeros((2, 6, 7), bool))
    array[1, 2, 3:5] = np.ma.masked
    return array


@pytest.mark.parametrize("wrap", [lambda a: a, list, lambda a: [list(row) for row in a]], ids=["array", "list", "nested list"])
def test_masked_values_are_refused_not_scored_as_if_they_were_there(wrap: Callable[[np.ma.MaskedArray], object]):
    with pytest.raises(InputError, match=r"'text' has 2 masked values.*fill them before predicting"):
        check_inputs({**features(2), "text": wrap(masked_in_part())}, RECORDS)


def test_a_masked_array_with_nothing_masked_is_an_ordinary_one():
    values = features(2)
    given = {name: np.ma.masked_array(array) for name, array in values.items()}
    found = check_inputs(given, RECORDS).feed
    for name, array in values.items():
        assert not isinstance(found[name], np.ma.MaskedArray)
        assert np.array_equal(found[name], array)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_value_that_is_not_finite_in_float32_is_refused_with_its_place(bad: float):
    values: dict[str, np.ndarray] = {name: array.astype(np.float64) for name, array in features(3).items()}
    values["audio"][2, 1, 3] = bad
    with pytest.raises(InputError, match=r"'audio' holds -?(nan|inf) at sample 2, step 1, feature 3"):
        check_inputs(values, RECORDS)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="unknown input 'speech'; the bundle takes text, audio, vision"):
        check_inputs({**features(), "speech": 1}, RECORDS)


@pytest.mark.parametrize("absent", [{"audio": None}, "left out"])
def test_an_absent_modality_is_an_error_unless_trained_absent(absent: object):
    values: dict[str, object] = {**features(2)}
    del values["audio"]
    values |= absent if isinstance(absent, dict) else {}
    with pytest.raises(InputError, match="'audio' is absent, but this model was not trained without it"):
        check_inputs(values, RECORDS)
    found = check_inputs(values, input_records(trained_absent=True))
    assert found.feed["audio"].shape == (2, 6, 4)
    assert not found.feed["audio"].any()


def test_all_modalities_absent_is_an_error_also_where_each_may_be():
    with pytest.raises(InputError, match="all inputs are absent"):
        check_inputs(dict.fromkeys(MODALITIES), input_records(trained_absent=True))


def test_inputs_that_disagree_on_the_batch_are_refused_with_the_shapes_as_given():
    with pytest.raises(InputError, match=r"disagree on the batch: text \(2, 6, 7\), audio \(3, 6, 4\)"):
        check_inputs({**features(2), "audio": features(3)["audio"]}, RECORDS)
    with pytest.raises(InputError, match=r"disagree on the batch: text \(1, 6, 7\), audio \(6, 4\)"):
        check_inputs({**features(1), "audio": features()["audio"]}, RECORDS)


def test_training_like_features_raise_no_alarm_and_tenfold_ones_do():
    guard, values = RangeGuard(RECORDS), features(4)
    assert guard.alarms(values) == {}
    values["audio"] = values["audio"] * np.float32(10)
    assert set(guard.alarms(values)) == {"audio"}
    assert guard.alarms(values)["audio"] == pytest.approx(0.8, abs=0.15)


def test_a_value_is_outside_only_beyond_the_margin():
    guard = RangeGuard(RECORDS)
    limit = 1 + 2 * RANGE_MARGIN
    for factor, expected in ((0.999, 0.0), (1.001, 1.0)):
        for sign in (-1, 1):
            values = {name: np.full_like(array, sign * limit * factor) for name, array in features(1).items()}
            assert set(guard.shares(values).values()) == {expected}


def test_an_alarm_needs_the_share_and_padding_does_not_count():
    guard = RangeGuard({"text": InputRecord(steps=50, features=2, minimum=[5.0, 5.0], maximum=[6.0, 6.0])})
    values = {"text": np.full((1, 50, 2), 5.5, np.float32)}
    values["text"][:, :25] = 0.0  # padding, and outside of 5 to 6
    assert guard.alarms(values) == {}
    values["text"][0, -1, 0] = 99.0  # one of fifty values that are not padding
    assert guard.alarms(values) == {"text": pytest.approx(OUT_OF_RANGE_SHARE)}
    values["text"][:, 24] = 5.5
    assert guard.alarms(values) == {}


def test_one_strange_sample_is_not_hidden_by_its_batch():
    guard, values = RangeGuard(RECORDS), features(200)
    values["vision"][17] = 100.0
    assert guard.alarms(values) == {"vision": 1.0}
    assert guard.shares(values)["vision"] == pytest.approx(1 / 200)


def test_a_modality_of_zeros_is_reported_unless_it_was_trained_absent():
    values = features(2)
    values["audio"][1] = 0.0
    assert RangeGuard(RECORDS).alarms(values) == {"audio": 1.0}
    assert RangeGuard(input_records(trained_absent=True)).alarms(values) == {}


def test_a_constant_column_allows_for_rounding_and_nothing_else():
    guard = RangeGuard({"text": InputRecord(steps=1, features=1, minimum=[3.0], maximum=[3.0])})
    assert guard.alarms({"text": np.full((1, 1, 1), np.nextafter(np.float32(3), np.float32(4)))}) == {}
    assert guard.alarms({"text": np.full((1, 1, 1), 3.01, np.float32)}) == {"text": 1.0}


def test_a_modality_without_recorded_range_is_not_guarded():
    guard = RangeGuard({"text": InputRecord(steps=6, features=7)})
    assert guard.alarms({"text": np.full((1, 6, 7), 1e30, np.float32)}) == {}


def test_ranges_as_wide_as_float32_do_not_overflow():
    guard = RangeGuard(input_records(low=-3.4e38, high=3.4e38))
    assert guard.alarms({name: array * np.float32(3e38) for name, array in features(1).items()}) == {}


def test_held_out_recordings_hardly_alarm_and_wrongly_scaled_ones_nearly_always(mosi_clean: Path):
    splits = load_dataset(mosi_clean, task="regression", label_range=(-3.0, 3.0)).splits
    records = {}
    for name, array in splits["train"].features().items():
        steps = array[(array != 0).any(-1)]
        records[name] = InputRecord(
            steps=array.shape[1], features=array.shape[2], minimum=steps.min(0).tolist(), maximum=steps.max(0).tolist()
        )
    guard, held_out = RangeGuard(records), splits["test"].features()

    def alarm_rate(modality: str, factor: float) -> float:
        samples = (held_out[modality][i : i + 1] * np.float32(factor) for i in range(len(splits["test"])))
        rest = {name: array[:1] for name, array in held_out.items()}
        return float(np.mean([modality in guard.alarms({**rest, modality: sample}) for sample in samples]))

    for name in MODALITIES:
        assert alarm_rate(name, 1.0) < 0.05, name
        assert alarm_rate(name, 10.0) > 0.95, name
