"""Builds a plan with any TensorRT: parse, strongly typed network, one optimisation profile, progress, a clean stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from dmdkit.errors import EngineError
from dmdkit.runtime.engines.tensorrt_api import Flavour, configure, first_error, listening_logger, module_of, title

__all__ = ["Built", "ProductInfo", "Progress", "TensorInfo", "build"]

Progress = Callable[[str, int, int], bool]
"""Called with phase, step and number of steps; returns whether to go on."""


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
        name: Name of the ONNX node.
        multiply_adds: Multiply-adds for one sample.
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


class _BuildWatcher:
    """Progress of the builder. What a callback raises is kept, stops the build, and is raised after it: C++ must not see it.

    Args:
        progress: Called at every step; False stops the build.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._steps: dict[str, int] = {}
        self.interrupt: BaseException | None = None
        self.stopped = False

    def report(self, phase: str, step: int, steps: int | None = None) -> bool:
        """Whether to go on."""
        try:
            total = self._steps.setdefault(phase, step if steps is None else steps)
            if self._progress is not None and not self._progress(phase, min(step, total), total):
                self.stopped = True
        except BaseException as cause:
            self.stop(cause)
        return not self.stopped

    def stop(self, cause: BaseException) -> None:
        """Stops the build at its next step."""
        self.interrupt, self.stopped = self.interrupt or cause, True


@contextmanager
def _deferred_interrupt(watcher: _BuildWatcher) -> Iterator[None]:
    """Ctrl-C stops the build at its next step; raised inside one of the builder's callbacks, it would end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: watcher.stop(KeyboardInterrupt()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _monitor(trt: Any, watcher: _BuildWatcher) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watcher.report(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watcher.report(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            watcher.report(phase_name, 1 << 30)

    return Monitor()


def _info(tensor: Any, longest: int) -> TensorInfo:
    shape = tuple(int(size) for size in tensor.shape)
    largest = (*shape[:1], *(longest if size < 0 else size for size in shape[1:]))
    return TensorInfo(str(tensor.name), largest, str(tensor.dtype).rsplit(".", maxsplit=1)[-1])


def _products(network: Any, trt: Any, longest: int) -> tuple[ProductInfo, ...]:
    """Every product of a parsed network, found with TensorRT alone: a device has no onnx package."""
    kinds = {trt.LayerType.MATRIX_MULTIPLY, trt.LayerType.CONVOLUTION}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    # What only moves a value does not change where it came from (a 1-D convolution becomes a 2-D one behind unsqueezes);
    # older releases know shuffles alone.
    known = trt.LayerType.__members__
    moves = {known[name] for name in ("SHUFFLE", "SQUEEZE", "UNSQUEEZE", "IDENTITY", "CAST") if name in known}
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
            work *= longest if int(size) < 0 else max(int(size), 1)
        left = tuple(int(size) for size in inputs[0].shape)
        if layer.type == trt.LayerType.CONVOLUTION:
            layer.__class__ = trt.IConvolutionLayer  # the bindings hand out the base class
            work *= left[1] // int(layer.num_groups)
            for size in layer.kernel_size_nd:
                work *= int(size)
        else:
            work *= longest if left[-1] < 0 else left[-1]
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
    lengths: tuple[int, int, int] | None = None,
    workspace_bytes: int | None = None,
    progress: Progress | None = None,
) -> Built:
    """Builds a plan.

    Args:
        flavour: Package that builds: tensorrt or tensorrt_rtx.
        onnx_model: The graph file's bytes.
        name: What to call the graph in messages.
        compute_capabilities: What to compile for ("8.6"); TensorRT-RTX only. Empty: this machine's GPU.
        batch: Smallest, tuned and largest batch, on the first axis of every input.
        lengths: The same of the tokens of a sentence, on the second axis of a text graph that takes any length; its inputs and
            outputs are described at the largest. None: the second axis is fixed.
        workspace_bytes: Limit of the workspace pool.
        progress: Called at every step; False cancels.

    Raises:
        MissingDependencyError: The flavour is not installed.
        EngineError: The graph cannot be parsed, no plan can be built from it here, or ``progress`` stopped it.
        KeyboardInterrupt: After Ctrl-C, at the builder's next step.
    """
    watcher = _BuildWatcher(progress)
    with _deferred_interrupt(watcher):
        try:
            built = _build(flavour, onnx_model, name, compute_capabilities, batch, lengths, workspace_bytes, watcher)
        except EngineError:
            if watcher.interrupt is None:
                raise
    if watcher.interrupt is not None:
        raise watcher.interrupt
    return built


def _build(
    flavour: Flavour,
    onnx_model: bytes,
    name: str,
    compute_capabilities: Sequence[str],
    batch: tuple[int, int, int],
    lengths: tuple[int, int, int] | None,
    workspace_bytes: int | None,
    watcher: _BuildWatcher,
) -> Built:
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = module_of(flavour)
    who = title(flavour)
    lines: list[str] = []
    logger = listening_logger(trt, lines)
    try:
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        config = builder.create_builder_config()
    except (RuntimeError, TypeError) as cause:  # the bindings raise TypeError where the library returned nothing
        raise EngineError(f"{who} cannot start a build here: {first_error(lines)}") from cause
    if not parser.parse(onnx_model):
        reasons = []
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            reasons.append(f"operator {error.node_operator() or '?'} of node {error.node_name() or '?'}: {error.desc()}")
        raise EngineError(f"{who} cannot parse {name}: {'; '.join(reasons[:3])[:600] or first_error(lines)}")
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    # TF32 is on by default and rounds fp32 products to 10 bits: the fp32 hop would not be an fp32 hop.
    config.clear_flag(trt.BuilderFlag.TF32)
    # The inspector tells per-layer precision only of plans built so.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    configure(flavour, config, compute_capabilities)
    profile = builder.create_optimization_profile()
    longest = lengths[2] if lengths is not None else 1
    inputs = tuple(_info(network.get_input(index), longest) for index in range(network.num_inputs))
    outputs = tuple(_info(network.get_output(index), longest) for index in range(network.num_outputs))
    for tensor in inputs:
        rests = [tensor.shape[1:]] * 3 if lengths is None else [(length, *tensor.shape[2:]) for length in lengths]
        shapes = [cast("Any", (size, *rest)) for size, rest in zip(batch, rests, strict=True)]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    products = _products(network, trt, longest)
    monitor = _monitor(trt, watcher)  # must outlive the build
    config.progress_monitor = monitor
    plan = None if watcher.stopped else builder.build_serialized_network(network, config)
    if watcher.stopped:
        raise EngineError(f"the build of {name} was stopped")
    if plan is None:
        raise EngineError(f"{who} cannot build {name}: {first_error(lines)}")
    return Built(bytes(cast("Any", plan)), inputs, outputs, "\n".join(lines) + "\n" if lines else "", products)
