from __future__ import annotations

import collections
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmdkit.data.restricted_pickle import load_restricted_pickle
from dmdkit.errors import DataError
from tests.data.builders import mmsa_content, write_pickle

PROTO2 = b"\x80\x02"


def load_bytes(tmp_path: Path, data: bytes) -> object:
    path = tmp_path / "file.pkl"
    path.write_bytes(data)
    return load_restricted_pickle(path)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_back_arrays_and_containers(tmp_path, protocol):
    content = {
        "float": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">i4"),
        "text": np.array(["one", "zwölf"]),
        "objects": np.array(["a", "bc"], dtype=object),
        "flags": np.array([True, False]),
        "list": ["a", 1, 2.5, None, True, -(2**70)],
        "tuple": (1, "two"),
        "scalar": np.float32(0.5),
        7: "number as key",
    }
    loaded = load_restricted_pickle(write_pickle(tmp_path / "a.pkl", content, protocol))
    assert isinstance(loaded, dict)
    for key in ("float", "fortran", "big endian", "text", "flags"):
        np.testing.assert_array_equal(loaded[key], content[key])
    assert loaded["objects"] == ["a", "bc"]
    assert loaded["list"] == content["list"]
    assert loaded["tuple"] == [1, "two"]
    assert loaded["scalar"] == 0.5
    assert loaded["7"] == "number as key"


def test_an_array_with_permuted_axes_keeps_its_axes(tmp_path):
    array = np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)
    loaded = load_restricted_pickle(write_pickle(tmp_path / "a.pkl", [array], 5))
    np.testing.assert_array_equal(loaded[0], array)  # type: ignore[index]


