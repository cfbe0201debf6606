"""All graphs of a run: fusion, explain and the GD-Units in fp32, and their INT8 forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from onnx import ModelProto

from dmdkit.calibration import lower_for_cpu
from dmdkit.calibration.graph.analysis import multiply_adds, share_computed_int8, share_stored_int8, weight_bytes
from dmdkit.calibration.graph.layers import layers_of
from dmdkit.calibration.lowerings import Lowering, static_int8
from dmdkit.calibration.search.planning import Int8Plan, Progress, Samples, SearchOptions, plan_int8
from dmdkit.config import ModelShape
from dmdkit.export.explain import ExplainModule, explain_output_names
from dmdkit.export.native_plan import replan, with_plan
from dmdkit.export.onnx_writer import graph_from_module, subgraph
from dmdkit.model.system import DmdSystem
from dmdkit.runtime.graph_records import GraphKind, GraphRecord, Precision, VerdictRecord

__all__ = ["ExportedGraph", "fp32_graphs", "int8_graphs", "plan_for"]

_EXAMPLE_BATCH = 2
NOT_CHECKED = VerdictRecord(status="unverified", reason="parity has not been measured", samples=0)


@dataclass(frozen=True)
class ExportedGraph:
    """A graph and what the manifest says of how to run it."""

    kind: GraphKind
    precision: Precision
    model: ModelProto
    session_options: dict[str, str]
    simulated_on_cpu: bool = False
    calibrated: bool = False

    @classmethod
    def lowered(cls, kind: GraphKind, precision: Precision, lowering: Lowering) -> ExportedGraph:
        """An INT8 form."""
        options, simulated = lowering.session_options, lowering.simulated_on_cpu
        return cls(kind, precision, lowering.model, options, simulated, lowering.calibrated)

    @property
    def name(self) -> str:
        """Its key in the manifest."""
        return f"{self.kind}.{self.precision}"

    @property
    def file(self) -> str:
        """Its path inside the bundle."""
        return f"graphs/{self.kind}.onnx" if self.kind.startswith("gd_") else f"graphs/{self.name}.onnx"

    def record(self) -> GraphRecord:
        """Its entry in the manifest."""
        return GraphRecord(
            kind=self.kind,
            precision=self.precision,
            file=self.file,
            opset=next(entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")),
            ir_version=self.model.ir_version,
            session_options=self.session_options,
            simulated_on_cpu=self.simulated_on_cpu,
            weight_bytes=weight_bytes(self.model),
            weights_stored_int8=share_stored_int8(self.model),
            multiply_adds=multiply_adds(self.model),
            multiply_adds_int8=share_computed_int8(self.model),
            verdict=NOT_CHECKED,
        )


def _examples(shape: ModelShape) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    dims = shape.feature_dims.as_dict()
    return [
        (name, torch.randn(_EXAMPLE_BATCH, steps, dims[name], generator=generator))
        for name, steps in shape.lengths.as_dict().items()
    ]


def fp32_graphs(system: DmdSystem, on_step: Callable[[str], None], *, real_steps: bool = False) -> list[ExportedGraph]:
    """fusion, explain and, where the system has them, both GD-Units.

    Args:
        system: The trained system, in evaluation mode.
        on_step: Called with each name before its work.
        real_steps: Whether the graphs take ``steps`` and read the last real one.
    """
    shape = system.dmd.shape
    on_step("explain.fp32")
    examples = _examples(shape)
    if real_steps:
        examples.append(("steps", torch.tensor([shape.lengths.text, shape.kernels.text])))
    explain = graph_from_module(ExplainModule(system), examples, explain_output_names(gd_units=system.homo_gd is not None))
    on_step("fusion.fp32")
    # The score's part of the explain graph is the student path: exporting it again would only cost time.
    fusion = with_plan(subgraph(explain, ["score"], "fusion"), shape, real_steps=real_steps)
    graphs = [
        ExportedGraph("fusion", "fp32", fusion, {}),
        ExportedGraph("explain", "fp32", subgraph(explain, [o.name for o in explain.graph.output], "explain"), {}),
    ]
    units: list[tuple[GraphKind, torch.nn.Module | None, int]] = [
        ("gd_homo", system.homo_gd, shape.width),
        ("gd_hetero", system.hetero_gd, 2 * shape.width),
    ]
    for kind, unit, width in units:
        if unit is None:
            continue
        on_step(f"{kind}.fp32")
        inputs = [
            ("logits", torch.randn(_EXAMPLE_BATCH, 3, shape.num_outputs)),
            ("representations", torch.randn(_EXAMPLE_BATCH, 3, width)),
        ]
        model = graph_from_module(unit, inputs, ["edges"])
        model.graph.name = kind
        graphs.append(ExportedGraph(kind, "fp32", model, {}))
    return graphs


def int8_graphs(graphs: list[ExportedGraph], plan: Int8Plan, on_step: Callable[[str], None]) -> list[ExportedGraph]:
    """The INT8 forms of fusion and explain, as planned on explain, which holds the layers of both."""
    found: list[ExportedGraph] = []
    for graph in graphs:
        if graph.kind.startswith("gd_"):
            continue
        validation = layer_names(graph)
        on_step(f"{graph.kind}.int8-cpu")
        for_cpu = lower_for_cpu(graph.model, plan.cpu_forms, plan.ranges)
        replan(for_cpu.model, graph.model)
        found.append(ExportedGraph.lowered(graph.kind, "int8-cpu", for_cpu))
        on_step(f"{graph.kind}.int8-trt")
        scales = {name: value for name, value in plan.scales.items() if name in validation}
        found.append(ExportedGraph.lowered(graph.kind, "int8-trt", static_int8(graph.model, scales)))
    return found


def layer_names(graph: ExportedGraph) -> set[str]:
    """Names of its products."""
    return {layer.name for layer in layers_of(graph.model)}


def plan_for(
    graphs: list[ExportedGraph], samples: Samples, options: SearchOptions, progress: Progress | None = None
) -> Int8Plan:
    """The plan for fusion and explain together: explain holds the layers of both, fusion is what must be fast.

    Args:
        graphs: The fp32 graphs.
        samples: To calibrate, rank and judge with.
        options: Method, time limit and mode of the search.
        progress: Called at every step, and within long ones with (done, total).
    """
    models = {graph.kind: graph.model for graph in graphs if not graph.kind.startswith("gd_")}
    kinds: dict[str, set[str]] = {graph.kind: layer_names(graph) for graph in graphs if graph.kind in models}
    return plan_int8(models["explain"], samples, graphs=kinds, options=options, timed=models["fusion"], progress=progress)
