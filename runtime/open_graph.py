"""The graphs of a bundle, opened as one set of options asks: by an engine where one runs here, else by a backend."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Literal

from dmdkit.errors import BundleError, InputError
from dmdkit.runtime.backends.base import TensorSpec
from dmdkit.runtime.backends.registry import BackendName
from dmdkit.runtime.choice import choose, explain_graph, has_passed, text_graph
from dmdkit.runtime.manifest import TEXT_INPUTS, Manifest
from dmdkit.runtime.self_check import check_outputs

if TYPE_CHECKING:
    from dmdkit.runtime.backends.base import Runner
    from dmdkit.runtime.bundle import Bundle

__all__ = ["GraphOpener", "OpenOptions", "open_runner", "repeats_golden"]

OpenableKind = Literal["fusion", "explain", "text"]


MAX_THREADS = 1024
"""More threads than a machine has cores only wait; so many are a mistake, which would exhaust it before it is noticed."""


@dataclass(frozen=True)
class OpenOptions:
    """What a caller asked of :meth:`dmdkit.runtime.Runtime.open`.

    Attributes:
        graph: A precision or a full graph name, opened whatever its verdict; None: the preferred one that passed parity.
        backend: auto, onnxruntime, openvino, native or tensorrt.
        device: auto, cpu or cuda.
        threads: Threads inside one prediction.
        allow_build: Whether an engine may be built where none fits this machine.

    Raises:
        InputError: A graph, device or thread count that cannot be.
    """

    graph: str | None = None
    backend: str = "auto"
    device: str = "auto"
    threads: int = 1
    allow_build: bool = False

    def __post_init__(self) -> None:
        whole = isinstance(self.threads, Integral) and not isinstance(self.threads, bool)  # those of NumPy, too
        if not whole or not 1 <= self.threads <= MAX_THREADS:
            raise InputError(f"threads={self.threads!r:.50}: expected a whole number from 1 to {MAX_THREADS:,}")
        object.__setattr__(self, "threads", int(self.threads))
        if self.graph is not None and not isinstance(self.graph, str):
            raise InputError(f"graph={self.graph!r:.50}: expected the name of a graph, or None for the preferred one")
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device={self.device!r}: expected auto, cpu or cuda")

    @property
    def place(self) -> Literal["cpu", "cuda"]:
        """The device with auto resolved."""
        return "cuda" if self.device == "cuda" else "cpu"


class GraphOpener:
    """Opens the fusion graph of a bundle, then whatever goes with it.

    Args:
        bundle: An opened bundle.
        options: What the caller asked for.
    """

    def __init__(self, bundle: Bundle, options: OpenOptions) -> None:
        self._bundle, self._options = bundle, options
        automatic = options.backend == options.device == "auto"
        self._engines = options.backend == "tensorrt" or (
            automatic and (options.allow_build or (bundle.path / "engines").is_dir())
        )
        self._graph = ""
        self._backend: BackendName = "onnxruntime"
        self._predicts_by_engine = False

    def open(self, kind: OpenableKind) -> tuple[Runner, str]:
        """The runner of a graph of ``kind``, and one sentence where it is not what was wanted ("" where it is).

        The fusion graph comes first: explain and text graphs are chosen to go with it.

        Raises:
            BundleError: No graph of this kind, none that passed parity, or a damaged one.
            InputError: A backend or device that cannot be.
            MissingDependencyError: The backend asked for is not installed.
            MissingLibraryError: The native kernels are asked for and their library is not here or not usable.
        """
        runner, reason = self._engine(kind)
        by_engine = runner is not None
        if runner is None:
            graph, backend = self._choice(kind)
            runner = open_runner(
                self._bundle, graph, threads=self._options.threads, device=self._options.place, backend=backend
            )
            if kind == "fusion":
                if backend == "native" and self._options.graph is None and not repeats_golden(self._bundle, runner):
                    # Proven on another machine, whose instruction set need not be this one's.
                    reason = f"{runner.backend} does not repeat the golden samples of {runner.name} here"
                    runner.close()
                    runner, backend = self._in_onnxruntime(), "onnxruntime"
                self._backend = backend
        if kind == "fusion":
            self._graph, self._predicts_by_engine = runner.name, by_engine
        if not reason:
            return runner, ""
        return runner, f"{reason if kind == 'fusion' else f'{kind}: {reason}'}; using onnxruntime"

    def open_named(self, graph: str) -> tuple[Runner, BackendName]:
        """The runner of graph ``graph`` without engines, and its backend.

        Raises:
            BundleError: There is no such graph, or it is damaged.
        """
        backend = self._backend_for(graph)
        options = self._options
        return open_runner(self._bundle, graph, threads=options.threads, device=options.place, backend=backend), backend

    def open_step(self) -> tuple[Runner, str]:
        """The step graph that goes with the predicting one, and one sentence where its answers need one ("" where not).

        Raises:
            BundleError: There is none, none has passed, or it is damaged.
        """
        from dmdkit.runtime.streams.opening import open_step  # only what streams loads it

        precision = self._bundle.manifest.graphs[self._graph].precision
        asked_for = self._options.graph is not None
        native = self._options.backend == "native" or self._backend == "native"
        return open_step(self._bundle, precision, asked_for=asked_for, threads=self._options.threads, native=native)

    def explain_graph(self) -> str:
        """The name of the explain graph that goes with the predicting one.

        Raises:
            BundleError: There is none, or none has passed.
        """
        return explain_graph(self._bundle.manifest, self._graph, asked_for=self._options.graph is not None)

    def _engine(self, kind: OpenableKind) -> tuple[Runner | None, str]:
        """An engine that runs ``kind`` here, or None and the reason ("" where none was wanted)."""
        # Where no engine predicts, none explains; words are read by one whatever runs the rest.
        if not self._engines or (kind == "explain" and not self._predicts_by_engine):
            return None, ""
        from dmdkit.runtime.engines.choose import engine_runner

        options, manifest = self._options, self._bundle.manifest
        graph, prefer = options.graph, None
        if kind == "explain":
            graph = self.explain_graph()
        elif kind == "text":
            graph = text_graph(manifest, self._graph, asked_for=True) if options.graph is not None else None
            prefer = manifest.graphs[self._graph].precision
        allow_build = options.allow_build and kind != "explain"
        return engine_runner(self._bundle, kind, graph, allow_build=allow_build, prefer=prefer)

    def _in_onnxruntime(self) -> Runner:
        """The fusion graph that ONNX Runtime would run."""
        options = self._options
        chosen = choose(
            self._bundle.manifest, "fusion", None, backend="onnxruntime", device=options.place, threads=options.threads
        )
        return open_runner(self._bundle, chosen.graph, threads=options.threads, device=options.place)

    def _choice(self, kind: OpenableKind) -> tuple[str, BackendName]:
        """The graph of ``kind`` that a backend runs, and the backend."""
        options, manifest = self._options, self._bundle.manifest
        if kind == "text":
            return text_graph(manifest, self._graph, asked_for=options.graph is not None), "onnxruntime"
        if kind == "explain":
            graph = self.explain_graph()
            return graph, self._backend_for(graph)
        backend = "onnxruntime" if self._engines else options.backend
        chosen = choose(manifest, "fusion", options.graph, backend=backend, device=options.place, threads=options.threads)
        if options.place != "cpu":
            from dmdkit.runtime.backends.onnxruntime import available_devices

            if options.place not in available_devices():
                raise InputError(f"device={options.device!r}: this ONNX Runtime has only {', '.join(available_devices())}")
        return chosen.graph, chosen.backend

    def _backend_for(self, graph: str) -> BackendName:
        """The predicting backend where it is proven for ``graph`` too; else ONNX Runtime, which every graph runs in."""
        if graph == self._graph or has_passed(self._bundle.manifest.graphs[graph], self._backend):
            return self._backend
        return "onnxruntime"


def open_runner(
    bundle: Bundle, graph: str, *, threads: int = 1, device: str = "cpu", backend: BackendName = "onnxruntime"
) -> Runner:
    """One graph of a bundle in a backend, after checking its hash and that it is what the manifest says.

    Raises:
        BundleError: The file is damaged, or takes or gives something else than the manifest says.
        MissingDependencyError: The backend is not installed.
        MissingLibraryError: The native kernels' library is not here or not usable.
    """
    record = bundle.graph(graph)
    model = bundle.read(record.file)
    if backend == "openvino":
        from dmdkit.runtime.backends.openvino import OpenVinoRunner

        runner: Runner = OpenVinoRunner(graph, model, threads=threads)
    elif backend == "native":
        from dmdkit.runtime.backends.native import NativeKernelsRunner

        if not record.runs_in("native"):
            raise BundleError(f"{graph}: the native kernels run the fp32 and the int8-cpu graph of fusion alone")
        runner = NativeKernelsRunner(graph, model, threads=threads)
    elif backend == "onnxruntime":
        from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner

        options = dict[str, str](record.session_options.items())
        runner = OnnxRuntimeRunner(graph, model, options, threads=threads, device=device)
    else:  # a name that was added to the registry and not here must not run somewhere else
        raise InputError(f"backend={backend!r} opens no graphs")
    if not record.kind.startswith("gd_"):
        expected, outputs = _signature(bundle.manifest, record.kind)
        if set(runner.inputs) != expected or not outputs <= set(runner.outputs):
            raise BundleError(
                f"{bundle.path}: {record.file} takes {runner.signature} and gives {', '.join(runner.outputs)}, "
                "not what the manifest says; export the bundle again"
            )
    return runner


def repeats_golden(bundle: Bundle, runner: Runner) -> bool:
    """Whether an opened graph gives the outputs that were recorded for the golden samples, within the self-check's limits.

    Raises:
        BundleError: The golden samples are damaged.
    """
    golden, record = bundle.golden(), bundle.graph(runner.name)
    found, recorded = runner.infer(golden.inputs_of(record.kind)), golden.recorded[runner.name]
    return check_outputs(runner.name, record.precision, found, recorded, bundle.manifest.output_sd).passed


def _signature(manifest: Manifest, kind: str) -> tuple[set[TensorSpec], set[str]]:
    """What a graph of this kind takes and must give."""
    if kind == "text":
        assert manifest.text is not None  # the manifest was checked
        shape = (-1, -1 if manifest.text.lengths == "dynamic" else manifest.text.max_tokens)
        return {TensorSpec(name, shape, "int64") for name in TEXT_INPUTS}, {"text"}
    inputs = {TensorSpec(name, (-1, i.steps, i.features)) for name, i in manifest.inputs.items()}
    if manifest.real_steps:
        inputs.add(TensorSpec("steps", (-1,), "int64"))
    return inputs, {"score"} if kind == "fusion" else set(manifest.outputs)
