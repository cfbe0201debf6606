"""The plan of a fusion graph names, for every weight of the model, the initialiser and the rows it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

from dmdkit.calibration import lower_for_cpu
from dmdkit.calibration.graph.layers import layers_of
from dmdkit.config import ModelShape
from dmdkit.errors import ExportError
from dmdkit.export.native_plan import plan_of, replan, with_plan
from dmdkit.export.onnx_writer import graph_from_module
from dmdkit.export.rewrites import fold_layer
from dmdkit.export.student import StudentModule
from dmdkit.model import DmdSystem
from tests.model.test_dmd import shape_of

SHAPE = shape_of(4, 2, 2, lengths=(9, 12, 4), kernels=(2, 3, 1), dims=(30, 5, 6))


def system_of(shape: ModelShape, *, standardised: bool = False) -> DmdSystem:
    torch.manual_seed(0)
    system = DmdSystem(shape, standardised=standardised).eval()
    for modality, part in system.dmd.standardise.items():
        part.mean += torch.linspace(-1, 1, shape.feature_dims.as_dict()[modality])
        part.scale += torch.linspace(0, 2, shape.feature_dims.as_dict()[modality])
    for parameter in system.parameters():  # equal biases would be stored once
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return system


@pytest.fixture(scope="module")
def system() -> DmdSystem:
    return system_of(SHAPE)


@pytest.fixture(scope="module")
def fusion(system: DmdSystem) -> ModelProto:
    student = StudentModule(system.dmd)
    dims, steps = (part.as_dict() for part in (SHAPE.feature_dims, SHAPE.lengths))
    examples = [(m, torch.randn(2, steps[m], dims[m])) for m in ("text", "audio", "vision")]
    return with_plan(graph_from_module(student, examples, ["score"]), SHAPE)


def entries(model: ModelProto) -> dict[str, dict[str, str]]:
    plan = plan_of(model)
    assert plan is not None
    assert plan.splitlines()[0] == "dmdkit plan 1"
    rows = (line.split() for line in plan.splitlines()[1:])
    return {name: dict(word.split("=") for word in words) for name, *words in rows if "=" in words[0]}


def weight(model: ModelProto, name: str, rows: int) -> np.ndarray:
    entry, constants = entries(model)[name], {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found, first = constants[entry["weight"]], int(entry.get("row", 0))
    if "scale" in entry:
        scale = constants[entry["scale"]].reshape(-1)
        found = found.T if "transposed" in entry else found
        found = found * scale.reshape(-1, *[1] * (found.ndim - 1))
    return np.asarray(found[first : first + rows])


def test_every_name_is_in_the_graph_and_the_graph_stays_valid(fusion: ModelProto) -> None:
    onnx.checker.check_model(fusion, full_check=True)
    names = {tensor.name for tensor in fusion.graph.initializer}
    for entry in entries(fusion).values():
        assert {entry[key] for key in ("weight", "scale", "bias") if key in entry} <= names


def test_streams_of_lanes_have_their_own_rows(system: DmdSystem, fusion: ModelProto) -> None:
    dmd = system.dmd
    for name, block in (
        ("cross.text.audio", dmd.cross_block["text"]["audio"]),  # type: ignore[index]
        ("cross.vision.text", dmd.cross_block["vision"]["text"]),  # type: ignore[index]
        ("memory.audio", dmd.memory_block["audio"]),
    ):
        for level in range(2):
            folded = fold_layer(block.layers[level])
            for part in ("query", "key", "value", "out", "fc1", "fc2"):
                expected = getattr(folded, part).numpy()
                found = weight(fusion, f"{name}.{level}.{part}", len(expected)).squeeze(-1)
                np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7, err_msg=f"{name}.{level}.{part}")


def test_int8_forms_have_plans_of_their_own(fusion: ModelProto) -> None:
    layers = [layer.name for layer in layers_of(fusion)]
    for forms in ({}, {name: "dynamic" for name in layers if "/query/" in name or "proj1" in name}):
        lowered = replan(lower_for_cpu(fusion, forms, {}).model, fusion)
        onnx.checker.check_model(lowered)
        for name in ("cross.audio.vision.0.query", "cross.audio.vision.0.fc1", "readout.hidden", "text.encode"):
            exact = weight(fusion, name, 16)
            np.testing.assert_allclose(weight(lowered, name, 16), exact, atol=np.abs(exact).max() / 200, err_msg=name)
            assert "scale" in entries(lowered)[name]


def test_a_graph_of_another_maker_is_refused(fusion: ModelProto) -> None:
    other = ModelProto()
    other.CopyFrom(fusion)
    for node in other.graph.node:
        node.name = node.name.replace("readout", "head")
    with pytest.raises(ExportError, match="no plan for the native kernels"):
        with_plan(other, SHAPE)


def test_a_graph_without_a_plan_gives_forms_without_one(fusion: ModelProto) -> None:
    bare = ModelProto()
    bare.CopyFrom(fusion)
    del bare.metadata_props[:]
    assert plan_of(replan(lower_for_cpu(bare).model, bare)) is None
