"""Builds engines of a bundle: one interface for every flavour, a cache, and proof where there is a GPU.

It needs TensorRT and nothing else, so that a robot can build for itself when it opens a bundle.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from dmdkit.errors import EngineError
from dmdkit.files import atomic_directory
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.gpu import Gpu, NoGpuError, find_gpu
from dmdkit.runtime.engines.identity import EngineIdentity
from dmdkit.runtime.engines.record import (
    ENGINES,
    Engine,
    EngineRecord,
    engines_folder,
    read_engine,
    text_lengths,
    write_engine,
    write_engine_alone,
)
from dmdkit.runtime.engines.tensorrt_api import Flavour, version_of
from dmdkit.runtime.engines.tensorrt_build import Progress, build
from dmdkit.runtime.latency import cache_directory

__all__ = ["BuildResult", "BuildSpec", "build_engine", "cache_folder", "gpu_for"]

_LOG = logging.getLogger(__name__)
_MIB = 1 << 20
UNPROVEN_INT8 = "INT8 with TensorRT-RTX compiles; its speed is unverified"
BUILT_WITHOUT_GPU = "built without a GPU: parity, precision and latency are for the device to show"


@dataclass(frozen=True)
class BuildSpec:
    """What to build for.

    Attributes:
        target: Its name, for file names and the sidecar.
        flavour: Package that builds: tensorrt or tensorrt_rtx.
        compute_capabilities: What a plan may be for; TensorRT builds for the one of them that is here.
        batch: Smallest, tuned and largest batch.
        workspace_mib: Limit of the workspace pool.
        anywhere: Whether the flavour can build without the GPU.
    """

    target: str
    flavour: Flavour
    compute_capabilities: tuple[str, ...]
    batch: tuple[int, int, int]
    workspace_mib: int
    anywhere: bool = False


@dataclass(frozen=True)
class BuildResult:
    """An engine, and whether it came from the cache."""

    engine: Engine
    cached: bool
    seconds: float = field(compare=False)


def cache_folder() -> Path | None:
    """Where plans are kept for the next bundle with the same graph: ``DMDKIT_CACHE``, else the user's cache, if any."""
    own = os.environ.get("DMDKIT_CACHE")
    cache = Path(own) if own else cache_directory()
    return cache / ENGINES if cache is not None else None


def gpu_for(spec: BuildSpec) -> Gpu | None:
    """The GPU here that builds for ``spec``; None where none is needed.

    Raises:
        EngineError: There is none, or another one.
    """
    try:
        gpu = find_gpu()
    except NoGpuError as cause:
        if spec.anywhere:
            return None
        if spec.target == "auto":
            raise EngineError(
                f"--target auto builds for this machine's GPU, and here is {cause}; name the device with --target (`--target "
                "list` shows them)"
            ) from cause
        raise EngineError(
            f"engines for {spec.target} are built on the device itself, and here is {cause}; "
            "write a folder to take there with --kit OUT, or see what can be checked here with --dry-run"
        ) from cause
    if spec.anywhere or not spec.compute_capabilities or gpu.capability in spec.compute_capabilities:
        return gpu
    raise EngineError(
        f"target {spec.target} has compute capability {', '.join(spec.compute_capabilities)}, {gpu.name} here has "
        f"{gpu.capability}; use --target auto, or build on the device"
    )


def _from_folder(folder: Path, name: str, key: str) -> tuple[EngineRecord, bytes, str] | None:
    try:
        engine = read_engine(folder / f"{name}.json")
        if engine.record.cache_key != key:
            return None
        log = folder / f"{name}.log"
        return engine.record, engine.plan(), log.read_text(encoding="utf-8") if log.is_file() else ""
    except (EngineError, OSError, UnicodeDecodeError):
        return None  # absent or damaged: build it


def _keep(key: str, record: EngineRecord, plan: bytes, log: str) -> None:
    cache = cache_folder()
    if cache is None:
        return
    kept = record.model_copy(update={"plan": "engine.plan", "check": None, "latency_ms": None})
    try:
        with atomic_directory(cache / key, EngineError, replace=True) as directory:
            write_engine_alone(directory, kept, plan, log)  # the temporary directory is locked while it is written
    except EngineError as cause:  # a cache that cannot be written costs time only
        _LOG.info("the plan is not kept for other bundles: %s", cause)