class Hostile:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (Hostile(__import__("os").system, "touch PWNED"), "posix.system"),
        (Hostile(eval, "open('PWNED', 'w')"), "eval"),
        (Hostile(getattr, "a", "upper"), "getattr"),
        (Hostile(np.lib.format.open_memmap, "PWNED"), "open_memmap"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (complex(1, 2), "complex"),
        (Path("a"), "pathlib"),
        (np.random.default_rng(0), "numpy.random"),
    ],
)
def test_anything_else_is_refused_by_name_and_nothing_runs(tmp_path, monkeypatch, payload, name, protocol):
    monkeypatch.chdir(tmp_path)
    path = write_pickle(tmp_path / "evil.pkl", {"train": payload}, protocol)
    with pytest.raises(DataError, match=r"evil\.pkl.*Nothing in it was run") as error:
        load_restricted_pickle(path)
    assert name in str(error.value)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    "value",
    [
        np.array([None, "a"], dtype=object),
        np.array([{"a": 1}], dtype=object),
        np.array([["a", "b"]], dtype=object),
        np.array([np.zeros(2), np.zeros(3)], dtype=object),
        np.zeros(2, dtype=[("a", "f4")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.zeros(2, dtype=complex),
        np.void(b"abc"),
        {1, 2},
        {("a", "b"): 1},
        np.float32,
        np.dtype("f4"),
    ],
)
def test_values_that_no_feature_file_needs_are_refused(tmp_path, value):
    with pytest.raises(DataError):
        load_restricted_pickle(write_pickle(tmp_path / "a.pkl", [value], 4))


DTYPE_O = b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"


@pytest.mark.parametrize(
    "program",
    {
        "persistent id": b"Pa\n.",
        "binary persistent id": PROTO2 + b"K\x01Q.",
        "extension registry": PROTO2 + b"\x82\x01.",
        "inst": b"(ios\nsystem\n.",
        "obj": b"(cos\nsystem\no.",
        "newobj": PROTO2 + b"cnumpy\nndarray\n)\x81.",
        "next buffer": b"\x80\x05\x97.",
        "frozenset": b"\x80\x04(\x91.",
        "reduce on a string": PROTO2 + b"X\x01\x00\x00\x00a)R.",
        "reduce on a class": PROTO2 + b"cnumpy\nndarray\n)R.",
        "reduce without a tuple": PROTO2 + b"cnumpy\ndtype\nK\x01R.",
        "object scalar": PROTO2 + SCALAR + DTYPE_O + b"K\x01\x86R.",
        "build on our function": PROTO2 + b"cnumpy\ndtype\n}X\x08\x00\x00\x00__code__K\x01sb.",
        "build on a list": PROTO2 + b"]}b.",
        "items of a list": PROTO2 + b"]K\x00K\x01s.",
        "append to a string": PROTO2 + b"X\x01\x00\x00\x00aK\x01a.",
        "a bare function": PROTO2 + b"cnumpy\ndtype\n.",
        "an array without state": PROTO2 + b"cnumpy.core.multiarray\n_reconstruct\n)R.",
        "dtype of anything": PROTO2 + b"cnumpy\ndtype\nX\x05\x00\x00\x00f4,O8\x85R.",
        "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.dot\x93.",
        "a name that is no text": b"\x80\x04K\x01K\x02\x93.",
        "unknown protocol": b"\x80\xff.",
        "unknown instruction": b"\xf0.",
        "empty stack": b".",
        "missing memo": b"\x80\x02h\x07.",
        "memo of 64 GiB": PROTO2 + b"Nr\xff\xff\xff\xff0h\x00.",
        "bytes of an exabyte": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"a.",
        "bytearray of a terabyte": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a.",
        "bytearray of a terabyte in a frame": (
            b"\x80\x05\x95" + struct.pack("<Q", 11) + b"\x96" + struct.pack("<Q", 1 << 40) + b"a."
        ),
        "frame of an exabyte": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b".",
        "text of 4 GiB": PROTO2 + b"X\xff\xff\xff\xffa.",
        "a list that contains itself": PROTO2 + b"]q\x00h\x00a.",
        "lists nested a million deep": PROTO2 + b"]" * 1_000_000 + b"a" * 999_999 + b".",
        "a key nested a million deep": PROTO2 + b"})" + b"\x85" * 1_000_000 + b"K\x01s.",
        "a Python 2 string with escapes": b"S'a\\x41'\n.",
    }.values(),
)  # fmt: skip
def test_hostile_programs_end_in_one_readable_error(tmp_path, program):
    with pytest.raises(DataError, match=r"file\.pkl"):
        load_bytes(tmp_path, program)


def test_one_text_cannot_be_turned_into_bytes_again_and_again(tmp_path):
    text = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000
    encode = b"h\x00h\x01h\x02\x86R"
    program = PROTO2 + b"c_codecs\nencode\nq\x000" + text + b"q\x010X\x06\x00\x00\x00latin1q\x020(" + encode * 100 + b"l."
    with pytest.raises(DataError, match="more bytes than the file has"):
        load_bytes(tmp_path, program)


def test_lists_that_share_lists_are_walked_once(tmp_path):
    program = PROTO2 + b"]q\x00" + b"".join(b"(" + b"h%c" % n * 50 + b"lq%c" % (n + 1) for n in range(14)) + b"."
    loaded = load_bytes(tmp_path, program)
    assert isinstance(loaded, list)


def test_an_array_whose_shape_disagrees_with_its_bytes_is_refused(tmp_path):
    data = pickle.dumps(np.zeros((3, 4), np.float32), 2)
    with pytest.raises(DataError, match="bytes of data"):
        load_bytes(tmp_path, data.replace(b"K\x03K\x04\x86", b"K\x03K\x05\x86"))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "name"), [({"a", "b"}, "set"), (frozenset("ab"), "set"), (set(), "set"), (1 + 2j, "complex")]
)
def test_what_is_refused_is_named_even_under_a_key_that_nobody_reads(tmp_path, protocol, value, name):
    with pytest.raises(DataError, match=name) as refused:
        load_bytes(tmp_path, pickle.dumps({"unused": value}, protocol))
    assert "may hold only numpy arrays" in str(refused.value)
    assert "cut short" not in str(refused.value)


@pytest.mark.parametrize("make", ["missing", "directory", "empty"])
def test_a_file_that_cannot_be_read_is_said(tmp_path, make):
    path = tmp_path / "absent.pkl"
    if make == "directory":
        path.mkdir()
    elif make == "empty":
        path.touch()
    with pytest.raises(DataError, match=r"absent\.pkl"):
        load_restricted_pickle(path)


VALID = pickle.dumps(mmsa_content(), 4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_pickles_load_or_end_in_data_error(tmp_path, data):
    damaged = bytearray(VALID[: data.draw(st.integers(0, len(VALID)))] if data.draw(st.booleans()) else VALID)
    for _ in range(data.draw(st.integers(0, 8))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        load_bytes(tmp_path, bytes(damaged))
    except DataError as error:
        assert "file.pkl" in str(error)  # noqa: PT017


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_random_programs_load_or_end_in_data_error(tmp_path, data):
    try:
        load_bytes(tmp_path, PROTO2 + data)
    except DataError as error:
        assert "file.pkl" in str(error)  # noqa: PT017
