"""What runs a graph or a module, each as a function without arguments that returns the score."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import nn

from benchmarks.models import MODALITIES, Graph
from dmdkit.runtime.backends.onnxruntime import session_options
from dmdkit.telemetry import import_openvino

Array = npt.NDArray[np.float32]
Call = Callable[[], Array]


def ort_session(data: bytes, threads: int, *, profile: str | None = None) -> ort.InferenceSession:
    options = session_options(threads=threads)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def in_onnxruntime(graph: Graph, feed: Mapping[str, Array], threads: int) -> Call:
    session, inputs, outputs = ort_session(graph.data, threads), dict(feed), [graph.score]
    return lambda: session.run(outputs, inputs)[0]


def openvino_missing() -> str | None:
    try:
        import_openvino()
    except ImportError:
        return "openvino is not installed (pip install 'dmdkit[openvino]')"
    return None


def in_openvino(graph: Graph, feed: Mapping[str, Array], threads: int, *, precision: str = "f32") -> Call:
    """The graph as a user who knows OpenVINO would run it: batch fixed, one stream, latency hint."""
    core = import_openvino().Core()
    model = core.read_model(io.BytesIO(graph.data))
    model.reshape({name: list(array.shape) for name, array in feed.items()})
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    inputs = dict(feed)
    return lambda: np.array(request.infer(inputs, share_inputs=True, share_outputs=True)[graph.score])


def in_torch(module: nn.Module, feed: Mapping[str, Array]) -> Call:
    tensors = tuple(torch.from_numpy(feed[name]) for name in MODALITIES)

    def call() -> Array:
        with torch.inference_mode():
            found = module(*tensors)
        return (found[0] if isinstance(found, tuple) else found).numpy()

    return call


def compiler_missing() -> str | None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        return "torch.compile needs a C++ compiler (g++ or clang++)"
    return None


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, dynamic=False)  # type: ignore[return-value]
