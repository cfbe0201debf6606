"""The state of a stream: keys, values and the last input steps, and how a step graph moves it on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dmdkit.errors import BundleError
from dmdkit.records import MODALITIES
from dmdkit.runtime.answers import require_finite
from dmdkit.runtime.backends.base import Runner
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.manifest import Manifest, StreamRecord

__all__ = ["StepState", "open_step_runner", "stream_record"]

Array = npt.NDArray[np.float32]


def stream_record(bundle: Bundle) -> StreamRecord:
    """What the manifest says of streams.

    Raises:
        BundleError: The bundle has no step graph.
    """
    if bundle.manifest.stream is None:
        raise BundleError(
            f"{bundle.path}: has no step graph, so it cannot stream; export it again with `dmdkit export --stream`"
        )
    return bundle.manifest.stream


def open_step_runner(bundle: Bundle, precision: str, *, threads: int = 1) -> Runner:
    """A step graph in ONNX Runtime, after checking its hash and that it is what the manifest says.

    Raises:
        BundleError: There is none of this precision, its file is damaged, or it takes or gives something else.
    """
    from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner

    record = stream_record(bundle)
    graph = next((found for name, found in record.graphs.items() if name == precision), None)
    if graph is None:
        raise BundleError(f"{bundle.path}: no step graph in {precision!r:.40}; it has {', '.join(record.graphs)}")
    options = dict[str, str](graph.session_options.items())
    runner = OnnxRuntimeRunner(f"stream.{precision}", bundle.read(graph.file), options, threads=threads)
    shapes = {spec.name: spec.shape[1:] for spec in runner.inputs}
    expected = _input_shapes(bundle.manifest, record)
    outputs = {"score", "logit_hetero", *(f"new_{tensor.name}" for tensor in record.state)}
    if shapes != expected or not outputs <= set(runner.outputs):
        runner.close()
        raise BundleError(
            f"{bundle.path}: {graph.file} takes {runner.signature} and gives {', '.join(runner.outputs)}, "
            "not what the manifest says; export the bundle again"
        )
    return runner


def _input_shapes(manifest: Manifest, record: StreamRecord) -> dict[str, tuple[int, ...]]:
    """Input -> its shape behind the first axis."""
    widths = {name: manifest.inputs[name].features for name in MODALITIES}
    shapes: dict[str, tuple[int, ...]] = {name: (width,) for name, width in widths.items()}
    if record.kernel > 1:
        shapes |= {f"recent_{name}": (width,) for name, width in widths.items()}
    return shapes | {"steps": ()} | {tensor.name: (tensor.width, record.capacity) for tensor in record.state}


class StepState:
    """What a stream knows of the steps before the next one.

    Args:
        manifest: The bundle's manifest; it has a stream's record.
        tensors: Whether keys and values are kept here, not where a step is computed.
    """

    def __init__(self, manifest: Manifest, *, tensors: bool = True) -> None:
        record = manifest.stream
        assert record is not None
        self.record = record
        self.recent = {name: np.zeros((record.kernel - 1, manifest.inputs[name].features), np.float32) for name in MODALITIES}
        self.tensors = {t.name: np.zeros((t.heads, t.width, record.capacity), np.float32) for t in record.state if tensors}
        self.steps = 0
        """Input steps heard."""

    @property
    def projected(self) -> int:
        """Projected steps held: columns of the tensors that count."""
        return max(0, self.steps - self.record.kernel + 1)

    @property
    def room(self) -> int:
        """Input steps that still fit."""
        return self.record.capacity + self.record.kernel - 1 - self.steps

    def clear(self) -> None:
        """Forgets everything; what the tensors hold does not count and stays finite."""
        self.steps = 0

    def held(self) -> StepState:
        """The same state with its tensors in Python, for snapshots."""
        return self

    def take(self, other: StepState) -> None:
        """Becomes ``other``, which :meth:`held` gave or a snapshot holds."""
        self.recent, self.tensors, self.steps = other.recent, other.tensors, other.steps

    def advance(self, runner: Runner, new: Mapping[str, Array]) -> dict[str, Array]:
        """Takes new steps and gives what each of them that has an answer answers.

        Args:
            runner: The step graph.
            new: Modality -> float32 (m, D), m at most :attr:`room`.

        Returns:
            score (n, C), logit_hetero (n, 3, C) and perhaps edges_hetero (n, 6) of the last n of the m steps; empty where
            fewer than k steps were heard.

        Raises:
            AnswerError: A score is not finite; the state is then as it was, as after any error.
        """
        count, kept = len(new["text"]), self.record.kernel - 1
        filling = min(max(0, kept - self.steps), count)
        answers: dict[str, Array] = {}
        recent = self.recent
        if filling:
            recent = {name: recent[name].copy() for name in MODALITIES}
            for name in MODALITIES:
                recent[name][self.steps : self.steps + filling] = new[name][:filling]
        if count > filling:
            answers = self._run(runner, recent, {name: new[name][filling:] for name in MODALITIES})
        elif filling:
            self.recent = recent
        self.steps += count
        return answers

    def _run(self, runner: Runner, recent: Mapping[str, Array], new: dict[str, Array]) -> dict[str, Array]:
        place, count = self.projected, len(new["text"])
        feed: dict[str, npt.NDArray[np.generic]] = {"steps": np.array([place], np.int64), **new, **self.tensors}
        if self.record.kernel > 1:
            feed |= {f"recent_{name}": recent[name] for name in MODALITIES}
        found = runner.infer_checked(feed)
        require_finite(runner.name, "score", found["score"])
        for name, tensor in self.tensors.items():
            tensor[:, :, place : place + count] = found.pop(f"new_{name}")
        if self.record.kernel > 1:
            kept = self.record.kernel - 1
            self.recent = {name: np.concatenate([recent[name], new[name]])[-kept:] for name in MODALITIES}
        return found
