"""What a push costs beside a window, at the published MOSI sizes: ``python -m benchmarks.streaming``.

One thread, CPU time, windows and pushes interleaved in one run; every answer is compared with its window's first. Then each
graph is pushed past the longest trained length under ``past_limit="window"``: the spread of the pushes, and each answer
against the window of the steps it says it rests on. With ``--cpp PATH/TO/dmdkit-run`` C++ is timed beside Python, in wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
PUSHES = (1, 2, 4, 8)
_NAIVE = "naive export, window"
_PASSES = 3


def _cpu_ms(call: Any) -> float:
    begin = time.thread_time()
    call()
    return (time.thread_time() - begin) * 1e3


def _rows(shape: Any, steps: int, seed: int) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(size=(steps, width)).astype(np.float32) for name, width in shape.feature_dims.as_dict().items()
    }


def _new_state(runner: Any, manifest: Any) -> Any:
    from dmdkit.runtime.streams.state import StepState

    return getattr(runner, "new_state", StepState)(manifest)


def _native(models: Any, graphs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Step runners and windows on the native kernels, by precision; empty where their library is not here."""
    from benchmarks.native import int8_of, native_missing
    from dmdkit.runtime.backends.native import NativeKernelsRunner, NativeSteps
    from dmdkit.runtime.streams.native import NativeStepRunner

    missing = native_missing()
    if missing:
        print(f"no native kernels: {missing}", file=sys.stderr)
        return {}, {}
    fusion = {"fp32": models.student.data, "int8-cpu": int8_of(models)}
    runners = {
        f"native {g.precision}": NativeStepRunner(g.name, NativeSteps(g.name, fusion[g.precision], g.model.SerializeToString()))
        for g in graphs
    }
    return runners, {f"native {p}, window": NativeKernelsRunner("fusion", data) for p, data in fusion.items()}


def _largest_differences(models: Any, manifest: Any, runner: Any, samples: int) -> dict[int, float]:
    """Steps a push -> largest difference from PyTorch's window of any prefix of so many random samples."""
    import torch

    shape, worst = models.shape, dict.fromkeys(PUSHES, 0.0)
    total, kernel = shape.lengths.text, shape.kernels.text
    for sample in range(samples):
        rows = _rows(shape, total, sample)
        steps = torch.arange(kernel, total + 1)
        with torch.inference_mode():
            many = {name: torch.from_numpy(array).expand(len(steps), -1, -1) for name, array in rows.items()}
            truth = models.system(**many, steps=steps).model.output.numpy()
        for size in PUSHES:
            state, found = _new_state(runner, manifest), []
            for at in range(0, total, size):
                answers = state.advance(runner, {name: array[at : at + size] for name, array in rows.items()})
                found += [answers["score"]] if answers else []
            worst[size] = max(worst[size], float(np.abs(np.concatenate(found) - truth).max()))
    return worst


def _past_the_limit(models: Any, manifest: Any, runner: Any, pushes: int) -> tuple[list[float], float]:
    """CPU ms of each push under ``window`` once the first state was full, and the largest difference of an answer.

    A push's time is the least of three streams over the same steps: what a push computes depends on its place alone.
    """
    from dmdkit.runtime.inputs import RangeGuard
    from dmdkit.runtime.streams.arrival import Arrivals
    from dmdkit.runtime.streams.stream import Stream

    total = models.shape.lengths.text
    rows = _rows(models.shape, total + pushes, 7)
    times: list[list[float]] = []
    worst = 0.0
    for passed in range(_PASSES):
        stream = Stream(runner, manifest, Arrivals(manifest, "error", None, None), "window", RangeGuard({}), lambda _: None)
        times.append([])
        for at in range(total + pushes):
            part, answers = {name: array[at] for name, array in rows.items()}, []
            taken = _cpu_ms(lambda part=part, answers=answers, stream=stream: answers.append(stream.push(**part)))
            if at >= total:
                times[-1].append(taken)
                worst = worst if passed else max(worst, _apart(models, rows, at, answers[0]))
    return np.min(times, axis=0).tolist(), worst


