"""libdmdkit through its C interface (dmdkit/dmdkit.h), as far as tests call it from Python."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MODALITIES = ("text", "audio", "vision")
_FLOATS = ctypes.POINTER(ctypes.c_float)
_SIZE = ctypes.c_size_t


class Options(ctypes.Structure):
    """dmdkit_options."""

    _fields_ = (
        ("struct_size", _SIZE),
        ("device", ctypes.c_char_p),
        ("graph", ctypes.c_char_p),
        ("threads", ctypes.c_int),
        ("deadline_us", ctypes.c_uint64),
        ("preload_explain", ctypes.c_int),
        ("spin", ctypes.c_int),
        ("affinity", ctypes.c_char_p),
        ("backend", ctypes.c_char_p),
        ("backend_directory", ctypes.c_char_p),
    )

    @classmethod
    def of(cls, **values: Any) -> Options:
        """The defaults with these changes."""
        return cls(struct_size=ctypes.sizeof(cls), threads=1, spin=-1, **values)


class _StreamOptions(ctypes.Structure):
    _fields_ = (
        ("struct_size", _SIZE),
        ("past_limit", ctypes.c_char_p),
        ("missing", ctypes.c_char_p * 3),
        ("step_s", ctypes.c_double),
        ("tolerance_s", ctypes.c_double),
    )


class _Steps(ctypes.Structure):
    _fields_ = (
        ("struct_size", _SIZE),
        ("count", _SIZE),
        ("data", _FLOATS * 3),
        ("values", _SIZE * 3),
        ("missing", ctypes.c_uint32),
        ("timed", ctypes.c_uint32),
        ("time_s", ctypes.c_double * 3),
    )


class _Answer(ctypes.Structure):
    _fields_ = (
        ("struct_size", _SIZE),
        ("score", _FLOATS),
        ("score_count", _SIZE),
        ("logit_hetero", _FLOATS),
        ("logit_hetero_count", _SIZE),
        ("edges_hetero", _FLOATS),
        ("edges_hetero_count", _SIZE),
        ("count", _SIZE),
        ("steps", _SIZE),
        ("heard", ctypes.c_uint64),
        ("filled", ctypes.c_int * 3),
        ("latency_ms", ctypes.c_double),
        ("out_of_range", ctypes.c_double * 3),
    )


class Answer(NamedTuple):
    """What a push answers: (n, 1), (n, 3), (n, 6), how many steps the newest rests on, and what of them is out of range."""

    score: np.ndarray
    logit_hetero: np.ndarray
    edges_hetero: np.ndarray
    steps: int
    out_of_range: dict[str, float]


class Library:
    """The library, and a runtime over one bundle."""

    def __init__(self, path: Path, bundle: Path, graph: str, backend: str = "onnxruntime") -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.dmdkit_last_error.restype = ctypes.c_char_p
        self.limit_of = self._library.dmdkit_stream_limit
        self.limit_of.restype = _SIZE
        options = Options()
        self._library.dmdkit_options_init(ctypes.byref(options))
        options.graph, options.backend = graph.encode(), backend.encode()
        self._runtime = ctypes.c_void_p()
        self.call("dmdkit_open", str(bundle).encode(), ctypes.byref(options), ctypes.byref(self._runtime))

    def call(self, name: str, *arguments: object) -> None:
        """Calls a function that answers a status; a failure is a ValueError with its text."""
        if getattr(self._library, name)(*arguments):
            raise ValueError(self._library.dmdkit_last_error().decode())

    def stream(self, *, past_limit: str = "stop", missing: str = "error", step_s: float = 0.0) -> CStream:
        options = _StreamOptions()
        self._library.dmdkit_stream_options_init(ctypes.byref(options))
        options.past_limit, options.step_s = past_limit.encode(), step_s
        options.missing[:] = [missing.encode()] * 3
        stream = ctypes.c_void_p()
        self.call("dmdkit_stream_open", self._runtime, ctypes.byref(options), ctypes.byref(stream))
        return CStream(self, stream)

    def close(self) -> None:
        self._library.dmdkit_close(self._runtime)


class CStream:
    """A stream of the C interface, of a model with one score."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    def push(self, rows: dict[str, np.ndarray], times: Sequence[float] | None = None) -> Answer | None:
        """Rows (m, D); a modality that is not there is missing."""
        steps, answer = _Steps(struct_size=ctypes.sizeof(_Steps)), _Answer(struct_size=ctypes.sizeof(_Answer))
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in rows.items()}
        steps.count = len(next(iter(arrays.values())))
        for i, name in enumerate(MODALITIES):
            if name not in arrays:
                steps.missing |= 1 << i
                continue
            steps.data[i], steps.values[i] = arrays[name].ctypes.data_as(_FLOATS), arrays[name].size
        if times is not None:
            steps.timed, steps.time_s[:] = 7, list(times)
        room = steps.count + 1024
        score, logits, edges = (np.zeros((room, each), np.float32) for each in (1, 3, 6))
        for field, array in (("score", score), ("logit_hetero", logits), ("edges_hetero", edges)):
            setattr(answer, field, array.ctypes.data_as(_FLOATS))
            setattr(answer, f"{field}_count", array.size)
        self._library.call("dmdkit_stream_push", self._handle, ctypes.byref(steps), ctypes.byref(answer))
        n = answer.count
        strange = {name: share for name, share in zip(MODALITIES, answer.out_of_range, strict=True) if share}
        return Answer(score[:n], logits[:n], edges[:n], answer.steps, strange) if n else None

    def snapshot(self) -> bytes:
        size = _SIZE()
        self._library.call("dmdkit_stream_snapshot", self._handle, None, ctypes.byref(size))
        found = ctypes.create_string_buffer(size.value)
        self._library.call("dmdkit_stream_snapshot", self._handle, found, ctypes.byref(size))
        return found.raw

    def restore(self, snapshot: bytes) -> None:
        self._library.call("dmdkit_stream_restore", self._handle, snapshot, _SIZE(len(snapshot)))

    def close(self) -> None:
        self._library.call("dmdkit_stream_reset", self._handle)
        self._library._library.dmdkit_stream_close(self._handle)
