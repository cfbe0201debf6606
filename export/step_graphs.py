"""The step graphs of a run: fp32, and INT8 as ONNX Runtime's CPU runs it; and what is recorded of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from dmdkit.calibration import lower_for_cpu
from dmdkit.calibration.graph.cleanup import STEP_GRAPH
from dmdkit.config import ModelShape
from dmdkit.export.graphs import ExportedGraph
from dmdkit.export.native_plan import with_step_plan
from dmdkit.export.onnx_writer import graph_from_module
from dmdkit.export.step import StepModule, state_of, step_inputs, step_output_names
from dmdkit.model.system import DmdSystem
from dmdkit.runtime.manifest import StateRecord, StreamRecord

__all__ = ["step_graphs", "stream_record_of"]

Array = npt.NDArray[np.float32]
_EXAMPLE_STEPS = 3


def step_graphs(system: DmdSystem, *, int8: bool, on_step: Callable[[str], None]) -> list[ExportedGraph]:
    """``stream.fp32`` and with ``int8`` ``stream.int8-cpu``, which stores INT8 weights and computes in float.

    Raises:
        ExportError: The model is not causal behind its projection.
    """
    shape = system.dmd.shape
    on_step("stream.fp32")
    inputs = step_inputs(shape, _EXAMPLE_STEPS)
    outputs = step_output_names(shape, gd_units=system.hetero_gd is not None)
    model = graph_from_module(StepModule(system), inputs, outputs, fixed=[name for name, _ in inputs[3:]], name=STEP_GRAPH)
    graphs = [ExportedGraph("stream", "fp32", with_step_plan(model), {})]
    if int8:
        on_step("stream.int8-cpu")
        lowered = lower_for_cpu(model)
        with_step_plan(lowered.model)
        graphs.append(ExportedGraph.lowered("stream", "int8-cpu", lowered))
    return graphs


def stream_record_of(shape: ModelShape, graphs: Sequence[ExportedGraph]) -> StreamRecord | None:
    """What the manifest says of these step graphs; None where there are none."""
    if not graphs:
        return None
    return StreamRecord(
        kernel=shape.kernels.text,
        capacity=shape.projected_lengths["text"],
        state=[StateRecord(name=tensor.name, heads=tensor.heads, width=tensor.width) for tensor in state_of(shape)],
        graphs={graph.precision: graph.record() for graph in graphs},
    )
