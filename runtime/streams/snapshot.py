"""A stream's state as bytes: the same for every backend, checked on the way in (docs/streaming.md has the layout)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmdkit.errors import InputError
from dmdkit.records import MODALITIES
from dmdkit.runtime.manifest import Manifest
from dmdkit.runtime.streams.arrival import Clock
from dmdkit.runtime.streams.state import StepState

__all__ = ["Held", "read_snapshot", "write_snapshot"]

Array = npt.NDArray[np.float32]
_MAGIC = b"dmdkitS1"
_HASH = 32


@dataclass(frozen=True)
class Held:
    """Everything a stream knows.

    Attributes:
        heard: Steps pushed since the last reset.
        states: The state that answers and, while it is primed, the one that will follow it.
        starts: Number of each one's first step.
        waiting: Modality -> float32 (n, D), steps of the second that it was not fed yet.
        clock: When steps came.
    """

    heard: int
    states: Sequence[StepState]
    starts: Sequence[int]
    waiting: dict[str, Array]
    clock: Clock


def write_snapshot(held: Held, graph_sha256: str) -> bytes:
    """The bytes.

    Args:
        held: What to write.
        graph_sha256: Hash of the step graph's file, which says of which bundle and precision the state is.
    """
    parts = [_MAGIC, bytes.fromhex(graph_sha256), _integers(held.heard, len(held.states))]
    for state, start in zip(held.states, held.starts, strict=True):
        parts.append(_integers(start, state.steps))
        kept = min(state.steps, state.record.kernel - 1)
        parts += [_floats(state.recent[name][:kept]) for name in MODALITIES]
        parts += [_floats(tensor[:, :, : state.projected].transpose(2, 0, 1)) for tensor in state.tensors.values()]
    parts.append(_integers(len(held.waiting["text"])))
    parts += [_floats(held.waiting[name]) for name in MODALITIES]
    clock = held.clock
    times = [clock.now, *(clock.last.get(name) for name in MODALITIES)]
    parts.append(np.array([np.nan if value is None else value for value in times], "<f8").tobytes())
    parts.append(_integers(*(int(name in clock.held) for name in MODALITIES)))
    parts += [_floats(clock.held[name]) for name in MODALITIES if name in clock.held]
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def read_snapshot(data: object, graph_sha256: str, manifest: Manifest) -> Held:
    """What :func:`write_snapshot` wrote.

    Raises:
        InputError: It is none, damaged, of another version, or of another bundle or precision.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(f"a snapshot is bytes, found {type(data).__name__}")
    whole = bytes(data)
    if len(whole) < len(_MAGIC) + 2 * _HASH or whole[:7] != _MAGIC[:7]:
        raise InputError("these bytes are no snapshot of a stream")
    if whole[:8] != _MAGIC:
        raise InputError(f"the snapshot has version {whole[7:8]!r}, this dmdkit reads {_MAGIC[7:8]!r}")
    body, checksum = whole[:-_HASH], whole[-_HASH:]
    if hashlib.sha256(body).digest() != checksum:
        raise InputError("the snapshot is damaged: its checksum differs")
    if body[8 : 8 + _HASH].hex() != graph_sha256:
        raise InputError("the snapshot is of another bundle, or of another precision of this one")
    reader = _Reader(body[8 + _HASH :])
    try:
        return _held(reader, manifest)
    except ValueError as cause:
        raise InputError(f"the snapshot is damaged: {cause}") from cause


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def _take(self, count: int) -> bytes:
        if count < 0 or count > len(self._data) - self._at:
            raise ValueError("it is too short")
        self._at += count
        return self._data[self._at - count : self._at]

    def integer(self, least: int, most: int) -> int:
        value = int.from_bytes(self._take(8), "little", signed=True)
        if not least <= value <= most:
            raise ValueError(f"it holds {value} where {least} to {most} is possible")
        return value

    def floats(self, *shape: int) -> Array:
        array = np.frombuffer(self._take(4 * int(np.prod(shape))), "<f4").reshape(shape).astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError("it holds a value that is not finite")
        return array

    def times(self, count: int) -> list[float | None]:
        return [None if np.isnan(value) else float(value) for value in np.frombuffer(self._take(8 * count), "<f8")]

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError("it is too long")


def _held(reader: _Reader, manifest: Manifest) -> Held:
    widths = {name: manifest.inputs[name].features for name in MODALITIES}
    heard, count = reader.integer(0, 2**62), reader.integer(1, 2)
    states, starts = [], []
    for _ in range(count):
        state = StepState(manifest)
        starts.append(reader.integer(0, heard))
        state.steps = reader.integer(0, state.room)
        kept = min(state.steps, state.record.kernel - 1)
        for name in MODALITIES:
            state.recent[name][:kept] = reader.floats(kept, widths[name])
        for tensor in state.tensors.values():
            tensor[:, :, : state.projected] = reader.floats(state.projected, *tensor.shape[:2]).transpose(1, 2, 0)
        states.append(state)
    if starts[0] + states[0].steps != heard:
        raise ValueError("its counts of steps do not go together")
    fed = starts[-1] + states[-1].steps
    number = reader.integer(0, heard - fed if count == 2 else 0)
    waiting = {name: reader.floats(number, widths[name]) for name in MODALITIES}
    now, *last = reader.times(1 + len(MODALITIES))
    flags = [reader.integer(0, 1) for _ in MODALITIES]
    held = {name: reader.floats(widths[name]) for name, flag in zip(MODALITIES, flags, strict=True) if flag}
    reader.end()
    known = {name: value for name, value in zip(MODALITIES, last, strict=True) if value is not None}
    return Held(heard, states, starts, waiting, Clock(now, known, held))


def _integers(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()


def _floats(array: Array) -> bytes:
    return np.ascontiguousarray(array, "<f4").tobytes()
