"""The hops of the step graphs: a window of every prefix of a sample against a stream that heard just that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from dmdkit.data.dataset import Split
from dmdkit.data.overlap import distinct_samples
from dmdkit.data.real_steps import beginnings, prefixes
from dmdkit.errors import BundleError
from dmdkit.parity.compare import HopRecord, compare
from dmdkit.runtime.backends.registry import BackendName, proof_name
from dmdkit.runtime.batching import infer_batched
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.graph_records import Precision
from dmdkit.runtime.open_graph import open_runner
from dmdkit.runtime.streams.native import NativeStepRunner, open_native_steps
from dmdkit.runtime.streams.state import StepState, open_step_runner

__all__ = ["SAMPLES", "stream_answers", "stream_hops", "window_answers"]

Array = npt.NDArray[np.float32]
SAMPLES = 64
"""Samples whose every prefix is compared: 64 of 46 prefixes are 2,944 windows, half a minute at the published sizes."""
_PREFIX_BYTES = 256 << 20
"""Prefixes that are held at once: all of 64 samples of 46 steps, 3 of 200 at the widths of CMU-MOSI."""
_BATCH = 32
_PUSHES = ((1,), (2,), (4,), (8,), (1, 3, 2, 7))
"""Steps a push, by sample in turn."""


def stream_answers(
    bundle: Bundle,
    precision: str,
    samples: Mapping[str, Array],
    steps: npt.NDArray[np.int64],
    *,
    mixed: bool = True,
    native: bool = False,
) -> dict[str, Array]:
    """What a step graph answers at every step of every sample that has an answer, one row after the other.

    Args:
        bundle: The bundle.
        precision: Of the step graph.
        samples: Modality -> float32 (N, T, D).
        steps: (N,), how many steps of each are pushed, at least k.
        mixed: Whether pushes are of several steps, too.
        native: Whether the native kernels compute them.

    Raises:
        BundleError: There is no such graph, or with ``native`` no plan of it for these kernels.
    """
    found: list[dict[str, Array]] = []
    with open_native_steps(bundle, precision) if native else open_step_runner(bundle, precision) as runner:
        state = runner.new_state(bundle.manifest) if isinstance(runner, NativeStepRunner) else StepState(bundle.manifest)
        for index, count in enumerate(steps):
            state.clear()
            sizes, at = _PUSHES[index % len(_PUSHES)] if mixed else (1,), 0
            while at < count:
                size = min(sizes[len(found) % len(sizes)], int(count) - at)
                answers = state.advance(runner, {name: array[index, at : at + size] for name, array in samples.items()})
                at += size
                if answers:
                    found.append(answers)
    return {name: np.concatenate([answers[name] for answers in found]) for name in found[0]}


def stream_hops(
    bundle: Bundle,
    split: Split | None,
    reference: Callable[[Split], dict[str, Array]] | None,
    pytorch: str,
    distinct: int | None,
    on_step: Callable[[], None],
    backends: Sequence[BackendName] = (),
) -> list[HopRecord]:
    """Every step graph against what it must repeat; nothing where the bundle has none.

    On the native kernels every one of them answers to the windows themselves.

    A model trained on real steps has a window of every prefix, in its explain graph. The windows of others are those of
    PyTorch, which is told how many steps there are; without it, only whole windows are compared.

    Args:
        bundle: The bundle.
        split: Samples, of which the first ones are used; None: there are only the golden ones, which prove nothing.
        reference: The PyTorch model's outputs on samples, of their first ``steps`` where they have those.
        pytorch: Its name in the ledger.
        distinct: Number of different samples; None: all of them.
        on_step: Called after each graph.
        backends: Those that were asked for; only native runs steps besides ONNX Runtime.
    """
    manifest = bundle.manifest
    if manifest.stream is None or split is None:
        return []
    part = split.take(np.arange(min(SAMPLES, len(split))))
    every = manifest.real_steps or reference is not None
    kernel = manifest.stream.kernel
    first = kernel if every else part.text.shape[1]
    if manifest.real_steps or reference is None:
        source, before = "explain.fp32", _in_parts(part, first, partial(window_answers, bundle))
    else:
        source, before = pytorch, _in_parts(part, first, reference)
    windows = beginnings(part, first)
    ids = tuple(f"{part.ids[row]} after {count} steps" for row, count in zip(windows.rows, windows.steps, strict=True))
    different = min(distinct_samples(part), len(part) if distinct is None else distinct)
    whole = part.steps if part.steps is not None else np.full(len(part), part.text.shape[1], np.int64)
    lasts = np.cumsum(whole - manifest.stream.kernel + 1) - 1
    hops: list[HopRecord] = []

    def hop(name: str, precision: Precision, found: dict[str, Array]) -> dict[str, Array]:
        found = found if every else {output: array[lasts] for output, array in found.items()}
        truth = {output: before[output] for output in found if output in before}
        hops.append(
            compare(
                source,
                name,
                truth,
                found,
                precision=precision,
                task=manifest.task,
                label_range=manifest.label_range,
                labels=windows.labels,
                ids=ids,
                distinct=different,
            )
        )
        on_step()
        return found

    for precision in manifest.stream.graphs if "native" in backends else ():
        try:
            found = stream_answers(bundle, precision, part.features(), whole, native=True)
        except BundleError:  # exported before there was a plan for them
            continue
        hop(f"stream.{precision}@{proof_name('native', precision)}", precision, found)
    for precision in manifest.stream.graphs:
        found = hop(f"stream.{precision}", precision, stream_answers(bundle, precision, part.features(), whole))
        if precision == "fp32":
            source, before = "stream.fp32", found
    return hops


def _in_parts(part: Split, kernel: int, answer: Callable[[Split], dict[str, Array]]) -> dict[str, Array]:
    """What ``answer`` says of every prefix, a few samples at a time: together the prefixes of long samples fill a machine."""
    steps, width = part.text.shape[1], sum(array.shape[2] for array in part.features().values())
    at_once = max(1, _PREFIX_BYTES // (4 * steps * steps * width))
    found = [
        answer(prefixes(part.take(np.arange(i, min(i + at_once, len(part)))), kernel)) for i in range(0, len(part), at_once)
    ]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def window_answers(bundle: Bundle, windows: Split) -> dict[str, Array]:
    """What the fp32 explaining graph answers for windows."""
    with open_runner(bundle, "explain.fp32") as runner:
        feed = windows.inputs() if bundle.manifest.real_steps else dict(windows.features())
        return infer_batched(runner.infer, feed, _BATCH)