def _apart(models: Any, rows: dict[str, Array], at: int, answer: Any) -> float:
    """Difference of the answer at step ``at`` from PyTorch's window of the steps it says it rests on."""
    import torch

    total, feed = models.shape.lengths.text, {}
    for name, array in rows.items():
        window = np.zeros((1, total, array.shape[1]), np.float32)
        window[0, : answer.steps] = array[at + 1 - answer.steps : at + 1]
        feed[name] = torch.from_numpy(window)
    with torch.inference_mode():
        truth = models.system(**feed, steps=torch.tensor([answer.steps])).model.output.numpy()[0]
    return float(np.abs(truth - answer.score).max())


def _timed(
    runners: dict[str, Any], windows: dict[str, Any], manifest: Any, rows: dict[str, Array], rounds: int, *, cold: bool
) -> tuple[dict[str, list[float]], dict[str, dict[str, list[float]]]]:
    """CPU ms of windows and pushes, interleaved; and by runner those of the first and of the last pushes of one step.

    Each is run once before it is timed, as in a loop of its own; ``cold``: not, so the others were between two calls.
    """
    times: dict[str, list[float]] = {}
    held = {(p, size): _new_state(runner, manifest) for p, runner in runners.items() for size in PUSHES}
    ends: dict[str, dict[str, list[float]]] = {p: {"first": [], "last": []} for p in runners}
    for _ in range(rounds):
        for name, call in windows.items():
            if not cold:
                call()
            times.setdefault(name, []).append(_cpu_ms(call))
        for (precision, size), state in held.items():
            runner, part = runners[precision], {name: array[:size] for name, array in rows.items()}
            if state.room < (1 if cold else 2) * size:
                state.clear()
            while state.steps < manifest.stream.kernel - 1:
                state.advance(runner, {name: array[:1] for name, array in rows.items()})
            if not cold:
                state.advance(runner, part)
            place = state.projected
            taken = _cpu_ms(lambda state=state, runner=runner, part=part: state.advance(runner, part))
            times.setdefault(f"{precision} m={size}", []).append(taken)
            if size == 1 and (place < 5 or state.room < 5):
                ends[precision]["first" if place < 5 else "last"].append(taken)
    return times, ends


def _print_times(times: dict[str, list[float]], ends: dict[str, dict[str, list[float]]], total: int) -> None:
    median = {name: float(np.median(values)) for name, values in times.items()}
    print("| | CPU ms, median | of its window | of the naive export's window | per step |\n|---|---|---|---|---|")
    for name, found in median.items():
        key, _, count = name.rpartition(" m=")
        of_its = found / median.get(f"{key}, window", median["window"]) if count.isdigit() else 1.0
        steps = int(count) if count.isdigit() else total
        print(f"| {name} | {found:.2f} | {of_its:.3f} | {found / median[_NAIVE]:.3f} | {found / steps:.2f} |")
    for name, found in ends.items():
        if found["first"] and found["last"]:
            print(f"{name}: last steps over first steps: {np.median(found['last']) / np.median(found['first']):.2f}")


def _print_past_the_limit(models: Any, manifest: Any, runners: dict[str, Any], pushes: int) -> None:
    for precision, runner in runners.items():
        taken_ms, apart = _past_the_limit(models, manifest, runner, pushes)
        middle, (fed, p99, most) = float(np.median(taken_ms)), np.quantile(taken_ms, [0.88, 0.99, 1.0])
        print(
            f"{precision}, {pushes} pushes past the limit: median {middle:.2f} ms, {fed / middle:.2f} of it in the middle of "
            f"the quarter that feeds the next state, p99 {p99 / middle:.2f}, largest {most / middle:.2f}; largest difference "
            f"from the window of the steps an answer rests on {apart:.1e}"
        )


