"""Thousands of small changes to real manifests and engine sidecars, opened by both languages.

Of a sidecar both refuse the same. Of a manifest C++ checks what it reads and no more, so that fields it does not know cannot
stop a robot: it takes whatever Python takes, and refuses what Python refuses wherever it reads the value itself.
"""

from __future__ import annotations

import copy
import ctypes
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dmdkit.errors import BundleError, EngineError
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.record import read_engine
from dmdkit.runtime.format_version import SCHEMA_MINOR
from tests.cpp.c_library import Options
from tests.cpp.test_engines import add_proven_engine
from tests.older_files import BUNDLES

pytestmark = pytest.mark.slow

HUGE = 2**31
"""From here on C++ may refuse a number that Python takes, to keep sizes from overflowing."""
# What a hand or an attacker puts in place of a value. Not here: "1" and 1.0 for 1 and true for 1, which Python reads as the
# number and C++ refuses; nor 0 for false.
STRANGE = (None, "", "\n", "../x", -1, 0, 2, 1.5, 1e308, HUGE, 2**63, 2**64, [], ["a"], [1, 2, 3], {}, {"x": 1})
DAMAGED, OTHER_VERSION = 3, 4
Json = Any
Place = tuple[Any, ...]


def leaves(value: Json, at: Place = ()) -> Iterator[Place]:
    """Every place in ``value``, containers included; of a list only the first entry."""
    if at:
        yield at
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*at, key))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*at, 0))


def changed(value: Json, at: Place, change: Callable[[Json, Any], None]) -> Json:
    """A copy in which ``change(container, key)`` was done at one place."""
    result = copy.deepcopy(value)
    inner = result
    for key in at[:-1]:
        inner = inner[key]
    change(inner, at[-1])
    return result


def variants(value: Json) -> Iterator[tuple[Place, str, Json, bool]]:
    """``value`` with one thing missing, added or replaced: the place, what was done, and whether by a huge number."""
    for at in leaves(value):
        yield at, "removed", changed(value, at, lambda inner, key: inner.pop(key)), False
        inner = value
        for key in at:
            inner = inner[key]
        for strange in STRANGE:
            if isinstance(inner, bool) and strange == 0:
                continue
            replaced = changed(value, at, lambda inner, key, new=strange: inner.__setitem__(key, new))
            yield at, f"= {strange!r}", replaced, isinstance(strange, int) and strange >= HUGE
        if isinstance(at[-1], str):
            added = changed(value, at, lambda inner, key: inner.__setitem__(f"{key}x", inner[key]))
            yield (*at[:-1], f"{at[-1]}x"), "added", added, False


def disagreements(
    whole: Json, python: Callable[[Json], str], cpp: Callable[[], str], reads: Callable[[Place, str], bool]
) -> list[str]:
    """What one language takes and the other refuses; the callables give why a value is refused, or nothing.

    C++ may take what Python refuses where ``reads`` says that it does not judge this.
    """
    found = []
    for at, what, values, huge in variants(whole):
        why = (python(values), cpp())
        if bool(why[0]) != bool(why[1]) and not (huge and why[1]) and (why[1] or reads(at, what)):
            found.append(f"{at} {what}: Python {why[0] or 'takes it'}, C++ {why[1] or 'takes it'}")
    return found


READ_BY_CPP = [
    ("schema_version",), ("schema_minor",), ("requires",), ("name",), ("model",), ("model", "num_outputs"), ("output_sd",),
    ("task",), ("label_range",), ("outputs",), ("outputs", "score"), ("outputs", "score", "order"),
    ("modality_order",), ("edge_order",), ("inputs",), ("inputs", "*"),
    *(("inputs", "*", key) for key in ("steps", "features", "dtype", "padding_side", "trained_absent", "minimum", "maximum")),
    ("graphs",), ("graphs", "*"),
    *(("graphs", "*", key) for key in ("kind", "precision", "file", "multiply_adds_int8", "verdict")),
    ("graphs", "*", "session_options"), ("graphs", "*", "session_options", "*"), ("graphs", "*", "verdict", "status"),
    ("text",),
    *(("text", key) for key in ("tokenizer", "max_tokens", "vocabulary_size", "pad_id", "padding_side", "padded_steps")),
    ("text", "lengths"),
    ("golden",), ("golden", "file"), ("golden", "samples"), ("files",), ("files", "*"),
    ("files", "*", "sha256"), ("files", "*", "size_bytes"),
]  # fmt: skip


