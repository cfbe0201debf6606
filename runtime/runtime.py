"""The object an application holds: opens a bundle, predicts, explains, checks itself."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from dmdkit.errors import BundleError, InputError
from dmdkit.runtime.answers import Explanation, Prediction, require_finite
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.format_version import SCHEMA_MINOR
from dmdkit.runtime.inputs import CheckedInputs, RangeGuard, check_inputs, is_for_text_encoder, plain_ids
from dmdkit.runtime.manifest import Manifest
from dmdkit.runtime.open_graph import GraphOpener, OpenOptions
from dmdkit.runtime.self_check import GraphCheck, SelfCheck, check_outputs

if TYPE_CHECKING:
    from dmdkit.runtime.backends.base import Feed, Runner
    from dmdkit.runtime.streams.arrival import Policy
    from dmdkit.runtime.streams.stream import Stream
    from dmdkit.runtime.text.encoder import TextFeatures, TextStage

__all__ = ["OutOfRange", "Runtime"]

Array = npt.NDArray[np.float32]

_LOG = logging.getLogger(__name__)

OutOfRange = Callable[[dict[str, float]], None]


class Runtime:
    """A bundle, ready to predict. Calls from several threads at once are safe; each thread may also open its own.

    A call that runs while another thread closes the runtime either finishes or raises that the runtime is closed.
    Use :meth:`open`; the constructor is for it.
    """

    def __init__(self, bundle: Bundle, opener: GraphOpener, on_out_of_range: OutOfRange | None) -> None:
        self._bundle, self._opener, self._on_out_of_range = bundle, opener, on_out_of_range
        self.notes: tuple[str, ...] = ()
        """What was not as asked for, in sentences: why no engine runs a graph, what of a later format was left out."""
        if bundle.manifest.ignored:
            self._note(
                f"of format 1.{bundle.manifest.schema_minor}, this dmdkit reads 1.{SCHEMA_MINOR}: it leaves out "
                f"{', '.join(bundle.manifest.ignored[:5]):.200}"
            )
        self._runner = self._open("fusion")
        self._guard = RangeGuard(bundle.manifest.inputs)
        self._count_lock, self._explain_lock = threading.Lock(), threading.Lock()
        self._explain_runner: Runner | None = None
        self._step_runner: Runner | None = None
        self._text_stage: TextStage | None = None
        self._truncated_count = 0
        self._out_of_range_count = 0
        self._closed = False
        self._in_callback = threading.local()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        graph: str | None = None,
        backend: str = "auto",
        threads: int = 1,
        allow_build: bool = False,
        on_out_of_range: OutOfRange | None = None,
    ) -> Runtime:
        """Opens a bundle.

        Args:
            path: The bundle's directory.
            device: auto, cpu or cuda.
            graph: A precision (``fp32``, ``int8-cpu``) or a full name, whatever its verdict; None takes the preferred
                one that passed parity.
            backend: onnxruntime, openvino, native, tensorrt, or auto: an engine of the bundle where one runs here, else what is
                fastest here among what passed parity (``dmdkit bench`` measures it); ONNX Runtime for a graph asked for
                by name, or where nothing was measured. Where engines run, one of the text encoder reads words if there is
                one, else ONNX Runtime does. Where no engine runs, :attr:`notes` says why.
            threads: Threads inside one prediction.
            allow_build: Whether to build an engine where none fits this machine and TensorRT is installed: of what
                predicts now, of a text encoder when the first words come, which then wait for it.
            on_out_of_range: Called with the shares when inputs leave the training range. What it raises is logged, and
                the prediction goes on. It is not called for what it predicts itself.

        Raises:
            BundleError: Missing, damaged, of another version, or nothing in it has passed parity.
            InputError: A path, graph, device, backend or thread count that cannot be.
            MissingDependencyError: The backend asked for is not installed.
            MissingLibraryError: The native kernels are asked for and their library is not here or not usable.
        """
        options = OpenOptions(graph, backend, device, threads, allow_build)
        if not isinstance(path, (str, os.PathLike)):
            raise InputError(f"path={path!r:.50}: expected the directory of a bundle")
        bundle = Bundle.open(Path(path))
        bundle.verify()
        bundle = replace(bundle, path=bundle.path.absolute())  # explaining and checking read files after a chdir, too
        return cls(bundle, GraphOpener(bundle, options), on_out_of_range)

    def _open(self, kind: Literal["fusion", "explain", "text"]) -> Runner:
        """The runner of a graph of ``kind``; what is not as asked for is kept in :attr:`notes` and logged."""
        runner, note = self._opener.open(kind)
        if note:
            self._note(note)
        return runner

    def _note(self, note: str) -> None:
        self.notes += (note,)
        _LOG.warning("%s: %s", self._bundle.path, note)

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._bundle.manifest

    @property
    def graph(self) -> str:
        """The graph that predicts."""
        return self._runner.name

    @property
    def backend(self) -> str:
        """What runs it, with its version."""
        return self._runner.backend

    @property
    def out_of_range_count(self) -> int:
        """How many calls had inputs outside the training range."""
        return self._out_of_range_count

    @property
    def truncated_count(self) -> int:
        """How many sentences were longer than the text encoder reads, and cut."""
        return self._truncated_count

    def _require_open(self) -> None:
        if self._closed:
            raise InputError("this runtime is closed")

    def _note_range(self, checked: CheckedInputs) -> dict[str, float]:
        alarms = self._guard.alarms(checked.feed, checked.ordinary)
        self._report_range(alarms)
        return alarms

    def _report_range(self, alarms: dict[str, float]) -> None:
        if alarms:
            with self._count_lock:
                self._out_of_range_count += 1
            if self._on_out_of_range is not None and not getattr(self._in_callback, "running", False):
                self._in_callback.running = True
                try:
                    self._on_out_of_range(alarms)
                except Exception:  # whatever it raises: the answer must not be lost to a fault beside it
                    _LOG.exception("%s: on_out_of_range raised; predicting nevertheless", self._bundle.path)
                finally:
                    self._in_callback.running = False

    def _checked(self, values: Mapping[str, object], certain: tuple[str, ...]) -> CheckedInputs:
        if self.manifest.real_steps:
            from dmdkit.runtime.streams.windows import filled_up  # only such a bundle loads it

            values = filled_up(values, self.manifest)
        return check_inputs(values, self.manifest.inputs, self._guard, certain)

    def _fed(self, checked: CheckedInputs) -> Feed:
        if not self.manifest.real_steps:
            return checked.feed
        from dmdkit.runtime.streams.windows import with_steps

        return with_steps(checked.feed, self.manifest)

    def predict(self, *, text: object = None, audio: object = None, vision: object = None) -> Prediction:
        """Scores raw features, or words where the bundle has a text encoder. The first words open the encoder.

        Args:
            text: float32 (B, T, D) or (T, D) of the manifest's sizes; None only where the model was trained without it. With a
                text encoder also a str, a list of B of them, or token ids: whole numbers (n,) or (B, n), of NumPy or PyTorch,
                or B lists of them, with or without padding. A sentence longer than the encoder reads is cut and counted.
            audio: float32 (B, T, D) or (T, D), or None likewise.
            vision: float32 (B, T, D) or (T, D), or None likewise.

        Raises:
            InputError: An input has a wrong name, shape, dtype or value, or may not be absent.
            BundleError: Words came and the bundle has no text encoder, or none that passed parity.
            AnswerError: The score is not finite.
            MissingDependencyError: A string came and the tokenizers library is not installed.
        """
        start = time.perf_counter()
        self._require_open()
        words = self._text_features(text)
        values = {"text": text if words is None else words.features, "audio": audio, "vision": vision}
        checked = self._checked(values, () if words is None else ("text",))
        alarms = self._note_range(checked)
        feed = self._fed(checked)
        score = require_finite(self.graph, "score", self._runner.infer_checked(feed)["score"])
        latency_ms = (time.perf_counter() - start) * 1e3
        return Prediction(
            score if checked.batched else score[0], latency_ms, self.graph, alarms, 0 if words is None else words.truncated
        )

    def _text_features(self, text: object) -> TextFeatures | None:
        """What the encoder makes of words; None for anything else, which is left to the check of features."""
        text = plain_ids(text)
        if not is_for_text_encoder(text) or (self.manifest.text is None and not isinstance(text, (str, bytes))):
            return None
        from dmdkit.runtime.text.encoder import require_text  # only what reads words loads it

        require_text(self.manifest, self._bundle.path)
        found = self._text().features(text)
        if found.truncated:
            with self._count_lock:
                self._truncated_count += found.truncated
        return found

    def _text(self) -> TextStage:
        with self._explain_lock:
            self._require_open()
            if self._text_stage is None:
                from dmdkit.runtime.text.encoder import TextStage

                self._text_stage = TextStage(self._bundle, self._open("text"))
            return self._text_stage

    @property
    def text_graph(self) -> str | None:
        """The graph that reads words, once some came."""
        return None if self._text_stage is None else self._text_stage.runner.name

    @property
    def text_backend(self) -> str | None:
        """What runs it, with its version, once words came."""
        return None if self._text_stage is None else self._text_stage.runner.backend

    def _explainer(self) -> Runner:
        with self._explain_lock:
            self._require_open()
            if self._explain_runner is None:
                self._explain_runner = self._open("explain")
            return self._explain_runner

    def explain(self, *, text: object = None, audio: object = None, vision: object = None) -> Explanation:
        """Says what each modality says alone, and which teaches which. The first call opens the explain graph.

        Raises:
            InputError: As :meth:`predict`.
            BundleError: The explain graph is damaged, or none has passed parity.
            AnswerError: An output is not finite.
        """
        start = time.perf_counter()
        self._require_open()
        words = self._text_features(text)
        values = {"text": text if words is None else words.features, "audio": audio, "vision": vision}
        checked = self._checked(values, () if words is None else ("text",))
        self._note_range(checked)
        feed = self._fed(checked)
        runner = self._explainer()
        answers = {name: require_finite(runner.name, name, array) for name, array in runner.infer(feed).items()}
        found = {name: array if checked.batched else array[0] for name, array in answers.items()}
        return Explanation(
            score=found["score"],
            logit_homo=found["logit_homo"],
            logit_hetero=found["logit_hetero"],
            edges_homo=found.get("edges_homo"),
            edges_hetero=found.get("edges_hetero"),
            modality_order=tuple(self.manifest.modality_order),
            edge_order=tuple(self.manifest.edge_order),
            latency_ms=(time.perf_counter() - start) * 1e3,
            graph=runner.name,
        )

    def stream(
        self,
        *,
        past_limit: Literal["stop", "window"] = "stop",
        missing: Policy | Mapping[str, Policy] = "error",
        step_s: float | None = None,
        tolerance_s: float | None = None,
    ) -> Stream:
        """A stream: steps pushed as they come, the exact answer at each. The first one opens the step graph.

        Args:
            past_limit: Past the longest length the model was trained at, stop: an error; window: the newest half goes on.
            missing: What stands for a modality that is missing, late, early or repeated at a step: error, hold (its last step)
                or absent (zeros, where it was trained absent); one for all, or by modality.
            step_s: Seconds between steps, where pushes have times; None: times are only checked for their order.
            tolerance_s: How far a modality's time may be from its step's; None: half a step.

        Raises:
            BundleError: The bundle has no step graph, none that passed parity, or a damaged one.
            InputError: An option that cannot be, or the runtime is closed.
        """
        from dmdkit.runtime.streams.arrival import Arrivals  # only what streams loads these
        from dmdkit.runtime.streams.stream import Stream

        with self._explain_lock:
            self._require_open()
            if self._step_runner is None:
                self._step_runner, note = self._opener.open_step()
                if note:
                    self._note(note)
            arrivals = Arrivals(self.manifest, missing, step_s, tolerance_s)
            return Stream(self._step_runner, self.manifest, arrivals, past_limit, self._guard, self._report_range)

    def self_check(self, *, every_graph: bool = False) -> SelfCheck:
        """Replays the golden samples through the predicting and the explaining graph (or every graph).

        Raises:
            BundleError: The golden samples or a graph are damaged.
        """
        self._require_open()
        golden = self._bundle.golden()
        names = list(self.manifest.graphs) if every_graph else [self.graph]
        if not every_graph:
            with suppress(BundleError):  # nothing explains, so there is nothing to check
                names.append(self._opener.explain_graph())
            if self._text_stage is not None:
                names.append(self._text_stage.runner.name)
        text = self._text_stage.runner if self._text_stage is not None else None
        engines = {
            r.name: r for r in (self._runner, self._explain_runner, text) if r is not None and r.backend.startswith("tensorrt")
        }
        checks = []
        for name in names:
            record = self.manifest.graphs[name]
            held = engines.get(name)
            if held is not None:
                from dmdkit.runtime.engines.choose import check_on_golden

                found_now = check_on_golden(held, self._bundle, name)
                worst = float("inf") if found_now.max_error is None else found_now.max_error
                checks.append(GraphCheck(name, worst, found_now.tolerance, None, found_now.passed, found_now.worst_output))
                continue
            opened, backend = self._opener.open_named(name)
            with opened as runner:
                found = runner.infer(golden.inputs_of(record.kind))
            recorded, spread = golden.recorded[name], self.manifest.output_sd
            # OpenVINO quantises activations where it sees INT8 weights (measured: 2e-3), so there it does not repeat float.
            exact = record.only_stores_int8 and backend == "onnxruntime"
            checks.append(check_outputs(name, record.precision, found, recorded, spread, only_stores_int8=exact))
        return SelfCheck(all(check.passed for check in checks), self.manifest.golden.samples, tuple(checks))

    def close(self) -> None:
        """Releases the graphs; calling it again does nothing."""
        with self._explain_lock:
            self._closed = True
            with ExitStack() as held:  # one that fails to close does not keep the others open
                held.callback(self._runner.close)
                if self._explain_runner is not None:
                    held.callback(self._explain_runner.close)
                if self._text_stage is not None:
                    held.callback(self._text_stage.runner.close)
                if self._step_runner is not None:
                    held.callback(self._step_runner.close)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
