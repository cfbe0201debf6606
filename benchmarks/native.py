"""The native kernels against ONNX Runtime: the headline size on each instruction set, other sizes and batches, the tail, and
how near products come to what the core can do."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from benchmarks.engines import Array, Call, in_onnxruntime
from benchmarks.models import Models, mosi_shape
from benchmarks.timing import rows as rows_of
from dmdkit.calibration import lower_for_cpu
from dmdkit.config import ModelShape
from dmdkit.export.native_plan import replan
from dmdkit.parity.timing import timed_rounds
from dmdkit.runtime.backends.native import NativeKernelsRunner, library_path, native_version

if TYPE_CHECKING:
    from benchmarks.sections import Context

__all__ = ["int8_of", "native", "native_calls", "native_missing"]

Row = dict[str, Any]
NAIVE, STUDENT = "naive export, ONNX Runtime", "student fp32, ONNX Runtime"
FP32, INT8 = "native fp32", "native int8"
AVX2 = " (avx2)"
AGREES = {FP32: 1e-5, INT8: 0.1, FP32 + AVX2: 1e-5, INT8 + AVX2: 0.1}
"""How near answers lie to ONNX Runtime's fp32 ones: INT8 is judged by parity, here only a mistake is looked for."""
TAIL_CALLS = 10_000
COLD_BYTES = 64 << 20
"""More than the caches of the cores this was measured on; written between two calls it leaves no weight in them."""


def native_missing() -> str | None:
    if native_version() is not None:
        return None
    return "libdmdkit_native.so is not here (make native, then DMDKIT_NATIVE_LIBRARY=build/native/lib/libdmdkit_native.so)"


@contextmanager
def instruction_set(name: str | None) -> Iterator[None]:
    """Sessions opened inside take this one; None: what fits the CPU."""
    before = os.environ.pop("DMDKIT_NATIVE_ISA", None)
    if name is not None:
        os.environ["DMDKIT_NATIVE_ISA"] = name
    try:
        yield
    finally:
        os.environ.pop("DMDKIT_NATIVE_ISA", None)
        if before is not None:
            os.environ["DMDKIT_NATIVE_ISA"] = before


def int8_of(models: Models) -> bytes:
    """The ``int8-cpu`` form of the student, with its plan."""
    fp32 = onnx.load_from_string(models.student.data)
    data: bytes = replan(lower_for_cpu(fp32).model, fp32).SerializeToString()
    return data


def in_native(data: bytes, feed: Mapping[str, Array], threads: int) -> Call:
    runner, inputs = NativeKernelsRunner("fusion", data, threads=threads), dict(feed)
    return lambda: runner.infer_checked(inputs)["score"]


def native_calls(models: Models, int8: bytes, feed: Mapping[str, Array], threads: int) -> dict[str, Call]:
    """fp32 and INT8."""
    return {FP32: in_native(models.student.data, feed, threads), INT8: in_native(int8, feed, threads)}


def _check(calls: Mapping[str, Call], expected: Array) -> None:
    for name, limit in AGREES.items():
        if name in calls and not (error := float(np.abs(calls[name]() - expected).max())) <= limit:
            raise SystemExit(f"{name} differs from ONNX Runtime by {error:.2e}; its time means nothing")


def _goal(what: str, row: Row, base: Row, limit: float) -> Row:
    wall, cpu = row["p50_ms"] / base["p50_ms"], row["cpu_ms"] / base["cpu_ms"]
    return {"what": what, "ratio": wall, "cpu_ratio": cpu, "goal": limit, "met": max(wall, cpu) <= limit}


def _headline(context: Context, int8: bytes) -> tuple[list[Row], list[Row]]:
    models, threads = context.main, context.threads
    feed = models.sample()
    calls = {NAIVE: in_onnxruntime(models.naive, feed, threads), STUDENT: in_onnxruntime(models.student, feed, threads)}
    calls |= native_calls(models, int8, feed, threads)
    version = str(native_version())
    if "avx512" in version:
        with instruction_set("avx2"):
            calls |= {name + AVX2: call for name, call in native_calls(models, int8, feed, threads).items()}
    _check(calls, calls[STUDENT]())
    rows = rows_of(timed_rounds(calls, context.rounds), NAIVE)
    by_name = {row["name"]: row for row in rows}
    limits = {"": (0.27, 0.14, 0.55), AVX2: (0.31, 0.22, 0.75)} if FP32 + AVX2 in calls else {}
    goals = []
    for suffix, (fp32, eight, both) in limits.items():
        goals += [
            _goal(f"{FP32}{suffix} / naive export", by_name[FP32 + suffix], by_name[NAIVE], fp32),
            _goal(f"{INT8}{suffix} / naive export", by_name[INT8 + suffix], by_name[NAIVE], eight),
            _goal(f"{INT8}{suffix} / {FP32}{suffix}", by_name[INT8 + suffix], by_name[FP32 + suffix], both),
        ]
    return rows, goals


