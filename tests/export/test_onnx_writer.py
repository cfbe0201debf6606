"""Graphs as written: the contract, tidiness, and equality with the module they came from."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from dmdkit.calibration.graph.cleanup import canonicalise
from dmdkit.errors import ExportError
from dmdkit.export.onnx_writer import IR_VERSION, OPSET, check_contract, graph_from_module, subgraph


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.relu(self.first(x)), self.second(x)


@pytest.fixture(scope="module")
def module() -> Two:
    torch.manual_seed(0)
    return Two().eval()


@pytest.fixture(scope="module")
def graph(module: Two) -> onnx.ModelProto:
    return graph_from_module(module, [("x", torch.randn(2, 5, 4))], ["a", "b"])


def run(model: onnx.ModelProto, x: np.ndarray, names: list[str]) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(names, {"x": x})


def test_graph_has_the_contracts_versions_and_a_dynamic_batch(graph: onnx.ModelProto, module: Two) -> None:
    assert graph.ir_version == IR_VERSION
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", OPSET)]
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    for batch in (1, 3, 7):
        x = np.random.default_rng(batch).normal(size=(batch, 5, 4)).astype(np.float32)
        with torch.no_grad():
            expected = module(torch.from_numpy(x))
        for found, reference in zip(run(graph, x, ["a", "b"]), expected, strict=True):
            np.testing.assert_allclose(found, reference.numpy(), atol=1e-6)


def test_nodes_are_named_by_module_and_nothing_for_debuggers_is_left(graph: onnx.ModelProto) -> None:
    assert any(node.name.startswith("/first/") for node in graph.graph.node)
    assert all(not node.metadata_props and not node.doc_string for node in graph.graph.node)
    assert not graph.metadata_props
    assert not graph.graph.value_info


def test_subgraph_keeps_one_output_and_drops_what_only_the_other_needed(graph: onnx.ModelProto) -> None:
    part = subgraph(graph, ["b"], "part")
    assert [value.name for value in part.graph.output] == ["b"]
    assert all(not node.name.startswith("/first/") for node in part.graph.node)
    x = np.ones((2, 5, 4), np.float32)
    np.testing.assert_array_equal(run(part, x, ["b"])[0], run(graph, x, ["b"])[0])
    assert [value.name for value in graph.graph.output] == ["a", "b"], "the whole graph is not changed"


def make(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], *, opset: int = OPSET, ir: int = IR_VERSION
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def test_equal_constants_are_stored_once() -> None:
    ones = np.ones(4, np.float32)
    nodes = [helper.make_node("Add", ["x", "p"], ["m"], "n1"), helper.make_node("Add", ["m", "q"], ["y"], "n2")]
    model = make(nodes, {"p": ones, "q": ones.copy()})
    canonicalise(model, "g")
    assert len(model.graph.initializer) == 1
    check_contract(model)


def test_a_node_that_a_converter_inserts_takes_no_name_that_is_kept() -> None:
    names = ["/Cast_2", "inserted_a", "/Cast", "inserted_b"]
    nodes = [
        helper.make_node("Cast", [before], [after], name, to=TensorProto.FLOAT)
        for name, before, after in zip(names, ["x", "a", "b", "c"], ["a", "b", "c", "y"], strict=True)
    ]
    model = make(nodes, {})
    canonicalise(model, "g")
    assert [node.name for node in model.graph.node] == ["/Cast_2", "/Cast_3", "/Cast", "/Cast_4"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (make([helper.make_node("Relu", ["x"], ["y"], "n")], {}, opset=19), "opset 20"),
        (make([helper.make_node("Relu", ["x"], ["y"], "n")], {}, ir=9), "IR 9"),
        (make([helper.make_node("Gelu", ["x"], ["y"], "n", domain="com.microsoft")], {}), "outside the ONNX standard"),
        (make([helper.make_node("Relu", ["x"], ["y"], "n")], {"unused": np.ones(2, np.float32)}), "nothing reads"),
        (make([helper.make_node("NoSuchOp", ["x"], ["y"], "n")], {}), "checker"),
    ],
)
def test_a_broken_contract_is_named(model: onnx.ModelProto, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        check_contract(model)


def test_a_module_that_cannot_be_exported_is_one_error() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ExportError, match="could not export Branches"):
        graph_from_module(Branches(), [("x", torch.randn(2, 4))], ["y"])
