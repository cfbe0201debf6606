"""dmdkit's own CPU kernels, ``libdmdkit_native.so``: the C++ runtime's plug-in, called through its C interface."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from dmdkit.errors import BundleError, InputError, MissingLibraryError
from dmdkit.runtime.backends.base import Array, Feed, Runner, TensorSpec

__all__ = ["LIBRARY_VARIABLE", "NativeKernelsRunner", "NativeSteps", "library_path", "load_library", "native_version"]

LIBRARY_VARIABLE = "DMDKIT_NATIVE_LIBRARY"
"""Environment variable with the path of the library, before anything else is looked at."""

_LIBRARY = "libdmdkit_native.so"
_PACKAGE = "dmdkit_native"
_ABI_VERSION = 2
_ERROR_BYTES = 1024

# runtime/cpp/include/dmdkit/backend.h, field by field.
_FloatPointers = ctypes.POINTER(ctypes.POINTER(ctypes.c_float))


class _Pair(ctypes.Structure):
    _fields_ = (("key", ctypes.c_char_p), ("value", ctypes.c_char_p))


class _OpenArgs(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("graph", ctypes.c_char_p),
        ("model", ctypes.c_char_p),
        ("model_bytes", ctypes.c_size_t),
        ("device", ctypes.c_char_p),
        ("threads", ctypes.c_int),
        ("spin", ctypes.c_int),
        ("affinity", ctypes.c_char_p),
        ("session_options", ctypes.POINTER(_Pair)),
        ("session_option_count", ctypes.c_size_t),
        ("provider_options", ctypes.POINTER(_Pair)),
        ("provider_option_count", ctypes.c_size_t),
        ("engine", ctypes.c_void_p),
        ("tokens", ctypes.c_int),
        ("step_model", ctypes.c_char_p),
        ("step_model_bytes", ctypes.c_size_t),
    )


class _Tensor(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("shape", ctypes.POINTER(ctypes.c_int64)), ("rank", ctypes.c_size_t))


_Session = _Address = ctypes.c_void_p
_Size = ctypes.c_size_t
_Error = (ctypes.c_char_p, ctypes.c_size_t)


class _Table(ctypes.Structure):
    _fields_ = (
        ("abi_version", ctypes.c_uint32),
        ("struct_size", ctypes.c_size_t),
        ("describe", ctypes.CFUNCTYPE(ctypes.c_char_p)),
        ("open", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_OpenArgs), ctypes.POINTER(_Session), *_Error)),
        ("input_count", ctypes.CFUNCTYPE(ctypes.c_size_t, _Session)),
        ("output_count", ctypes.CFUNCTYPE(ctypes.c_size_t, _Session)),
        ("input", ctypes.CFUNCTYPE(None, _Session, ctypes.c_size_t, ctypes.POINTER(_Tensor))),
        ("output", ctypes.CFUNCTYPE(None, _Session, ctypes.c_size_t, ctypes.POINTER(_Tensor))),
        ("bind", ctypes.CFUNCTYPE(ctypes.c_int, _Session, ctypes.c_size_t, _FloatPointers, _FloatPointers, *_Error)),
        ("run", ctypes.CFUNCTYPE(ctypes.c_int, _Session, *_Error)),
        ("close", ctypes.CFUNCTYPE(None, _Session)),
        ("takes_engines", ctypes.c_int),
        ("note", ctypes.CFUNCTYPE(ctypes.c_char_p, _Session)),
        ("run_tokens", ctypes.c_void_p),
        ("share", ctypes.CFUNCTYPE(ctypes.c_int, _Session, ctypes.POINTER(_Session), *_Error)),
        # Addresses from here on: ctypes passes them with less ado, and a push is short.
        ("step", ctypes.CFUNCTYPE(ctypes.c_int, _Session, _Size, _Size, _Address, _Address, *_Error)),
        ("read_state", ctypes.CFUNCTYPE(ctypes.c_int, _Session, _Size, _Size, _Address, *_Error)),
        ("write_state", ctypes.CFUNCTYPE(ctypes.c_int, _Session, _Size, _Size, _Address, *_Error)),
    )


def library_path() -> Path | None:
    """Where the library is: the path in ``DMDKIT_NATIVE_LIBRARY``, or the installed package ``dmdkit_native``; or None."""
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return Path(named)
    found = importlib.util.find_spec(_PACKAGE)
    folders = list(found.submodule_search_locations or []) if found is not None else []
    paths = [Path(folder) / _LIBRARY for folder in folders]
    return next((path for path in paths if path.is_file()), None)


@cache
def _table_at(path: Path) -> _Table:
    try:
        entry = ctypes.CDLL(str(path)).dmdkit_backend_entry
    except (OSError, AttributeError) as cause:
        raise MissingLibraryError(f"{path}: not the native kernels' library: {cause}; build it with `make native`") from cause
    entry.restype, entry.argtypes = ctypes.POINTER(_Table), [ctypes.c_uint32]
    table = entry(_ABI_VERSION)
    if not table:
        raise MissingLibraryError(f"{path}: it does not speak version {_ABI_VERSION} of the backend interface; build it again")
    found: _Table = table.contents
    return found


def _table() -> _Table:
    path = library_path()
    if path is None:
        raise MissingLibraryError(
            f"the native backend needs {_LIBRARY}; build it with `make native` and set {LIBRARY_VARIABLE} to its path "
            "(build/native/lib)"
        )
    return _table_at(path)


def load_library() -> None:
    """Loads the library, once in a process.

    Raises:
        MissingLibraryError: It is not here or not usable; the message says how to get it.
    """
    _table()


def native_version() -> str | None:
    """Version and instruction set of the library here, as "native 1 (avx512_vnni)"; None where it cannot be used."""
    try:
        text: bytes = _table().describe()
    except MissingLibraryError:
        return None
    return text.decode()


class _Opened:
    """One session of the library; one call at a time."""

    def __init__(self, name: str, model: bytes, threads: int, step_model: bytes | None = None) -> None:
        self._table, self._session = _table(), _Session()
        self._error = ctypes.create_string_buffer(_ERROR_BYTES)
        self.name = name
        args = _OpenArgs(ctypes.sizeof(_OpenArgs), name.encode(), model, len(model), b"cpu", threads, -1, b"")
        if step_model is not None:
            if self._table.struct_size < ctypes.sizeof(_Table) or not self._table.step:
                raise BundleError(f"{name}: this library of the native kernels takes no steps; build it again")
            args.step_model, args.step_model_bytes = step_model, len(step_model)
        if self._table.open(args, self._session, self._error, _ERROR_BYTES):
            raise BundleError(f"{name}: the native kernels cannot load it: {self._said()}")

    def _said(self) -> str:
        return self._error.value.decode(errors="replace")

    def tensors(self, *, outputs: bool) -> tuple[TensorSpec, ...]:
        """The inputs or the outputs."""
        count, fill = (
            (self._table.output_count, self._table.output) if outputs else (self._table.input_count, self._table.input)
        )
        found, tensor = [], _Tensor()
        for index in range(count(self._session)):
            fill(self._session, index, tensor)
            name = tensor.name.decode()
            found.append(TensorSpec(name, tuple(tensor.shape[: tensor.rank]), "int64" if name == "steps" else "float32"))
        return tuple(found)

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Runs on these arrays, C-contiguous float32."""
        pointers = [
            (ctypes.POINTER(ctypes.c_float) * len(arrays))(
                *(array.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for array in arrays)
            )
            for arrays in (inputs, outputs)
        ]
        batch = len(inputs[0])
        if self._table.bind(self._session, batch, *pointers, self._error, _ERROR_BYTES) or self._table.run(
            self._session, self._error, _ERROR_BYTES
        ):
            raise InputError(f"{self.name}: the native kernels failed: {self._said()}")

    def step(self, place: int, rows: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Steps behind ``place``, from C-contiguous raw rows into C-contiguous outputs, of which the first axis counts."""
        given = (_Address * len(rows))(*(array.ctypes.data for array in rows))
        wanted = (_Address * len(outputs))(*(array.ctypes.data for array in outputs))
        code = self._table.step(self._session, place, len(outputs[0]), given, wanted, self._error, _ERROR_BYTES)
        if code:
            raise InputError(f"{self.name}: the native kernels failed: {self._said()}")

    def copy_state(self, tensor: int, columns: Array, *, write: bool) -> None:
        """A tensor of the state, (steps, heads, width), into ``columns`` or out of them."""
        copy = self._table.write_state if write else self._table.read_state
        if copy(self._session, tensor, len(columns), columns.ctypes.data, self._error, _ERROR_BYTES):
            raise InputError(f"{self.name}: the native kernels failed: {self._said()}")

    def share(self) -> _Opened:
        """Another session over the same weights."""
        other = object.__new__(_Opened)
        other._table, other._session, other.name = self._table, _Session(), self.name
        other._error = ctypes.create_string_buffer(_ERROR_BYTES)
        if self._table.share(self._session, other._session, other._error, _ERROR_BYTES):
            raise InputError(f"{self.name}: the native kernels failed: {other._said()}")
        return other

    def close(self) -> None:
        """Gives the session back."""
        self._table.close(self._session)


class NativeSteps:
    """A step graph on dmdkit's own kernels, which keep the state themselves (docs/streaming.md).

    Args:
        name: The step graph's name.
        model: The bytes of the fusion graph of its precision, already checked; its weights are shared with runners of it.
        step_model: Those of the step graph.

    Raises:
        MissingLibraryError: The library is not here or not usable.
        BundleError: It cannot load the graphs.
    """

    def __init__(self, name: str, model: bytes, step_model: bytes) -> None:
        self._first = _Opened(name, model, 1, step_model)
        self.inputs = self._first.tensors(outputs=False)
        self.outputs = self._first.tensors(outputs=True)
        self.backend = str(native_version())

    def new_state(self) -> _Opened:
        """A state of its own; whoever asked closes it."""
        return self._first.share()

    def close(self) -> None:
        """Gives the weights back; states go on."""
        self._first.close()


class NativeKernelsRunner(Runner):
    """A fusion graph on dmdkit's own kernels. Calls from several threads run side by side, each in a session of its own.

    Args:
        name: The graph's name.
        model: The ONNX file's bytes, already checked against their hash.
        threads: Threads inside one call.

    Raises:
        MissingLibraryError: The library is not here or not usable.
        BundleError: It cannot load the graph.
    """

    def __init__(self, name: str, model: bytes, *, threads: int = 1) -> None:
        super().__init__(name)
        self._model, self._threads = model, threads
        first = _Opened(name, model, threads)
        self._inputs, outputs = first.tensors(outputs=False), first.tensors(outputs=True)
        self._output_shapes = {spec.name: spec.shape[1:] for spec in outputs}
        self._idle = [first]
        self._lock = threading.Lock()
        self._version = native_version()

    @property
    def backend(self) -> str:
        """What runs the graph, with its version and instruction set."""
        return str(self._version)

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs, in the graph's order."""
        return self._inputs

    @property
    def outputs(self) -> Sequence[str]:
        """The names of the outputs, in the graph's order."""
        return tuple(self._output_shapes)

    def _infer(self, feed: Feed) -> dict[str, Array]:
        with self._lock:
            session = self._idle.pop() if self._idle else None
        if session is None:
            session = _Opened(self.name, self._model, self._threads)
        # The library takes float32 alone, in which every number of steps is exact.
        inputs = [feed[spec.name].astype(np.float32, copy=False) for spec in self._inputs]
        found = {name: np.empty((len(inputs[0]), *shape), np.float32) for name, shape in self._output_shapes.items()}
        try:
            session.run(inputs, list(found.values()))
        finally:
            with self._lock:
                kept = not self._closed
                if kept:
                    self._idle.append(session)
            if not kept:
                session.close()
        return found

    def _close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()
