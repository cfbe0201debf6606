"""A small fusion graph for the native backend: initialisers and a plan, which is all it reads of an ONNX file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["native_graph"]

GRAPH_ORDER = ("text", "vision", "audio")
FLOAT, INT8 = 1, 3
_WIDTH, _HEADS, _STEPS, _FEATURES, _KERNEL = 4, 2, 3, 2, 2


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _layers() -> Iterator[tuple[str, int, int, int]]:
    """Name, rows, depth and taps of every layer."""
    d = _WIDTH
    for m in GRAPH_ORDER:
        yield f"{m}.encode", 2 * d, _FEATURES, _KERNEL
        blocks = [(f"cross.{m}.{source}.0", d) for source in GRAPH_ORDER if source != m]
        blocks += [(f"memory.{m}.{level}", 2 * d) for level in range(2)] + [(f"self.{m}.last", d), (f"memory.{m}.last", 2 * d)]
        for name, e in blocks:
            key = ("query_for_source", _HEADS * e, e // _HEADS) if name.endswith("last") else ("key", e, e)
            for part, rows, depth in (
                ("query", e, e),
                key,
                ("value", e, e),
                ("out", e, e),
                ("fc1", 4 * e, e),
                ("fc2", e, 4 * e),
            ):
                yield f"{name}.{part}", rows, depth, 1
        yield f"memory.{m}.input", 2 * d, 2 * d, 1
        yield f"gate.{m}", 2 * d, 2 * d, 1
    yield "gate.common", 3 * d, 3 * d, 1
    yield "readout.hidden", 9 * d, 9 * d, 1
    yield "readout.out", 1, 18 * d, 1


def native_graph(*, int8: bool) -> bytes:
    """The file, with random weights."""
    generator, tensors = np.random.default_rng(0), b""
    sizes = {"width": _WIDTH, "heads": _HEADS, "outputs": 1, "levels": 1, "memory_levels": 3}
    sizes |= {f"{m}.{k}": v for m in GRAPH_ORDER for k, v in (("steps", _STEPS), ("features", _FEATURES), ("kernel", _KERNEL))}
    plan = ["dmdkit plan 1", *(f"{name} {value}" for name, value in sizes.items())]
    names = iter(range(10_000))

    def tensor(array: npt.NDArray[np.generic]) -> str:
        nonlocal tensors
        name, kind = f"c{next(names)}", INT8 if array.dtype == np.int8 else FLOAT
        dims = b"".join(_field(1, size) for size in array.shape)
        tensors += _field(5, dims + _field(2, kind) + _field(8, name.encode()) + _field(9, array.tobytes()))
        return name

    for name, rows, depth, taps in _layers():
        bias = tensor(generator.normal(size=rows).astype(np.float32))
        if int8:
            weight = tensor(generator.integers(-127, 128, (rows, depth, taps)).astype(np.int8))
            plan.append(f"{name} weight={weight} scale={tensor(np.full(rows, 0.01, np.float32))} bias={bias} row=0")
        else:
            plan.append(f"{name} weight={tensor(generator.normal(size=(rows, depth, taps)).astype(np.float32))} bias={bias}")
    for m in GRAPH_ORDER:
        plan.append(f"{m}.positions weight={tensor(np.ones((2 * _WIDTH, _STEPS - _KERNEL + 1), np.float32))}")
        plan.append(f"memory.{m}.positions weight={tensor(np.ones((1, 2 * _WIDTH, _STEPS), np.float32))}")
    text = "\n".join(plan) + "\n"
    return _field(7, tensors) + _field(14, _field(1, b"dmdkit.plan") + _field(2, text.encode()))
