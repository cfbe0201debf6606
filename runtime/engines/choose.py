"""Which engine of a bundle runs here, if any: preflight, opening, one proof on the golden samples, and the reason if none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from dmdkit.errors import BundleError, DmdkitError, EngineError, MissingDependencyError
from dmdkit.files import write_json
from dmdkit.runtime.backends.base import Runner
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.build import BuildSpec, build_engine, cache_folder
from dmdkit.runtime.engines.gpu import Gpu, find_gpu
from dmdkit.runtime.engines.inspector import prove_precision
from dmdkit.runtime.engines.record import CheckRecord, Engine, PrecisionRecord, engines_of, preflight
from dmdkit.runtime.engines.runner import TensorRtRunner
from dmdkit.runtime.engines.tensorrt_api import installed_flavours
from dmdkit.runtime.self_check import check_outputs

__all__ = ["engine_runner", "open_checked", "prove"]

_LOG = logging.getLogger(__name__)
ENGINE_ORDER = ("fp16", "int8-trt", "fp32")
"""What is opened first where several engines fit: fp16 is nearest to fp32 of the small forms."""

_OWN_BATCH, _OWN_WORKSPACE_MIB = (1, 1, 16), 256
Open = Callable[[Engine, Gpu], TensorRtRunner]


def open_checked(engine: Engine, gpu: Gpu) -> TensorRtRunner:
    """Opens a plan that passed its preflight."""
    cache = cache_folder()
    kernels = cache.parent / "kernels" / f"{engine.record.plan_sha256}.bin" if cache is not None else None
    return TensorRtRunner(engine.record.graph, engine, mapped=gpu.integrated, kernels=kernels)


def check_on_golden(runner: Runner, bundle: Bundle, graph: str) -> CheckRecord:
    """Replays the golden samples through an engine and compares with the graph's own recorded outputs."""
    golden, manifest = bundle.golden(), bundle.manifest
    record = manifest.graphs[graph]
    feed = {name: np.ascontiguousarray(array) for name, array in golden.inputs_of(record.kind).items()}
    recorded = golden.recorded.get(graph, {})
    found = check_outputs(graph, record.precision, runner.infer(feed), recorded, manifest.output_sd, engine=True)
    return CheckRecord(
        passed=found.passed,
        samples=manifest.golden.samples,
        max_error=found.max_error if np.isfinite(found.max_error) else None,
        tolerance=found.tolerance,
        worst_output=found.worst_output,
    )


def prove(engine: Engine, runner: TensorRtRunner, bundle: Bundle) -> Engine:
    """Reads the inspector, replays the golden samples, and writes both into the sidecar."""
    record = engine.record
    precision = PrecisionRecord.model_validate(asdict(prove_precision(runner.inspect(), record.products)))
    check = check_on_golden(runner, bundle, record.graph)
    proven = Engine(path=engine.path, record=record.model_copy(update={"precision": precision, "check": check}))
    try:
        write_json(engine.path, proven.record.model_dump(mode="json"), EngineError)
    except EngineError as cause:
        _LOG.warning("the proof of engine %s is not kept: %s", engine.name, cause)
    return proven


def _order(prefer: str | None) -> list[str]:
    """The precisions that engines are built from, the preferred one first."""
    return sorted(ENGINE_ORDER, key=lambda precision: precision != prefer)


def _candidates(bundle: Bundle, kind: str, graph: str | None, prefer: str | None, refused: list[str]) -> list[Engine]:
    found = []
    for engine in engines_of(bundle, refused.append):
        record = bundle.manifest.graphs.get(engine.record.graph)
        if record is None or record.kind != kind:
            continue
        if graph not in (None, engine.record.graph, record.precision):
            continue
        if record.precision not in ENGINE_ORDER:
            refused.append(f"engine {engine.name}: no engine is built from {engine.record.graph}; build it again")
            continue
        if graph is None and record.verdict.status != "passed":
            refused.append(f"engine {engine.name}: {engine.record.graph} is {record.verdict.status}")
            continue
        found.append(engine)
    return sorted(found, key=lambda engine: _order(prefer).index(bundle.manifest.graphs[engine.record.graph].precision))


def _open(engine: Engine, bundle: Bundle, gpu: Callable[[], Gpu], opener: Open) -> Runner:
    runner = opener(engine, preflight(engine, bundle, gpu))
    try:
        if engine.record.check is None or engine.record.precision is None:
            proven = prove(engine, runner, bundle).record
            if proven.precision is not None and proven.precision.status == "failed":
                raise EngineError(f"engine {engine.name} failed its precision proof: {proven.precision.reason}")
            if proven.check is not None and not proven.check.passed:
                raise EngineError(f"engine {engine.name} failed its check on the golden samples")
    except DmdkitError:
        runner.close()
        raise
    return runner


def engine_runner(
    bundle: Bundle,
    kind: str,
    graph: str | None,
    *,
    allow_build: bool = False,
    prefer: str | None = None,
    gpu: Callable[[], Gpu] = find_gpu,
    opener: Open = open_checked,
) -> tuple[Runner | None, str]:
    """An engine of the bundle that runs here and proved itself, or None and why there is none.

    Args:
        bundle: An opened bundle.
        kind: fusion, explain or text.
        graph: A precision or full name that was asked for; None: any whose graph passed parity.
        allow_build: Whether to build one where none fits and the builder is installed.
        prefer: The precision that is tried first where several fit.
        gpu: Function that finds the GPU.
        opener: Function that opens a plan.
    """
    refused: list[str] = []
    for engine in _candidates(bundle, kind, graph, prefer, refused):
        try:
            return _open(engine, bundle, gpu, opener), ""
        except (EngineError, BundleError, MissingDependencyError) as cause:
            refused.append(str(cause))
    if allow_build:
        try:
            return _open(_build_own(bundle, kind, graph, prefer, gpu), bundle, gpu, opener), ""
        except (EngineError, BundleError, MissingDependencyError) as cause:
            refused.append(f"building one here: {cause}")
    return None, refused[0] if refused else f"the bundle has no engine for {kind}; make one with `dmdkit build`"


def _build_own(bundle: Bundle, kind: str, graph: str | None, prefer: str | None, gpu: Callable[[], Gpu]) -> Engine:
    here = gpu()
    flavours = installed_flavours()
    if not flavours:
        raise EngineError("neither tensorrt nor tensorrt_rtx is installed")
    graphs = bundle.manifest.graphs
    wanted = [graph.removeprefix(f"{kind}.")] if graph is not None else _order(prefer)
    for precision in wanted:
        name = f"{kind}.{precision}"
        if name in graphs and (graph is not None or graphs[name].verdict.status == "passed"):
            spec = BuildSpec("auto", flavours[0], (here.capability,), _OWN_BATCH, _OWN_WORKSPACE_MIB)
            return build_engine(bundle, name, spec).engine
    raise EngineError(f"no {kind} graph has passed parity")
