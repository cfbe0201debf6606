"""What a push costs beside a window, at the published MOSI sizes: ``python -m benchmarks.streaming``.

One thread, CPU time, windows and pushes interleaved in one run; every answer is compared with its window's first.
"""

from __future__ import annotations

import argparse
import os
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


def _cpu_ms(call: Any) -> float:
    begin = time.thread_time()
    call()
    return (time.thread_time() - begin) * 1e3


def _rows(shape: Any, steps: int, seed: int) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(size=(steps, width)).astype(np.float32) for name, width in shape.feature_dims.as_dict().items()
    }


def _largest_differences(models: Any, manifest: Any, runner: Any, samples: int) -> dict[int, float]:
    """Steps a push -> largest difference from PyTorch's window of any prefix of so many random samples."""
    import torch

    from dmdkit.runtime.streams.state import StepState

    shape, worst = models.shape, dict.fromkeys(PUSHES, 0.0)
    total, kernel = shape.lengths.text, shape.kernels.text
    for sample in range(samples):
        rows = _rows(shape, total, sample)
        steps = torch.arange(kernel, total + 1)
        with torch.inference_mode():
            many = {name: torch.from_numpy(array).expand(len(steps), -1, -1) for name, array in rows.items()}
            truth = models.system(**many, steps=steps).model.output.numpy()
        for size in PUSHES:
            state, found = StepState(manifest), []
            for at in range(0, total, size):
                answers = state.advance(runner, {name: array[at : at + size] for name, array in rows.items()})
                found += [answers["score"]] if answers else []
            worst[size] = max(worst[size], float(np.abs(np.concatenate(found) - truth).max()))
    return worst


def main(arguments: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--samples", type=int, default=4, help="random samples of which every prefix is compared")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the benchmark itself")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    from benchmarks.models import Models, mosi_shape
    from dmdkit.export.step_graphs import step_graphs, stream_record_of
    from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner
    from dmdkit.runtime.streams.state import StepState

    with tempfile.TemporaryDirectory() as work:
        models = Models(mosi_shape(tiny=options.tiny), Path(work))
        shape, system = models.shape, models.system
        graphs = step_graphs(system, int8=True, on_step=lambda _: None)
        window = OnnxRuntimeRunner("fusion.fp32", models.student.data, {})
        runners = {g.precision: OnnxRuntimeRunner(g.name, g.model.SerializeToString(), g.session_options) for g in graphs}

    inputs = {name: SimpleNamespace(features=width) for name, width in shape.feature_dims.as_dict().items()}
    manifest: Any = SimpleNamespace(stream=stream_record_of(shape, graphs), inputs=inputs)
    total, kernel = shape.lengths.text, shape.kernels.text
    for precision, runner in runners.items():
        worst = _largest_differences(models, manifest, runner, options.samples)
        print(
            f"stream.{precision}: largest difference from the window of every prefix, {options.samples} random samples:", worst
        )

    rows = _rows(shape, total, 0)
    feed = {name: array[None] for name, array in rows.items()}
    times: dict[str, list[float]] = {}
    held = {(p, size): StepState(manifest) for p in runners for size in PUSHES}
    ends: dict[str, list[float]] = {"first": [], "last": []}
    for _ in range(options.rounds):
        times.setdefault("window", []).append(_cpu_ms(lambda: window.infer_checked(feed)))
        for (precision, size), state in held.items():
            if state.room < size:
                state.clear()
            while state.steps < kernel - 1:
                state.advance(runners[precision], {name: array[:1] for name, array in rows.items()})
            place, part = state.projected, {name: array[:size] for name, array in rows.items()}
            taken = _cpu_ms(lambda state=state, precision=precision, part=part: state.advance(runners[precision], part))
            times.setdefault(f"{precision} m={size}", []).append(taken)
            if precision == "fp32" and size == 1 and (place < 5 or state.room < 5):
                ends["first" if place < 5 else "last"].append(taken)
    whole = float(np.median(times["window"]))
    print("| | CPU ms, median | of its window | per step |\n|---|---|---|---|")
    for name, values in times.items():
        found = float(np.median(values))
        count = int(name.rpartition("=")[2]) if "=" in name else total
        print(f"| {name} | {found:.2f} | {found / whole:.3f} | {found / count:.2f} |")
    if ends["first"] and ends["last"]:
        print(f"last steps over first steps: {np.median(ends['last']) / np.median(ends['first']):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
