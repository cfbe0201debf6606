"""What counts as words for a text encoder, whichever library it comes from."""

from __future__ import annotations

import numpy as np
import pytest

from dmdkit.runtime.inputs import is_for_text_encoder, plain_ids


class Tensor:
    """An array of another library."""

    def __init__(self, values: object, *, refusing: bool = False) -> None:
        self.values, self.refusing = np.asarray(values), refusing

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        if self.refusing:
            raise TypeError("this tensor is on another device")
        return self.values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Tensor([2, 3]), [2, 3]),
        (Tensor([[2, 3], [4, 5]]), [[2, 3], [4, 5]]),
        ([Tensor([2, 3]), Tensor([4])], [[2, 3], [4]]),
        ((Tensor(2), Tensor(3)), [2, 3]),
        ([[Tensor(2), 3], [4]], [[2, 3], [4]]),
    ],
)
def test_ids_of_another_library_become_plain_ones_and_are_words(value: object, expected: list[object]):
    found = plain_ids(value)
    assert [row.tolist() if isinstance(row, np.ndarray) else row for row in found] == expected  # type: ignore[attr-defined]
    assert is_for_text_encoder(found)


@pytest.mark.parametrize("value", [Tensor([2.0, 3.0]), Tensor([2, 3], refusing=True), "words", b"w", ["a"], [2], None, [[0.5]]])
def test_anything_else_is_left_as_it_is(value: object):
    assert plain_ids(value) is value
