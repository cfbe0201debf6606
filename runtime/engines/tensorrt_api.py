"""All that differs between TensorRT 10, TensorRT 11 and TensorRT-RTX, in one place.

Only names that exist in 10.3 and in 11 are used, so nothing here asks for a version, except where TensorRT-RTX has calls
of its own. Precision never comes from a flag: every network is strongly typed, and the graph says what is fp16 or INT8.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from dmdkit.errors import EngineError, MissingDependencyError

__all__ = [
    "Flavour",
    "OpenEngine",
    "configure",
    "first_error",
    "inspect_engine",
    "installed_flavours",
    "listening_logger",
    "module_of",
    "open_engine",
    "title",
    "version_of",
]

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")
_TITLE = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_EXTRA = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
_LOUDEST = {0: "INTERNAL_ERROR", 1: "ERROR", 2: "WARNING", 3: "INFO", 4: "VERBOSE"}
_ERRORS = ("INTERNAL_ERROR", "ERROR")


def module_of(flavour: Flavour) -> Any:
    """The imported package.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        module = importlib.import_module(flavour)
        module.Logger, module.__version__  # noqa: B018 - type stubs alone import too, but have neither
    except (ImportError, OSError, AttributeError) as cause:
        raise MissingDependencyError(flavour, _EXTRA[flavour], f"{_TITLE[flavour]} engines") from cause
    return module


def title(flavour: Flavour) -> str:
    """Its name and version, for messages."""
    return f"{_TITLE[flavour]} {version_of(flavour)}"


def installed_flavours() -> list[Flavour]:
    """Flavours whose package can be imported here."""
    found: list[Flavour] = []
    for flavour in FLAVOURS:
        try:
            module_of(flavour)
        except MissingDependencyError:
            continue
        found.append(flavour)
    return found


def version_of(flavour: Flavour) -> str:
    """The installed version of a flavour.

    Raises:
        MissingDependencyError: It is not installed.
    """
    return str(module_of(flavour).__version__)


def listening_logger(trt: Any, lines: list[str]) -> Any:
    """A logger that appends all but the chatter to ``lines``; it must outlive what was made with it."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) < 4:
                lines.append(f"[{_LOUDEST[int(severity)]}] {msg}")

    return Log()


def first_error(lines: Sequence[str]) -> str:
    """The first error in a logger's lines, in the library's own words."""
    errors = [line.split("] ", 1)[1] for line in lines if line.startswith(tuple(f"[{name}]" for name in _ERRORS))]
    return (errors[0] if errors else "it gave no reason")[:400]


def configure(flavour: Flavour, config: Any, capabilities: Sequence[str]) -> None:
    """What the flavours are told differently: what to compile for, and streams.

    Raises:
        EngineError: The flavour cannot compile for one of ``capabilities``.
    """
    if flavour == "tensorrt":
        config.max_aux_streams = 0  # one stream: less scratch memory, and the graph is captured whole
        return
    trt = module_of(flavour)
    names = [f"SM{capability.replace('.', '')}" for capability in capabilities] or ["CURRENT"]
    known = trt.ComputeCapability.__members__
    missing = [name for name in names if name not in known]
    if missing:
        raise EngineError(
            f"TensorRT-RTX {trt.__version__} cannot compile for {', '.join(missing)}; it knows {', '.join(known)}"
        )
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(known[name], index)


@dataclass(frozen=True)
class OpenEngine:
    """A deserialised engine with an execution context.

    Attributes:
        engine: TensorRT's engine object.
        context: Its context, with the first optimisation profile.
        captures_itself: Whether the flavour records its own CUDA graphs, so that the caller must not.
        runtime_cache: TensorRT-RTX's compiled kernels, or None.
        keep: What must outlive engine and context.
    """

    engine: Any
    context: Any
    captures_itself: bool
    runtime_cache: Any
    keep: tuple[Any, ...]

    def compiled_kernels(self) -> bytes | None:
        """TensorRT-RTX compiles kernels on first use; these bytes spare the next opening that. None elsewhere."""
        blob = self.runtime_cache.serialize() if self.runtime_cache is not None else None
        return None if blob is None else bytes(blob)


def _rtx_context(trt: Any, runtime: Any, plan: bytes, kernels: bytes | None) -> tuple[Any, Any, Any]:
    validity, why = runtime.get_engine_validity(plan)
    if validity == trt.EngineValidity.INVALID:
        flags = trt.EngineInvalidityDiagnostics.__members__
        reasons = [name.lower().replace("_", " ") for name, flag in flags.items() if int(why) & int(flag)]
        raise RuntimeError(f"the plan is not valid here: {', '.join(reasons) or 'no reason given'}")
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None, None, None
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    cache = config.create_runtime_cache()
    if kernels is not None:
        cache.deserialize(kernels)  # answers False where they are of another driver or GPU; they are then made anew
    config.set_runtime_cache(cache)
    return engine, engine.create_execution_context(config), cache


def open_engine(flavour: Flavour, plan: bytes, name: str, kernels: bytes | None = None) -> OpenEngine:
    """Deserialises a plan whose sidecar was checked.

    Args:
        flavour: Package that built the plan.
        plan: Content of the plan file.
        name: What to call it in messages.
        kernels: What :meth:`OpenEngine.compiled_kernels` gave before.

    Raises:
        EngineError: TensorRT refuses it.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = module_of(flavour)
    who = f"{title(flavour)} cannot open {name}"
    lines: list[str] = []
    logger = listening_logger(trt, lines)
    cache: Any = None
    engine: Any
    context: Any
    try:
        runtime = trt.Runtime(logger)
        if flavour == "tensorrt_rtx":
            engine, context, cache = _rtx_context(cast("Any", trt), cast("Any", runtime), plan, kernels)
        else:
            engine = runtime.deserialize_cuda_engine(plan)
            context = engine.create_execution_context() if engine is not None else None
    except (RuntimeError, TypeError) as cause:  # the bindings raise TypeError where the library returned nothing
        raise EngineError(f"{who}: {cause}; {first_error(lines)}") from cause
    if engine is None or context is None:
        raise EngineError(f"{who}: {first_error(lines)}")
    return OpenEngine(engine, context, flavour == "tensorrt_rtx", cache, (runtime, logger))


def inspect_engine(flavour: Flavour, opened: OpenEngine) -> str:
    """The engine inspector's JSON; its layout differs between 10 and 11, see ``runtime.inspector``."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = module_of(flavour)
    inspector = opened.engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
