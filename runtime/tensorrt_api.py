"""All that differs between TensorRT 10, TensorRT 11 and TensorRT-RTX, in one place.

Only names that exist in 10.3 and in 11 are used, so nothing here asks for a version, except where TensorRT-RTX has calls
of its own. Precision never comes from a flag: every network is strongly typed, and the graph says what is fp16 or INT8.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from dmdkit.errors import EngineError, MissingDependencyError

__all__ = [
    "Built",
    "Flavour",
    "OpenEngine",
    "ProductInfo",
    "Progress",
    "TensorInfo",
    "build",
    "inspect_engine",
    "installed_flavours",
    "open_engine",
    "version_of",
]

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")
Progress = Callable[[str, int, int], bool]
"""Hears phase, step and steps; answers whether to go on."""

_TITLE = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_EXTRA = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
_LOUDEST = {0: "INTERNAL_ERROR", 1: "ERROR", 2: "WARNING", 3: "INFO", 4: "VERBOSE"}
_ERRORS = ("INTERNAL_ERROR", "ERROR")


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a network; a dynamic axis is -1."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ProductInfo:
    """A matrix product or convolution of the parsed network.

    Attributes:
        name: The ONNX node's.
        multiply_adds: For one sample.
        int8: Whether both operands come out of a dequantisation.
    """

    name: str
    multiply_adds: int
    int8: bool


@dataclass(frozen=True)
class Built:
    """A serialised plan, what it takes and gives, and what the builder said."""

    plan: bytes
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    log: str
    products: tuple[ProductInfo, ...] = ()


def _module(flavour: Flavour) -> Any:
    try:
        module = importlib.import_module(flavour)
        module.Logger, module.__version__  # noqa: B018 - type stubs alone import too, but have neither
    except (ImportError, OSError, AttributeError) as cause:
        raise MissingDependencyError(flavour, _EXTRA[flavour], f"{_TITLE[flavour]} engines") from cause
    return module


def installed_flavours() -> list[Flavour]:
    """Flavours whose package can be imported here."""
    found: list[Flavour] = []
    for flavour in FLAVOURS:
        try:
            _module(flavour)
        except MissingDependencyError:
            continue
        found.append(flavour)
    return found


def version_of(flavour: Flavour) -> str:
    """The installed version of a flavour.

    Raises:
        MissingDependencyError: It is not installed.
    """
    return str(_module(flavour).__version__)


def _logger(trt: Any, lines: list[str]) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) < 4:
                lines.append(f"[{_LOUDEST[int(severity)]}] {msg}")

    return Log()


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress(phase_name, step + 1, self.steps.get(phase_name, step + 1))

        def phase_finish(self, phase_name: str) -> None:
            progress(phase_name, self.steps.get(phase_name, 1), self.steps.pop(phase_name, 1))

    return Monitor()


def _said(lines: Sequence[str]) -> str:
    errors = [line.split("] ", 1)[1] for line in lines if line.startswith(tuple(f"[{name}]" for name in _ERRORS))]
    return (errors[0] if errors else "it gave no reason")[:400]


def _info(tensor: Any) -> TensorInfo:
    return TensorInfo(
        str(tensor.name), tuple(int(size) for size in tensor.shape), str(tensor.dtype).rsplit(".", maxsplit=1)[-1]
    )


def _products(network: Any, trt: Any) -> tuple[ProductInfo, ...]:
    """Every product of a parsed network, found with TensorRT alone: a device has no onnx package."""
    kinds = {trt.LayerType.MATRIX_MULTIPLY, trt.LayerType.CONVOLUTION}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    # What only moves or copies a value does not change where it came from.
    moves = {trt.LayerType.SHUFFLE, trt.LayerType.IDENTITY, trt.LayerType.CAST}
    dequantized: set[str] = set()
    found = []
    for layer in layers:
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        names = [tensor.name for tensor in inputs if tensor is not None]
        if layer.type == trt.LayerType.DEQUANTIZE or (layer.type in moves and names and names[0] in dequantized):
            dequantized.update(layer.get_output(index).name for index in range(layer.num_outputs))
        if layer.type not in kinds:
            continue
        work = 1
        for size in tuple(layer.get_output(0).shape)[1:]:
            work *= max(int(size), 1)
        left = tuple(int(size) for size in inputs[0].shape)
        if layer.type == trt.LayerType.CONVOLUTION:
            layer.__class__ = trt.IConvolutionLayer  # the bindings hand out the base class
            work *= left[1] // int(layer.num_groups)
            for size in layer.kernel_size_nd:
                work *= int(size)
        else:
            work *= left[-1]
        # ONNX nodes become layers of the same name, sometimes with a number behind it.
        found.append(ProductInfo(str(layer.name), work, all(name in dequantized for name in names[:2]) and len(names) > 1))
    return tuple(found)


def build(
    flavour: Flavour,
    onnx_model: bytes,
    name: str,
    *,
    compute_capabilities: Sequence[str] = (),
    batch: tuple[int, int, int] = (1, 1, 1),
    workspace_bytes: int | None = None,
    progress: Progress | None = None,
) -> Built:
    """Builds a plan.

    Args:
        flavour: Which package builds.
        onnx_model: The graph file's bytes.
        name: What to call the graph in messages.
        compute_capabilities: What to compile for ("8.6"); TensorRT-RTX only. Empty: this machine's GPU.
        batch: Smallest, tuned and largest batch, on the first axis of every input.
        workspace_bytes: Limit of the workspace pool.
        progress: Hears every step; False cancels.

    Raises:
        MissingDependencyError: The flavour is not installed.
        EngineError: The graph cannot be parsed, or no plan can be built from it here.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = _module(flavour)
    who = f"{_TITLE[flavour]} {trt.__version__}"
    lines: list[str] = []
    logger = _logger(trt, lines)
    try:
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        config = builder.create_builder_config()
    except (RuntimeError, TypeError) as cause:  # the bindings raise TypeError where the library returned nothing
        raise EngineError(f"{who} cannot start a build here: {_said(lines)}") from cause
    if not parser.parse(onnx_model):
        reasons = []
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            reasons.append(f"operator {error.node_operator() or '?'} of node {error.node_name() or '?'}: {error.desc()}")
        raise EngineError(f"{who} cannot parse {name}: {'; '.join(reasons[:3])[:600] or _said(lines)}")
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    # TF32 is on by default and rounds fp32 products to 10 bits: the fp32 hop would not be an fp32 hop.
    config.clear_flag(trt.BuilderFlag.TF32)
    # The inspector tells per-layer precision only of plans built so.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if flavour == "tensorrt_rtx":
        _compile_for(cast("Any", config), cast("Any", trt), compute_capabilities)
    else:
        config.max_aux_streams = 0  # one stream: less scratch memory, and the graph is captured whole
    profile = builder.create_optimization_profile()
    inputs = tuple(_info(network.get_input(index)) for index in range(network.num_inputs))
    outputs = tuple(_info(network.get_output(index)) for index in range(network.num_outputs))
    for tensor in inputs:
        shapes = [cast("Any", (size, *tensor.shape[1:])) for size in batch]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    monitor = _monitor(trt, progress) if progress is not None else None  # must outlive the build
    if monitor is not None:
        config.progress_monitor = monitor
    products = _products(network, trt)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{who} cannot build {name}: {_said(lines)}")
    return Built(bytes(cast("Any", plan)), inputs, outputs, "\n".join(lines) + "\n" if lines else "", products)


def _compile_for(config: Any, trt: Any, capabilities: Sequence[str]) -> None:
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
        engine: The engine.
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
        flavour: Which package built it.
        plan: The plan.
        name: What to call it in messages.
        kernels: What :meth:`OpenEngine.compiled_kernels` gave before.

    Raises:
        EngineError: TensorRT refuses it.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = _module(flavour)
    who = f"{_TITLE[flavour]} {trt.__version__} cannot open {name}"
    lines: list[str] = []
    logger = _logger(trt, lines)
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
        raise EngineError(f"{who}: {cause}; {_said(lines)}") from cause
    if engine is None or context is None:
        raise EngineError(f"{who}: {_said(lines)}")
    return OpenEngine(engine, context, flavour == "tensorrt_rtx", cache, (runtime, logger))


def inspect_engine(flavour: Flavour, opened: OpenEngine) -> str:
    """The engine inspector's JSON; its layout differs between 10 and 11, see ``runtime.inspector``."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = _module(flavour)
    inspector = opened.engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
