"""What a feature pickle gets when it names numpy: checked stand-ins that build arrays from bytes, and nothing else.

The reduced form of arrays, dtypes and scalars is the one numpy's ``__reduce__`` and ``__reduce_ex__`` write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

__all__ = ["CALLABLE", "MAKERS", "PendingArray", "PendingDtype", "Refused", "text_from"]

_DTYPE_CODE = re.compile(r"[<>=|]?(?:[biuf](?:1|2|4|8)|[SU](?:0|[1-9][0-9]{0,6})|\?|[bBhHiIlLqQefd]|O8?)")
_MAX_DIMENSIONS = 8
_MAX_DIMENSION = 1 << 40


class Refused(Exception):  # noqa: N818 (becomes a DataError at the edge)
    """The pickle asks for something that is not admitted; the text says what."""


class PendingDtype:
    """Stands for ``numpy.dtype`` while its state is read."""

    __slots__ = ("byte_order", "code")

    def __init__(self, code: str) -> None:
        self.code, self.byte_order = code, "="

    def set_state(self, state: object) -> None:
        """Takes the byte order from numpy's state; a structured dtype is refused."""
        # (version, byte order, subarray, names, fields, item size, alignment, flags[, metadata])
        if not isinstance(state, tuple) or len(state) not in (8, 9) or any(part is not None for part in state[2:5]):
            raise Refused("it holds a structured dtype")
        byte_order = text_from(state[1])
        if byte_order not in ("<", ">", "=", "|"):
            raise Refused("it holds a dtype of unknown byte order")
        self.byte_order = byte_order

    @property
    def is_object(self) -> bool:
        """Whether elements would be Python objects."""
        return self.code.lstrip("<>=|").startswith("O")

    def resolve(self) -> np.dtype[Any]:
        """The numpy dtype; objects are refused."""
        if self.is_object:
            raise Refused("it holds a value of object dtype")
        dtype = np.dtype(self.code)
        return dtype if self.byte_order == "|" else dtype.newbyteorder(cast(Literal["<", ">", "="], self.byte_order))


class PendingArray:
    """Stands for ``numpy.ndarray`` until its state is read; ``value`` is then an array, or a list of plain objects."""

    __slots__ = ("value",)

    def __init__(self, value: npt.NDArray[Any] | list[Any] | None = None) -> None:
        self.value = value

    def set_state(self, state: object) -> None:
        """Builds the array from numpy's state."""
        # ([version,] shape, dtype, is Fortran order, bytes or list of objects)
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise Refused("it holds an array without a readable state")
        shape, dtype, is_fortran, data = state[-4:]
        if isinstance(dtype, PendingDtype) and dtype.is_object:
            self.value = _plain_objects(data, _shape(shape))
        else:
            self.value = _array(data, dtype, shape, "F" if is_fortran else "C")


class _NdarrayMarker:
    """Stands for the class ``numpy.ndarray``, which a pickle only ever passes on."""


def text_from(value: object) -> str:
    """``value`` as str, bytes being Latin-1 as Python 2 wrote them."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise Refused(f"it holds a {type(value).__name__} where text belongs")


def _bytes(value: object) -> bytes | bytearray:
    if isinstance(value, str):  # what Python 2 and protocol 0 call bytes
        return value.encode("latin-1")
    if isinstance(value, (bytes, bytearray)):
        return value
    raise Refused(f"it holds a {type(value).__name__} where the bytes of an array belong")


def _shape(value: object) -> tuple[int, ...]:
    dims = value if isinstance(value, tuple) else (value,)
    if len(dims) > _MAX_DIMENSIONS or not all(type(dim) is int and 0 <= dim < _MAX_DIMENSION for dim in dims):
        raise Refused("it holds an array whose shape is not a short tuple of sizes")
    return dims


def _array(data: object, dtype: object, shape: object, order: object) -> npt.NDArray[Any]:
    if not isinstance(dtype, PendingDtype):
        raise Refused("it holds an array without a dtype")
    resolved, dims, raw = dtype.resolve(), _shape(shape), _bytes(data)
    expected_bytes = math.prod(dims) * resolved.itemsize
    if expected_bytes != len(raw):
        raise Refused(f"it holds an array of {dims} {resolved} = {expected_bytes} bytes with {len(raw)} bytes of data")
    if expected_bytes == 0:
        return np.zeros(dims, resolved)
    return np.frombuffer(raw, resolved).reshape(dims, order="F" if text_from(order) == "F" else "C")


def _plain_objects(data: object, shape: tuple[int, ...]) -> list[Any]:
    """An object array as the list of its elements; only one axis of text and numbers is admitted."""
    if not isinstance(data, list) or shape != (len(data),):
        raise Refused("it holds an object array that is not one row of text or numbers")
    for element in data:
        if not isinstance(element, (str, bytes, int, float)):
            raise Refused(f"it holds an object array with a {type(element).__name__.lstrip('_')} in it")
    return data


def _make_dtype(code: object, *_: object) -> PendingDtype:
    text = text_from(code)
    if not _DTYPE_CODE.fullmatch(text):
        raise Refused(f"it holds an array of dtype {text[:40]!r}")
    return PendingDtype(text)


def _make_array(*_: object) -> PendingArray:
    return PendingArray()


def _make_scalar(dtype: object, data: object = None) -> object:
    return _array(data, dtype, (), "C").item()


def _make_from_buffer(data: object, dtype: object, shape: object, order: object, axis_order: object = None) -> PendingArray:
    if axis_order is None:
        return PendingArray(_array(data, dtype, shape, order))
    axes = _shape(axis_order)
    if text_from(order) == "K" and sorted(axes) == list(range(len(_shape(shape)))):
        return PendingArray(_array(data, dtype, shape, "C").transpose(axes))
    raise Refused("it holds an array whose axis order is not a permutation")


def _encode(text: object, encoding: object = None, *_: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("it encodes something other than the bytes of an array")
    return text.encode("latin-1")


MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _NdarrayMarker,
    ("numpy", "dtype"): _make_dtype,
    ("_codecs", "encode"): _encode,  # how protocols 0 to 2 write bytes
    **{
        (f"numpy.{core}.{module}", name): make
        for core in ("core", "_core")
        for module, name, make in (
            ("multiarray", "_reconstruct", _make_array),
            ("multiarray", "scalar", _make_scalar),
            ("numeric", "_frombuffer", _make_from_buffer),
        )
    },
}
CALLABLE = frozenset(make for make in MAKERS.values() if make is not _NdarrayMarker)
