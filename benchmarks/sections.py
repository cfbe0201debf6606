"""The sections: each returns plain values for JSON. No section asserts a time; all check that the answers agree."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engines import (
    Call,
    compiled,
    compiler_missing,
    in_onnxruntime,
    in_openvino,
    in_torch,
    openvino_missing,
    ort_session,
)
from benchmarks.models import FullModel, Graph, Models, mosi_shape
from benchmarks.native import native
from benchmarks.timing import rows as rows_of
from dmdkit.calibration import lower_for_cpu
from dmdkit.export import StudentModule
from dmdkit.parity.timing import Target, footprint, timed_rounds
from dmdkit.runtime import Runtime

AGREES = 1e-4
"""The answers of everything that claims fp32 lie this near the PyTorch model's; outputs are about 0.1 to 1 in size."""

NAIVE = "naive export, ONNX Runtime"
STUDENT = "student fp32, ONNX Runtime"
Row = dict[str, Any]


class Context:
    """Options, and models shared by sections."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.rounds: int = options.rounds
        self.growth_rounds: int = options.growth_rounds
        self.threads: int = options.threads
        self.tiny: bool = options.tiny
        self.compile: bool = not options.no_compile
        self._folder = tempfile.TemporaryDirectory(prefix="dmdkit-bench-")
        self.work = Path(self._folder.name)
        torch.set_num_threads(self.threads)

    @cached_property
    def main(self) -> Models:
        """The headline size: word-aligned CMU-MOSI."""
        lengths = (8, 8, 8) if self.tiny else (50, 50, 50)
        return Models(mosi_shape(lengths, tiny=self.tiny), self.work / "main")


def _check(calls: dict[str, Call], expected: Any, loose: tuple[str, ...] = ()) -> dict[str, float]:
    errors = {name: float(np.abs(np.asarray(call()) - expected).max()) for name, call in calls.items()}
    for name, error in errors.items():
        if name not in loose and not error <= AGREES:
            raise SystemExit(f"{name} differs from the PyTorch model by {error:.2e}; its time means nothing")
    return errors


def headline(context: Context) -> Row:
    """Batch 1 at the headline size: everything a user might do, interleaved."""
    models, threads, skipped = context.main, context.threads, {}
    feed = models.sample()
    calls: dict[str, Call] = {
        NAIVE: in_onnxruntime(models.naive, feed, threads),
        STUDENT: in_onnxruntime(models.student, feed, threads),
        "student fp32, the same again": in_onnxruntime(models.student, feed, threads),
    }
    int8 = _int8(models)
    calls["student int8-cpu, ONNX Runtime"] = int8(feed, threads)
    loose = ["student int8-cpu, ONNX Runtime"]
    reason = openvino_missing()
    if reason is None:
        calls["naive export, OpenVINO"] = in_openvino(models.naive, feed, threads)
        calls["student fp32, OpenVINO"] = in_openvino(models.student, feed, threads)
        calls["naive export, OpenVINO bf16"] = in_openvino(models.naive, feed, threads, precision="bf16")
        loose.append("naive export, OpenVINO bf16")
    else:
        skipped["OpenVINO"] = reason
    full, student = FullModel(models.system.dmd).eval(), StudentModule(models.system.dmd).eval()
    calls["published model, PyTorch eager"] = in_torch(full, feed)
    calls["student, PyTorch eager"] = in_torch(student, feed)
    reason = compiler_missing() if context.compile else "left out with --no-compile"
    if reason is None:
        reason = _add_compiled(calls, student, feed)
    if reason is not None:
        skipped["torch.compile"] = reason
    expected = calls["published model, PyTorch eager"]()
    errors = _check(calls, expected, tuple(loose))
    rows = rows_of(timed_rounds(calls, context.rounds), NAIVE)
    for row in rows:
        row["max_error"] = errors[row["name"]]
    return {
        "nodes": {"naive export": models.naive.nodes, "student": models.student.nodes},
        "rows": rows,
        "skipped": skipped,
        "goals": _goals({row["name"]: row for row in rows}),
    }


def _int8(models: Models) -> Callable[..., Call]:
    import onnx

    lowering = lower_for_cpu(onnx.load_from_string(models.student.data))

    def build(feed: Any, threads: int) -> Call:
        from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner

        runner = OnnxRuntimeRunner("int8-cpu", lowering.model.SerializeToString(), lowering.session_options, threads=threads)
        return lambda: runner.infer(feed)["score"]

    return build


def _add_compiled(calls: dict[str, Call], student: torch.nn.Module, feed: Any) -> str | None:
    logging.getLogger("torch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call = in_torch(compiled(student), feed)
            call()
        except Exception as cause:  # a compiler fails in many ways, and none of them is ours
            return f"torch.compile failed: {' '.join(str(cause).split()):.200}"
    calls["student, torch.compile"] = call
    return None


def _goal(what: str, row: Row, base: Row, limit: float) -> Row:
    """A ratio by both clocks; it is met only if it is by both."""
    wall, cpu = row["p50_ms"] / base["p50_ms"], row["cpu_ms"] / base["cpu_ms"]
    return {"what": what, "ratio": wall, "cpu_ratio": cpu, "goal": limit, "met": max(wall, cpu) <= limit}


def _goals(rows: dict[str, Row]) -> list[Row]:
    goals = [_goal("student fp32 / naive export, ONNX Runtime", rows[STUDENT], rows[NAIVE], 0.75)]
    other = rows.get("naive export, OpenVINO")
    if other is not None:
        best = min((rows[STUDENT], rows["student fp32, OpenVINO"]), key=lambda row: float(row["cpu_ms"]))
        goals.append(_goal("our best fp32 CPU backend / OpenVINO on the naive export", best, other, 0.8))
    goals.append(_goal("int8-cpu / fp32, ONNX Runtime", rows["student int8-cpu, ONNX Runtime"], rows[STUDENT], 1.03))
    return goals


def overhead(context: Context) -> Row:
    """``Runtime.predict`` against ``session.run`` on the same graph, and where the difference goes."""
    models, bundle = context.main, context.main.bundle
    feed = models.sample()
    single = {name: array[0] for name, array in feed.items()}
    with Runtime.open(bundle.path, graph="fp32", backend="onnxruntime", threads=context.threads) as runtime:
        # The runtime's own session: two sessions of one graph differ by several per cent, by where their memory lies.
        session = runtime._runner._session  # type: ignore[attr-defined]
        calls: dict[str, Call] = {
            "session.run": lambda: session.run(["score"], feed)[0],
            "Runtime.predict": lambda: runtime.predict(**feed).score,
            "Runtime.predict, no batch axis": lambda: runtime.predict(**single).score,
        }
        _check(calls, calls["session.run"]())
        rows = rows_of(timed_rounds(calls, context.rounds), "session.run")
    by_name = {row["name"]: row for row in rows}
    return {
        "rows": rows,
        "goals": [_goal("Runtime.predict / session.run", by_name["Runtime.predict"], by_name["session.run"], 1.05)],
    }


def growth(context: Context) -> Row:
    """Cost by batch and by length; the last row of lengths is the unaligned size."""
    rounds, threads = context.growth_rounds, context.threads
    batches = (1, 2) if context.tiny else (1, 8, 32)
    calls: dict[str, Call] = {}
    for batch in batches:
        feed = context.main.sample(batch)
        calls[f"naive export, batch {batch}"] = in_onnxruntime(context.main.naive, feed, threads)
        calls[f"student fp32, batch {batch}"] = in_onnxruntime(context.main.student, feed, threads)
        if openvino_missing() is None:
            calls[f"student fp32, OpenVINO, batch {batch}"] = in_openvino(context.main.student, feed, threads)
    by_batch = rows_of(timed_rounds(calls, rounds), f"naive export, batch {batches[0]}")
    lengths = [(8, 8, 8), (8, 12, 16)] if context.tiny else [(12, 12, 12), (24, 24, 24), (50, 50, 50), (104, 104, 104)]
    if not context.tiny:
        lengths.append((50, 375, 500))
    by_length = []
    for size in lengths:
        models = Models(mosi_shape(size, tiny=context.tiny), context.work / "growth")
        feed = models.sample()
        pair = {"naive": in_onnxruntime(models.naive, feed, threads), "student": in_onnxruntime(models.student, feed, threads)}
        if openvino_missing() is None:
            pair["openvino"] = in_openvino(models.student, feed, threads)
        _check(pair, pair["naive"]())
        found = {row["name"]: row for row in rows_of(timed_rounds(pair, rounds, seconds=30.0), "naive")}
        by_length.append(
            {
                "projected_steps": list(models.shape.projected_lengths.values()),
                "naive_ms": found["naive"]["p50_ms"],
                "student_ms": found["student"]["p50_ms"],
                "student_openvino_ms": found["openvino"]["p50_ms"] if "openvino" in found else None,
                "ratio": found["student"]["ratio"],
                "cpu_ratio": found["student"]["cpu_ratio"],
                "rounds": found["student"]["rounds"],
            }
        )
    return {"by_batch": by_batch, "by_length": by_length}


def footprints(context: Context) -> Row:
    """Peak memory and time to open, each in a process of its own; import and ``--help`` in fresh interpreters."""
    bundle = context.main.bundle
    naive = context.work / "naive.onnx"
    naive.write_bytes(context.main.naive.data)
    rows: list[Row] = []
    targets = [Target("fusion.fp32", "onnxruntime")]
    if openvino_missing() is None:
        targets.append(Target("fusion.fp32", "openvino"))
    for target in targets:
        found = footprint(bundle.path, target, threads=context.threads)
        if found is not None:
            rows.append({"name": f"student, {target.backend}", "peak_mb": found.peak_bytes / 1e6, "open_ms": found.open_ms})
    rows.append({"name": "naive export, onnxruntime", **_raw_footprint(naive, context.threads)})
    commands = {
        "import dmdkit.runtime": [sys.executable, "-c", "import dmdkit.runtime"],
        "import onnxruntime (theirs)": [sys.executable, "-c", "import onnxruntime"],
        "dmdkit --help": [sys.executable, "-m", "dmdkit.cli", "--help"],
        "an empty interpreter": [sys.executable, "-c", "pass"],
    }
    starts = {name: _cpu_seconds(command) for name, command in commands.items()}
    opened = [row["open_ms"] / 1e3 for row in rows if row["name"] == "student, onnxruntime"]
    goals = [
        {"what": "dmdkit --help, CPU seconds", "cpu_ratio": starts["dmdkit --help"], "goal": 0.3},
        {"what": "import dmdkit.runtime, CPU seconds", "cpu_ratio": starts["import dmdkit.runtime"], "goal": 0.3},
        *({"what": "open student fp32, seconds", "ratio": value, "goal": 0.5} for value in opened),
    ]
    return {
        "rows": rows,
        "starts_cpu_s": starts,
        "goals": [{**goal, "met": max(goal.get("ratio", 0), goal.get("cpu_ratio", 0)) < goal["goal"]} for goal in goals],
    }


_RAW_PROBE = """
import json, sys, time
import numpy as np
begin = time.perf_counter()
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
start = time.perf_counter()
session = ort.InferenceSession(sys.argv[1], options)
opened = time.perf_counter()
feed = {i.name: np.ones((1, *i.shape[1:]), np.float32) for i in session.get_inputs()}
for _ in range(6):
    session.run(None, feed)