def _beside_cpp(models: Any, program: Path, rounds: int) -> None:
    """Prints the median push of ``dmdkit-run --stream`` and of Python on the same bundle, taken in turns."""
    from safetensors.numpy import save_file

    from dmdkit.export import ExportOptions
    from dmdkit.runtime import Runtime

    bundle = models.exported("stream.dmd", ExportOptions(force=True, stream=True)).path
    rows = _rows(models.shape, models.shape.lengths.text, 0)
    save_file({name: array[None] for name, array in rows.items()}, models.work / "rows.safetensors")
    command = [str(program), str(bundle), "--input", str(models.work / "rows.safetensors"), "--stream", "--graph", "fp32"]
    found: dict[str, list[float]] = {"Python": [], "C++": []}
    with Runtime.open(bundle, graph="fp32") as runtime:
        stream = runtime.stream()
        for _ in range(rounds):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found["C++"] += [json.loads(line)["latency_ms"] for line in done.stdout.splitlines()]
            stream.reset()
            pushed = (stream.push(**{name: array[at] for name, array in rows.items()}) for at in range(len(rows["text"])))
            found["Python"] += [answer.latency_ms for answer in pushed if answer is not None]
    python, cpp = (float(np.median(found[name])) for name in ("Python", "C++"))
    print(f"push of 1 step, fp32, wall time: Python {python:.2f} ms, C++ {cpp:.2f} ms, {cpp / python:.2f} of it")


def main(arguments: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--samples", type=int, default=4, help="random samples of which every prefix is compared")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the benchmark itself")
    parser.add_argument("--pushes", type=int, default=1000, help="pushes past the limit, each compared with its window")
    parser.add_argument("--cold", action="store_true", help="time calls that had all others before them, with their weights")
    parser.add_argument("--cpp", type=Path, help="a dmdkit-run to time beside Python")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    from benchmarks.engines import in_onnxruntime
    from benchmarks.models import Models, mosi_shape
    from dmdkit.export.step_graphs import step_graphs, stream_record_of
    from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner

    with tempfile.TemporaryDirectory() as work:
        models = Models(mosi_shape(tiny=options.tiny), Path(work))
        shape, system = models.shape, models.system
        total = shape.lengths.text
        graphs = step_graphs(system, int8=True, on_step=lambda _: None)
        window = OnnxRuntimeRunner("fusion.fp32", models.student.data, {})
        runners: dict[str, Any] = {
            g.precision: OnnxRuntimeRunner(g.name, g.model.SerializeToString(), g.session_options) for g in graphs
        }
        native, native_windows = _native(models, graphs)
        runners |= native
        naive = in_onnxruntime(models.naive, {name: array[None] for name, array in _rows(shape, total, 0).items()}, 1)

        if options.cpp is not None:
            _beside_cpp(models, options.cpp, max(1, options.rounds // 20))

    widths = shape.feature_dims.as_dict()
    inputs = {name: SimpleNamespace(features=width, trained_absent=False) for name, width in widths.items()}
    record = stream_record_of(shape, graphs)
    assert record is not None
    files = {graph.file: SimpleNamespace(sha256="0" * 64) for graph in record.graphs.values()}
    manifest: Any = SimpleNamespace(stream=record, inputs=inputs, files=files)
    for precision, runner in runners.items():
        worst = _largest_differences(models, manifest, runner, options.samples)
        print(f"{precision}: largest difference from the window of every prefix, {options.samples} random samples:", worst)

    rows = _rows(shape, total, 0)
    feed = {name: array[None] for name, array in rows.items()}
    windows = {"window": lambda: window.infer_checked(feed), _NAIVE: naive}
    for name, runner in native_windows.items():
        windows[name] = lambda runner=runner: runner.infer_checked(feed)
    times, ends = _timed(runners, windows, manifest, rows, options.rounds, cold=options.cold)
    _print_times(times, ends, total)
    _print_past_the_limit(models, manifest, runners, options.pushes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
