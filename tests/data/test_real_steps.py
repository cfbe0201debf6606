"""Padding moves behind a sample's own steps; silence inside it stays; a sample too short for its kernel is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmdkit.data.real_steps import with_real_steps
from dmdkit.errors import DataError
from dmdkit.records import PerModality
from tests.conftest import tiny_dataset

KERNELS = PerModality(text=3, audio=3, vision=3)


def test_steps_move_to_the_front_and_silence_inside_stays() -> None:
    dataset = tiny_dataset(train=8, valid=4, test=4)
    before = dataset.splits["train"]
    for array in before.features().values():
        array[0, 4] = 0.0  # silence between sounds
    after = with_real_steps(dataset, KERNELS).splits["train"]
    assert after.steps is not None
    np.testing.assert_array_equal(after.steps, [4, 4, 6, 6, 6, 6, 6, 6])
    for name, array in after.features().items():
        np.testing.assert_array_equal(array[0, :4], before.features()[name][0, 2:])
        assert not array[0, 4:].any()
        np.testing.assert_array_equal(array[7], before.features()[name][7])
    assert with_real_steps(dataset, KERNELS).padding_side == dict.fromkeys(after.features(), "right")


def test_a_sample_shorter_than_its_kernel_is_named() -> None:
    dataset = tiny_dataset(train=8, valid=4, test=4)
    for array in dataset.splits["valid"].features().values():
        array[2, :4] = 0.0
    with pytest.raises(DataError, match="valid sample 'valid-2' has 2 steps, fewer than the kernel of 3"):
        with_real_steps(dataset, KERNELS)


def test_kernels_that_differ_are_refused_with_the_recipe_that_allows_it() -> None:
    with pytest.raises(DataError, match=r"kernels differ \(text 5, audio 1, vision 3\).*--set model.kernels.audio=5"):
        with_real_steps(tiny_dataset(), PerModality(text=5, audio=1, vision=3))


def test_padding_on_different_sides_is_refused() -> None:
    sides = {"text": "left", "audio": "right", "vision": "none"}
    with pytest.raises(DataError, match="different sides"):
        with_real_steps(replace(tiny_dataset(), padding_side=sides), KERNELS)  # type: ignore[arg-type]