from dmdkit.parity.footprint_probe import peak_memory_bytes
print(json.dumps({"peak_mb": peak_memory_bytes() / 1e6, "open_ms": (opened - start) * 1e3}))
"""


def _raw_footprint(path: Path, threads: int) -> Row:
    done = subprocess.run(
        [sys.executable, "-c", _RAW_PROBE, str(path), str(threads)], capture_output=True, check=True, timeout=120
    )
    value: Row = json.loads(done.stdout)
    return value


def _cpu_seconds(command: list[str], repeats: int = 5) -> float:
    """Median user and system time of a child: what the machine did, however busy it was otherwise."""
    found = []
    for _ in range(repeats + 1):
        before = os.times()
        subprocess.run(command, capture_output=True, check=True, timeout=120)
        after = os.times()
        found.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return float(np.median(found[1:]))  # the first one filled the file cache


def profile(context: Context) -> Row:
    """Kernel time per operator in ONNX Runtime; profiling itself adds about a microsecond a node."""
    return {
        name: _profile(context, graph) for name, graph in (("student", context.main.student), ("naive", context.main.naive))
    }


def _profile(context: Context, graph: Graph) -> Row:
    session = ort_session(graph.data, context.threads, profile=str(context.work / "profile"))
    feed, runs = context.main.sample(), max(2, context.growth_rounds)
    for _ in range(runs):
        session.run([graph.score], feed)
    file = Path(session.end_profiling())
    events = json.loads(file.read_text(encoding="utf-8"))
    with contextlib.suppress(OSError):
        file.unlink()
    kernels = [e for e in events if e.get("cat") == "Node" and e.get("name", "").endswith("_kernel_time")]
    total = sum(e["dur"] for e in kernels)
    by_op: dict[str, list[int]] = {}
    for event in kernels:
        by_op.setdefault(event["args"]["op_name"], []).append(event["dur"])
    ops = [
        {"op": op, "share": sum(found) / total, "us": sum(found) / runs, "nodes": round(len(found) / runs)}
        for op, found in sorted(by_op.items(), key=lambda item: -sum(item[1]))
    ]
    return {"total_us": total / runs, "nodes": round(len(kernels) / runs), "ops": ops}


SECTIONS: dict[str, Callable[[Context], Row]] = {
    "headline": headline,
    "overhead": overhead,
    "growth": growth,
    "footprint": footprints,
    "profile": profile,
    "native": native,
}