def _put(bundle: Bundle, record: EngineRecord, plan: bytes, log: str) -> Engine:
    """Writes into the bundle, or leaves the plan in the cache where the bundle cannot be written.

    A robot's bundle is often read-only; its plan is then used from the cache.
    """
    try:
        return write_engine(engines_folder(bundle), record, plan, log)
    except EngineError as cause:
        cache = cache_folder()
        kept = cache / record.cache_key / "engine.json" if cache is not None else None
        if kept is None or _from_folder(kept.parent, kept.stem, record.cache_key) is None:
            raise
        _LOG.warning("%s; the engine stays in %s", cause, kept.parent)
        return Engine(path=kept, record=record.model_copy(update={"plan": "engine.plan"}))


def build_engine(
    bundle: Bundle, graph: str, spec: BuildSpec, progress: Progress | None = None, *, force: bool = False
) -> BuildResult:
    """Builds the engine of ``graph`` into ``engines/``, or takes it from there or from the cache.

    Args:
        bundle: An opened bundle.
        graph: Name of one of its graphs.
        spec: Target, flavour, capabilities and batch profile.
        progress: Called at every step; False stops the build.
        force: Whether to build although a finished engine exists.

    Raises:
        MissingDependencyError: The flavour is not installed.
        EngineError: The graph cannot be built, or not here.
        BundleError: There is no such graph, or it is damaged.
        KeyboardInterrupt: After Ctrl-C; nothing is written then.
    """
    start = time.perf_counter()
    record = bundle.graph(graph)
    folder = engines_folder(bundle)
    gpu = gpu_for(spec)
    version = version_of(spec.flavour)
    # TensorRT's plan is for the GPU that built it, whatever else the target names.
    capabilities = list(spec.compute_capabilities) if spec.anywhere else [gpu.capability] if gpu else []
    if spec.anywhere and not capabilities and gpu is not None:
        capabilities = [gpu.capability]
    if not capabilities:
        raise EngineError("--target auto builds for this machine's GPU, and there is none; name a target")
    sha256 = bundle.manifest.files[record.file].sha256
    gpu_name = gpu.name if gpu is not None and not spec.anywhere else None
    identity = EngineIdentity(
        target=spec.target,
        graph=graph,
        graph_sha256=sha256,
        flavour=spec.flavour,
        version=version,
        capabilities=capabilities,
        gpu=gpu_name,
        batch=spec.batch,
        workspace_mib=spec.workspace_mib,
        lengths=text_lengths(bundle.manifest) if record.kind == "text" else None,
    )
    key, name, model_sha256 = identity.cache_key, identity.name, bundle.manifest.source.model_sha256
    own = None if force else _from_folder(folder, name, key)
    if own is not None:
        return BuildResult(
            Engine(path=folder / f"{name}.json", record=own[0]), cached=True, seconds=time.perf_counter() - start
        )
    cache = cache_folder()
    kept = None if force or cache is None else _from_folder(cache / key, "engine", key)
    if kept is not None:
        own_names = {"target": spec.target, "graph": graph, "model_sha256": model_sha256, "plan": f"{name}.plan"}
        again = kept[0].model_copy(update={**own_names, "check": None, "latency_ms": None})
        return BuildResult(_put(bundle, again, kept[1], kept[2]), cached=True, seconds=time.perf_counter() - start)

    made = build(
        spec.flavour,
        bundle.read(record.file),
        graph,
        compute_capabilities=capabilities,
        batch=spec.batch,
        lengths=identity.lengths,
        workspace_bytes=spec.workspace_mib * _MIB,
        progress=progress,
    )
    notes = [] if gpu is not None else [BUILT_WITHOUT_GPU]
    if spec.flavour == "tensorrt_rtx" and record.precision == "int8-trt":
        notes.append(UNPROVEN_INT8)
    seconds = time.perf_counter() - start
    sidecar = identity.sidecar(made, model_sha256=model_sha256, gpu=gpu, seconds=seconds, notes=notes)
    complete = EngineRecord.model_validate(sidecar)
    _keep(key, complete, made.plan, made.log)
    return BuildResult(_put(bundle, complete, made.plan, made.log), cached=False, seconds=time.perf_counter() - start)