def reads(at: Place, what: str) -> bool:
    """Whether C++ reads this place of a manifest, and judges it without what it does not read.

    Python also compares sizes with the model's and with the golden ids, and a text encoder's record with its files and graphs.
    """
    if at[0] in ("modality_order", "edge_order"):
        return True
    if not any(len(at) == len(p) and all(q in ("*", k) for k, q in zip(at, p, strict=True)) for p in READ_BY_CPP):
        return False
    if what == "added":  # another graph or file is read; another key is not
        return len(at) == 2 and at[0] in ("graphs", "files")
    sizes = at[-1] in ("steps", "features", "samples") and what.startswith("= ") and what[2:].isdecimal() and what != "= 0"
    text = at[-1] in ("tokenizer.json", "text.fp32") and what == "removed"
    described = at in (("outputs",), ("outputs", "score")) and what.startswith("= {")  # of an output only the order is read
    return not (sizes or text or described or (at == ("graphs",) and what == "= {}"))


class Library:
    """libdmdkit through its C interface, as any program loads it."""

    def __init__(self, native_bin: Path) -> None:
        """Loads it from the build."""
        self._c = ctypes.CDLL(str(native_bin.parent / "lib/libdmdkit.so"))
        self._c.dmdkit_last_error.restype = ctypes.c_char_p
        self._c.dmdkit_close.argtypes = [ctypes.c_void_p]

    def open(self, bundle: Path, options: Options | None = None) -> tuple[int, str]:
        """Status and message of opening and closing a bundle."""
        runtime = ctypes.c_void_p()
        status = self._c.dmdkit_open(str(bundle).encode(), ctypes.byref(options) if options else None, ctypes.byref(runtime))
        message = self._c.dmdkit_last_error().decode()
        self._c.dmdkit_close(runtime)
        return status, message

    def self_check(self, bundle: Path, options: Options) -> tuple[int, bool]:
        """Status of opening or checking every graph, and whether the check passed."""
        runtime = ctypes.c_void_p()
        passed = ctypes.c_int()
        status = self._c.dmdkit_open(str(bundle).encode(), ctypes.byref(options), ctypes.byref(runtime))
        if status == 0:
            status = self._c.dmdkit_self_check(runtime, 1, ctypes.byref(passed))
        self._c.dmdkit_close(runtime)
        return status, passed.value == 1


@pytest.fixture(scope="module")
def library(native_bin: Path) -> Library:
    return Library(native_bin)


@pytest.mark.parametrize("which", ["features", "words"])
def test_manifests(library: Library, which: str, tmp_path: Path) -> None:
    bundle = tmp_path / "b.dmd"
    shutil.copytree(BUNDLES / which, bundle)
    path = bundle / "manifest.json"
    whole = json.loads(path.read_text()) | {"schema_minor": SCHEMA_MINOR, "requires": []}
    for graph in whole["graphs"].values():  # so that no graph is loaded: C++ is left with none to choose
        graph["verdict"]["status"] = "failed"

    def python(values: Json) -> str:
        path.write_text(json.dumps(values))
        try:
            Bundle.open(bundle)
        except BundleError as cause:
            return str(cause)
        return ""

    def cpp() -> str:
        status, message = library.open(bundle)
        return message if status in (DAMAGED, OTHER_VERSION) else ""

    assert python(whole) == cpp() == ""
    assert disagreements(whole, python, cpp, reads) == []


def test_a_later_minor_version_and_what_it_requires(library: Library, tmp_path: Path) -> None:
    bundle = tmp_path / "b.dmd"
    shutil.copytree(BUNDLES / "features", bundle)
    path, options = bundle / "manifest.json", Options.of(graph=b"fp32")
    whole = json.loads(path.read_text()) | {"schema_minor": SCHEMA_MINOR + 1, "sampling": {"rate": 30}}
    whole["graphs"]["fusion.fp4"] = whole["graphs"]["fusion.fp32"] | {"precision": "fp4", "blocks": 16}
    path.write_text(json.dumps(whole))
    assert Bundle.open(bundle).manifest.ignored == ("graphs.fusion.fp4", "sampling")
    assert library.open(bundle, options) == (0, "")
    path.write_text(json.dumps(whole | {"requires": [{"name": "streams", "since": "0.3.0"}]}))
    with pytest.raises(BundleError) as refused:
        Bundle.open(bundle)
    assert library.open(bundle, options) == (OTHER_VERSION, str(refused.value))


def test_sidecars(library: Library, native_bin: Path, bundle_copy: Path) -> None:
    add_proven_engine(bundle_copy, platform="nowhere", gpu="g", driver="13.0")
    (path,) = bundle_copy.glob("engines/*.json")
    options = Options.of(backend=b"fake_engines", backend_directory=str(native_bin.parent / "test-backends").encode())

    def python(values: Json) -> str:
        path.write_text(json.dumps(values))
        try:
            read_engine(path)
        except EngineError as cause:
            return str(cause)
        return ""

    def cpp() -> str:
        message = library.open(bundle_copy, options)[1]
        return message if message.startswith(str(path)) else ""  # otherwise: it is for another machine, or another graph

    assert python(json.loads(path.read_text())) == cpp() == ""
    assert disagreements(json.loads(path.read_text()), python, cpp, lambda *_: True) == []
