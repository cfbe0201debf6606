"""A stream's state in dmdkit's own kernels, which keep keys and values in a layout of their own: a step is one call."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dmdkit.errors import BundleError
from dmdkit.records import MODALITIES
from dmdkit.runtime.answers import require_finite
from dmdkit.runtime.backends.base import Feed, Runner, TensorSpec
from dmdkit.runtime.backends.native import NativeSteps
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.manifest import Manifest
from dmdkit.runtime.streams.state import StepState, stream_record

__all__ = ["NativeStepRunner", "NativeStepState", "open_native_steps"]

Array = npt.NDArray[np.float32]


class NativeStepRunner(Runner):
    """A step graph on the native kernels. It runs in states (:class:`NativeStepState`), not by ``infer``.

    Args:
        name: The step graph's name.
        steps: What the library opened.
    """

    def __init__(self, name: str, steps: NativeSteps) -> None:
        super().__init__(name)
        self.steps = steps
        self._lock = threading.Lock()

    @property
    def backend(self) -> str:
        """What runs the graph, with its version and instruction set."""
        return self.steps.backend

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The modalities, then the tensors of the state."""
        return self.steps.inputs

    @property
    def outputs(self) -> Sequence[str]:
        """The names of what a step answers."""
        return [spec.name for spec in self.steps.outputs]

    def _infer(self, feed: Feed) -> dict[str, Array]:
        raise NotImplementedError("the native kernels keep the state of a stream; use NativeStepState")

    def _close(self) -> None:
        with self._lock:
            self.steps.close()

    def new_state(self, manifest: Manifest) -> NativeStepState:
        """An empty state; it outlives the runner, but takes no steps once that is closed."""
        with self._lock:
            self.check_open()
            return NativeStepState(self.steps, manifest)


class NativeStepState(StepState):
    """What a stream knows, keys and values in the library.

    Args:
        steps: The opened step graph.
        manifest: The bundle's manifest.
    """

    def __init__(self, steps: NativeSteps, manifest: Manifest) -> None:
        super().__init__(manifest, tensors=False)
        self._manifest = manifest
        self._session = steps.new_state()
        self._answers = {spec.name: spec.shape[1:] for spec in steps.outputs}
        weakref.finalize(self, self._session.close)

    def held(self) -> StepState:
        """The same state with its tensors in Python."""
        found = StepState(self._manifest)
        found.recent, found.steps = self.recent, self.steps
        for index, (name, columns) in enumerate(self._columns()):
            self._session.copy_state(index, columns, write=False)
            found.tensors[name][:, :, : self.projected] = columns.transpose(1, 2, 0)
        return found

    def take(self, other: StepState) -> None:
        """Becomes ``other``."""
        self.recent, self.steps = other.recent, other.steps
        for index, (name, columns) in enumerate(self._columns()):
            columns[:] = other.tensors[name][:, :, : self.projected].transpose(2, 0, 1)
            self._session.copy_state(index, columns, write=True)

    def _columns(self) -> list[tuple[str, Array]]:
        """Tensor -> room for its columns that count, (steps, heads, width), in the state's order."""
        return [(t.name, np.empty((self.projected, t.heads, t.width), np.float32)) for t in self.record.state]

    def _run(self, runner: Runner, recent: Mapping[str, Array], new: dict[str, Array]) -> dict[str, Array]:
        runner.check_open()
        count, kept = len(new["text"]), self.record.kernel - 1
        rows = [np.concatenate([recent[name], new[name]]) for name in MODALITIES]
        found = {name: np.empty((count, *shape), np.float32) for name, shape in self._answers.items()}
        self._session.step(self.projected, rows, list(found.values()))
        for name, array in found.items():  # every key and value takes part in its own step's answers
            require_finite(runner.name, name, array)
        self.recent = {name: array[len(array) - kept :] for name, array in zip(MODALITIES, rows, strict=True)}
        return found


def open_native_steps(bundle: Bundle, precision: str) -> NativeStepRunner:
    """A step graph on the native kernels, after checking hashes and that it is what the manifest says.

    Raises:
        BundleError: There is none of this precision, or no fusion graph of it whose weights it shares; a file is damaged, or
            has no plan for these kernels.
        MissingLibraryError: The library is not here or not usable.
    """
    record, manifest, name = stream_record(bundle), bundle.manifest, f"stream.{precision}"
    graph = next((found for key, found in record.graphs.items() if key == precision), None)
    if graph is None or f"fusion.{precision}" not in manifest.graphs:
        raise BundleError(f"{bundle.path}: no step graph with a fusion graph in {precision!r:.40}")
    fusion = manifest.graphs[f"fusion.{precision}"]
    steps = NativeSteps(name, bundle.read(fusion.file), bundle.read(graph.file))
    expected = [TensorSpec(key, (-1, manifest.inputs[key].features)) for key in MODALITIES]
    expected += [TensorSpec(tensor.name, (tensor.heads, tensor.width, record.capacity)) for tensor in record.state]
    if list(steps.inputs) != expected:
        steps.close()
        raise BundleError(f"{bundle.path}: the state of {name} is not what the manifest says; export the bundle again")
    return NativeStepRunner(name, steps)