def _sizes(context: Context) -> Iterator[tuple[str, ModelShape, int]]:
    if context.tiny:
        yield "tiny, batch 2", mosi_shape((8, 12, 16), tiny=True), 2
        return
    for batch in (1, 8, 32):
        yield f"aligned MOSI, batch {batch}", mosi_shape(), batch
    for steps in (8, 20, 100):
        yield f"{steps} projected steps", mosi_shape((steps + 4,) * 3), 1
    yield "unaligned, 46/371/496 projected steps", mosi_shape((50, 375, 500)), 1
    small = mosi_shape((20, 20, 20)).model_dump() | {"width": 30, "heads": 6, "levels": 2}
    small["kernels"] = dict.fromkeys(small["kernels"], 1)
    small["feature_dims"] = {"text": 100, "audio": 73, "vision": 100}
    yield "the small recipe, 20 steps", ModelShape.model_validate(small), 1


def _by_size(context: Context) -> list[Row]:
    found, kept = [], {}
    for name, shape, batch in _sizes(context):
        key = shape.model_dump_json()
        models = kept[key] if key in kept else Models(shape, context.work / "native")
        kept = {key: models}
        feed, int8 = models.sample(batch), int8_of(models)
        calls = {STUDENT: in_onnxruntime(models.student, feed, context.threads)}
        calls |= native_calls(models, int8, feed, context.threads)
        _check(calls, calls[STUDENT]())
        rows = {row["name"]: row for row in rows_of(timed_rounds(calls, context.growth_rounds, seconds=20.0), STUDENT)}
        columns = {label: rows[label] for label in (FP32, INT8)}
        found.append(
            {"name": name, "student_ms": rows[STUDENT]["p50_ms"]}
            | {f"{label} {key}": row[key] for label, row in columns.items() for key in ("p50_ms", "ratio", "cpu_ratio")}
        )
    return found


def _tail(context: Context, int8: bytes) -> list[Row]:
    """Many calls of each, one after the other, and once more with cold caches."""
    models = context.main
    calls = native_calls(models, int8, models.sample(), context.threads)
    times = timed_rounds(calls, 20 if context.tiny else TAIL_CALLS)
    rows = rows_of(times, FP32)
    of_cpu = {name: float(np.percentile(found.cpu, 99) / np.median(found.cpu)) for name, found in times.items()}
    filler = np.zeros(COLD_BYTES // 8)

    cold_rows = []
    if not context.tiny:
        times = timed_rounds(calls, context.growth_rounds, before_call=lambda: filler.__iadd__(1.0))
        cold_rows = rows_of(times, FP32)
    found = [
        {
            "name": row["name"],
            "p50_ms": row["p50_ms"],
            "p99_to_p50": row["p99_ms"] / row["p50_ms"],
            "cpu_p99_to_p50": of_cpu[row["name"]],
        }
        for row in rows
    ]
    empty = {"p99_to_p50": None, "cpu_p99_to_p50": None}
    return [*found, *({"name": f"{row['name']}, cold caches", "p50_ms": row["p50_ms"], **empty} for row in cold_rows)]


def _threads(context: Context, int8: bytes) -> list[Row]:
    """Two threads inside a call against one: medians, and the fastest tenth, which other work disturbs less."""
    if (os.cpu_count() or 1) < 2:
        return []
    found = []
    for batch in (1, 8):
        feed = context.main.sample(batch)
        calls = {f"{name}, {n}": call for n in (1, 2) for name, call in native_calls(context.main, int8, feed, n).items()}
        rows = {row["name"]: row for row in rows_of(timed_rounds(calls, context.growth_rounds), f"{FP32}, 1")}
        for name in (FP32, INT8):
            one, two = rows[f"{name}, 1"], rows[f"{name}, 2"]
            ratios = {f"ratio_{q}": two[f"{q}_ms"] / one[f"{q}_ms"] for q in ("p10", "p50")}
            found.append({"name": f"{name}, batch {batch}", "one_ms": one["p50_ms"], "two_ms": two["p50_ms"], **ratios})
    return found


def _opening(context: Context, int8: bytes) -> list[Row]:
    """CPU time from an ONNX file in memory to a session, of another file each time: equal ones share weights."""
    found = []
    for name, data in ((FP32, context.main.student.data), (INT8, int8)):
        times = []
        for index in range(3 if context.tiny else 15):
            renamed = data + b"\x32\x01" + bytes([65 + index])  # onnx.proto: ModelProto.doc_string, of one letter
            begin = time.process_time()
            NativeKernelsRunner("fusion", renamed).close()
            times.append(time.process_time() - begin)
        found.append({"name": name, "cpu_ms": float(np.median(times)) * 1e3})
    return found


def _rates() -> list[Row]:
    """Multiply-adds a second of products and of registers alone, from the program built beside the library."""
    path = library_path()
    program = None if path is None else path.parent.parent / "bin/dmdkit_native_rate"
    if program is None or not program.is_file():
        return []
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]


def native(context: Context) -> Row:
    """Everything above; empty with a reason where the library is missing."""
    reason = native_missing()
    if reason is not None:
        return {"skipped": reason}
    int8 = int8_of(context.main)
    rows, goals = _headline(context, int8)
    return {
        "version": native_version(),
        "rows": rows,
        "goals": goals,
        "by_size": _by_size(context),
        "tail": _tail(context, int8),
        "threads": _threads(context, int8),
        "opening": _opening(context, int8),
        "rates": _rates(),
    }
