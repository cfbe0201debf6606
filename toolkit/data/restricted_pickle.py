"""Reads a pickle of numpy arrays and plain containers, and can do nothing else.

A pickle is a program. Three fences keep this one harmless:

* the machine is the standard library's pure-Python unpickler with most of its instructions removed (its C twin cannot
  be narrowed, and lets eight bytes of input claim 64 GiB of memo);
* every name a file asks for is answered by a function or marker of ours, never by numpy or Python itself;
* every read is bounded by what is left of the file, so no length in it can claim memory.

The format is that of PEP 3154 and PEP 574 (protocols 0 to 5).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from dmdkit.data.numpy_stand_ins import CALLABLE, MAKERS, PendingArray, PendingDtype, Refused, text_from
from dmdkit.errors import DataError

__all__ = ["load_restricted_pickle"]

_ADMITTED = "numpy arrays of numbers or text, lists, tuples, dicts, str, bytes and numbers"
_MAX_DEPTH = 16
_MAX_KEY = 1 << 63
_OPCODES = (
    b"\x80\x95.(012NI\x88\x89JKML\x8a\x8bFGSTUBC\x8e\x96VX\x8c\x8d"  # frames, stack, numbers, bytes, text
    b"]aelt)\x85\x86\x87}dsu"  # containers
    b"ghjpqr\x94"  # memo
    b"c\x93Rb"  # names, calls and states, each answered by this module
)


class _BoundedStream:
    """A binary stream that refuses to read past the end of its file instead of first making room for the bytes."""

    def __init__(self, stream: BinaryIO, size_bytes: int) -> None:
        self._stream, self._left_bytes = stream, size_bytes

    def read(self, count: int) -> bytes:
        if count < 0 or count > self._left_bytes:
            raise Refused(f"it is cut short: {count} bytes are announced where {self._left_bytes} are left")
        data = self._stream.read(count)
        self._left_bytes -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._stream.readline(self._left_bytes)
        self._left_bytes -= len(data)
        return data


class _RestrictedUnpickler(pickle._Unpickler):
    """The standard unpickler less every instruction that could reach beyond this module."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {opcode: pickle._Unpickler.dispatch[opcode] for opcode in _OPCODES}
    stack: list[Any]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, stream: _BoundedStream, size_bytes: int) -> None:
        super().__init__(stream, encoding="latin1")
        self._budget_bytes = 2 * size_bytes + 4096

    def find_class(self, module_name: str, global_name: str) -> object:
        try:
            return MAKERS[module_name, global_name]
        except KeyError:
            raise Refused(f"it asks for {module_name}.{global_name}") from None

    def _spend(self, made: object) -> None:
        """Bytes and arrays made again and again from one remembered text must not outgrow the file they came from."""
        value = made.value if isinstance(made, PendingArray) else made
        if isinstance(value, (str, bytes)):
            self._budget_bytes -= len(value)
        elif isinstance(value, np.ndarray):
            self._budget_bytes -= value.nbytes
        if self._budget_bytes < 0:
            raise Refused("its arrays claim more bytes than the file has")

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not any(function is make for make in CALLABLE) or not isinstance(arguments, tuple):
            raise Refused(f"it calls a {type(function).__name__.lstrip('_')}")
        self.stack[-1] = function(*arguments)
        self._spend(self.stack[-1])

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self) -> None:
        # The standard instruction would set attributes of whatever lies on the stack, our functions included.
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, (PendingArray, PendingDtype)):
            raise Refused(f"it sets the state of a {type(target).__name__.lstrip('_')}")
        target.set_state(state)
        self._spend(target)

    dispatch[pickle.BUILD[0]] = load_build

    def load_setitem(self) -> None:
        # Hashing a tuple nested a million deep overflows the C stack, so keys are checked before they are used.
        value, key, target = self.stack.pop(), self.stack.pop(), self.stack[-1]
        _set_items(target, [key, value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _set_items(self.stack[-1], items)

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append(_set_items({}, items))

    dispatch[pickle.DICT[0]] = load_dict

    def load_a_set(self) -> None:
        # Sets have instructions of their own since protocol 4; older files ask for the class, which is refused by name.
        raise Refused("it holds a set")

    dispatch[pickle.EMPTY_SET[0]] = dispatch[pickle.FROZENSET[0]] = load_a_set

    def load_bytearray8(self) -> None:
        # The standard instruction makes room before it reads.
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_string(self) -> None:
        line: bytes = self.readline()[:-1]
        if len(line) < 2 or line[0] != line[-1] or line[0] not in b"\"'" or b"\\" in line:
            raise Refused("it holds a Python 2 string with escapes; save it with protocol 2 or newer")
        self.stack.append(line[1:-1].decode("latin-1"))

    dispatch[pickle.STRING[0]] = load_string


def _set_items(target: object, items: list[Any]) -> object:
    if not isinstance(target, dict) or len(items) % 2:
        raise Refused(f"it sets items of a {type(target).__name__.lstrip('_')}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_key(key)] = value
    return target


def _resolved(value: object, done: dict[int, object], depth: int = 0) -> object:
    """``value`` with every pending object replaced by what it stands for; each container is visited once."""
    if isinstance(value, (str, bytes, bytearray, int, float, type(None))):
        return value
    if isinstance(value, PendingArray) and value.value is not None:
        return value.value
    if not isinstance(value, (list, tuple, dict)):
        raise Refused(f"it holds a {type(value).__name__.lstrip('_')} by itself")
    if depth > _MAX_DEPTH:
        raise Refused(f"its containers are nested more than {_MAX_DEPTH} deep, or contain themselves")
    if id(value) not in done:
        if isinstance(value, dict):
            done[id(value)] = {key: _resolved(item, done, depth + 1) for key, item in value.items()}
        else:
            done[id(value)] = [_resolved(item, done, depth + 1) for item in value]
    return done[id(value)]


def _key(key: object) -> str:
    if isinstance(key, (str, bytes)):
        return text_from(key)
    if isinstance(key, int) and abs(key) < _MAX_KEY:
        return str(key)
    raise Refused(f"a dict in it has a {type(key).__name__.lstrip('_')} as a key")


def load_restricted_pickle(path: Path) -> object:
    """The content of a pickle as dicts with str keys, lists (tuples become lists), numpy arrays, text and numbers.

    Arrays may be read-only views of the file's bytes; copy before writing. Nothing the file names is imported or run.

    Args:
        path: A pickle of any protocol up to 5. Only its first object is read.

    Raises:
        DataError: The file cannot be read, is damaged, or asks for anything but arrays and plain containers; the
            message names the class or function asked for.
        MemoryError: The file is larger than memory.
    """
    try:
        with path.open("rb") as stream:
            size_bytes = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            unpickler = _RestrictedUnpickler(_BoundedStream(stream, size_bytes), size_bytes)
            return _resolved(unpickler.load(), {})
    except OSError as cause:
        raise DataError(f"cannot read {path}: {cause.strerror or cause}") from cause
    except Refused as cause:
        raise DataError(
            f"{path} is not read: {cause}, and a feature pickle may hold only {_ADMITTED}. Nothing in it was run. "
            "If you trust its origin, save the plain arrays again, or as .npz"
        ) from cause
    except MemoryError:  # no length can claim memory, so the file is honestly large
        raise
    except Exception as cause:  # a damaged program fails in as many ways as programs do
        raise DataError(
            f"{path} is not a readable pickle ({type(cause).__name__} while reading): it is damaged, "
            "cut short, or uses an instruction that arrays and plain containers do not need. Nothing in it was run; "
            "fetch or save it again"
        ) from cause
