"""One graph of a bundle, opened with a backend or as an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmdkit.errors import BundleError
from dmdkit.runtime.backends.base import TensorSpec
from dmdkit.runtime.backends.registry import BackendName
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.manifest import TEXT_INPUTS, Manifest

if TYPE_CHECKING:
    from dmdkit.runtime.backends.base import Runner

__all__ = ["open_engine_or_say", "open_runner"]


def open_runner(
    bundle: Bundle, graph: str, *, threads: int = 1, device: str = "cpu", backend: BackendName = "onnxruntime"
) -> Runner:
    """Opens one graph of a bundle with a backend, after checking its hash and that it is what the manifest says.

    Raises:
        BundleError: The file is damaged, or takes or gives something else than the manifest says.
        MissingDependencyError: The backend is not installed.
    """
    record = bundle.graph(graph)
    model = bundle.read(record.file)
    if backend == "openvino":
        from dmdkit.runtime.backends.openvino import OpenVinoRunner

        runner: Runner = OpenVinoRunner(graph, model, threads=threads)
    else:
        from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner

        options = dict[str, str](record.session_options.items())
        runner = OnnxRuntimeRunner(graph, model, options, threads=threads, device=device)
    if not record.kind.startswith("gd_"):
        expected, outputs = _signature(bundle.manifest, record.kind)
        if set(runner.inputs) != expected or not outputs <= set(runner.outputs):
            raise BundleError(
                f"{bundle.path}: {record.file} takes {runner.signature} and gives {', '.join(runner.outputs)}, "
                "not what the manifest says; export the bundle again"
            )
    return runner


def _signature(manifest: Manifest, kind: str) -> tuple[set[TensorSpec], set[str]]:
    """What a graph of this kind takes and must give."""
    if kind == "text":
        assert manifest.text is not None  # the manifest was checked
        shape = (-1, manifest.text.max_tokens)
        return {TensorSpec(name, shape, "int64") for name in TEXT_INPUTS}, {"text"}
    inputs = {TensorSpec(name, (-1, i.steps, i.features)) for name, i in manifest.inputs.items()}
    return inputs, {"score"} if kind == "fusion" else set(manifest.outputs)


def open_engine_or_say(
    bundle: Bundle, kind: str, graph: str | None, *, allow_build: bool, prefer: str | None = None
) -> tuple[Runner | None, str]:
    """An engine of the bundle that runs on this machine, or None and one sentence that says why there is none.

    ``prefer``: the precision that is tried first where several engines fit.
    """
    from dmdkit.runtime.engines.choose import engine_runner

    return engine_runner(bundle, kind, graph, allow_build=allow_build, prefer=prefer)
