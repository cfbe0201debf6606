"""The student against the trained model: part by part, on the published recordings, and as an ONNX graph."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import ModelProto
from torch import Tensor, nn

from dmdkit.calibration import lower_for_cpu
from dmdkit.calibration.graph.analysis import multiply_adds, share_stored_int8, weight_bytes
from dmdkit.config import ModelShape
from dmdkit.export.channel_major import Attend, LastLayer, UnitNormalise, grouped
from dmdkit.export.decoupling import Length, PadMask
from dmdkit.export.explain import ExplainModule, explain_output_names
from dmdkit.export.onnx_writer import graph_from_module, subgraph
from dmdkit.export.rewrites import fold_layer
from dmdkit.export.stream_groups import Stream, StreamGroupLayer, group_lengths, group_streams, memory_input, memory_positions
from dmdkit.export.student import StudentModule
from dmdkit.model.dmd import CROSS_PAIRS
from dmdkit.model.system import DmdSystem
from dmdkit.model.transformer import BlockDropout, EncoderBlock, attention_mask
from tests.conftest import shared_path
from tests.reference_check import load_recording

TOLERANCE = 1e-5
MODALITIES = ("text", "audio", "vision")
RECORDINGS = ("mosi_aligned_small", "mosei_aligned_small", "mosei_unaligned_small", "mosi_aligned_untrained")

LENGTHS = {
    "equal": (9, 9, 9),
    "nearly equal": (8, 10, 9),
    "all far apart": (4, 12, 25),
    "two together, first alone": (5, 20, 20),
    "two together, out of graph order": (20, 20, 5),
    "two nearly together": (5, 20, 18),
    "single steps": (1, 1, 1),
}

ONLY_THESE_OPERATORS = {
    "Abs",
    "Add",
    "Cast",
    "Concat",
    "Conv",
    "Div",
    "Gather",
    "Gemm",
    "Greater",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
}
ONLY_THESE_OPERATORS |= {
    "ReduceMax",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Sqrt",
    "Sub",
    "Transpose",
}
ONLY_THESE_OPERATORS |= {"Unsqueeze"}
"""All of them plain operators of the standard that every engine reads."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def perturbed(module: nn.Module) -> nn.Module:
    """Biases and LayerNorms away from their initial zeros and ones, which would hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def shape_of(
    lengths: tuple[int, int, int], *, levels: int = 2, kernels: tuple[int, int, int] = (1, 1, 1), **other: int
) -> ModelShape:
    def by_modality(values: tuple[int, ...]) -> dict[str, int]:
        return dict(zip(MODALITIES, values, strict=True))

    sizes = {"width": 12, "heads": 3, "num_outputs": 1} | other
    dims = by_modality((30, 4, 5))
    steps = by_modality(tuple(n + k - 1 for n, k in zip(lengths, kernels, strict=True)))
    return ModelShape(feature_dims=dims, lengths=steps, kernels=by_modality(kernels), levels=levels, **sizes)


def system_of(shape: ModelShape, *, standardised: bool = False) -> DmdSystem:
    system = DmdSystem(shape, standardised=standardised)
    if standardised:
        statistics = {m: (torch.randn(n), torch.rand(n) + 0.5) for m, n in shape.feature_dims.as_dict().items()}
        system.dmd.set_statistics(statistics)
    perturbed(system)
    return system


def features_of(shape: ModelShape, batch: int = 5) -> dict[str, Tensor]:
    """Ordinary samples, then: left-padded, right-padded, one modality absent, all zero, all 1e-9."""
    dims, steps = shape.feature_dims.as_dict(), shape.lengths.as_dict()
    features = {m: torch.randn(batch + 5, steps[m], dims[m]) for m in MODALITIES}
    for name, x in features.items():
        third = steps[name] // 3
        x[batch, :third] = 0
        x[batch + 1, steps[name] - third :] = 0
        x[batch + 3] = 0
        x[batch + 4] = 1e-9
    features["vision"][batch + 2] = 0
    return features


def largest(difference: Tensor) -> float:
    return float(difference.detach().abs().max())


# Part by part.


def test_a_projected_step_is_padding_only_if_every_value_under_its_kernel_is_zero() -> None:
    x = torch.zeros(1, 8, 3)
    x[0, 4, 2] = -1e-9
    step, projected = PadMask(3)(x)
    assert step[0, 0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert projected[0, 0].tolist() == [0, 0, 1, 1, 1, 0]
    assert PadMask(1)(x)[1].tolist() == step.tolist()


def test_streams_side_by_side_are_normalised_each_by_itself() -> None:
    x = torch.randn(2, 3, 12, 7)
    flat = (x - x.mean(dim=2, keepdim=True)) / 12**0.5
    found = UnitNormalise(3, 12)(flat.reshape(2, 36, 7)).reshape(2, 3, 12, 7) * 12**0.5
    assert largest(found - F.layer_norm(x.transpose(2, 3), (12,)).transpose(2, 3)) < TOLERANCE


def test_one_grouped_convolution_is_one_linear_layer_for_each_stream() -> None:
    linears = [nn.Linear(4, 6) for _ in range(3)]
    x = torch.randn(2, 3, 4, 5)
    found = grouped([linear.weight for linear in linears], [linear.bias for linear in linears])(x.reshape(2, 12, 5))
    apart = torch.cat([linear(x[:, i].transpose(1, 2)).transpose(1, 2) for i, linear in enumerate(linears)], dim=1)
    assert largest(found - apart) < TOLERANCE


@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (6, 9), (9, 6), (1, 1), (1, 4)])
def test_attention_obeys_the_published_mask(queries: int, keys: int) -> None:
    q, k, v = torch.randn(2, 3, 4, queries), torch.randn(2, 3, 4, keys), torch.randn(2, 3, 4, keys)
    forbidden = attention_mask(queries, keys)
    found = Attend(3, forbidden.unsqueeze(0))(q.reshape(2, 12, -1), k.reshape(2, 12, -1), v.reshape(2, 12, -1))
    scores = (q.transpose(2, 3) @ k).masked_fill(forbidden, -torch.inf)
    assert largest(found.reshape(2, 3, 4, -1) - v @ torch.softmax(scores, -1).transpose(2, 3)) < TOLERANCE


def blocks_and_streams(steps: int, count: int) -> tuple[list[EncoderBlock], Tensor]:
    blocks = [EncoderBlock(12, 3, 1, steps, None, BlockDropout()) for _ in range(count)]
    for block in blocks:
        perturbed(block)
    return blocks, torch.randn(count, 2, steps, 12)


def as_lane(x: Tensor) -> Tensor:
    """Steps of streams (S, B, T, e), centred and put side by side: (B, S*e, T)."""
    centred = (x - x.mean(dim=-1, keepdim=True)) / x.shape[-1] ** 0.5
    return centred.permute(1, 0, 3, 2).reshape(x.shape[1], -1, x.shape[2])


def test_sibling_blocks_in_a_lane_are_the_blocks_one_by_one() -> None:
    blocks, x = blocks_and_streams(7, 3)
    streams = [Stream("text", None, Length(7), Length(7))] * 3
    lane = StreamGroupLayer([fold_layer(block.layers[0]) for block in blocks], streams)
    apart = torch.stack([block.layers[0](x[i], None, block.forbidden) for i, block in enumerate(blocks)])
    assert largest(lane(as_lane(x), [None]) - as_lane(apart)) < TOLERANCE


def test_the_last_query_alone_gives_the_last_step_of_the_whole_layer() -> None:
    blocks, x = blocks_and_streams(7, 2)
    last = LastLayer([fold_layer(block.layers[0]) for block in blocks], torch.zeros(2, 7, dtype=torch.bool))
    whole = [block.layers[0](x[i], None, block.forbidden)[:, -1] for i, block in enumerate(blocks)]
    normalised = torch.cat([F.layer_norm(step, (12,)) for step in whole], dim=1)
    assert largest(last(as_lane(x))[:, :, 0] * 12**0.5 - normalised) < TOLERANCE


def test_empty_steps_in_front_change_no_other_step() -> None:
    blocks, x = blocks_and_streams(7, 2)
    layers = [fold_layer(block.layers[0]) for block in blocks]
    short = StreamGroupLayer(layers, [Stream("text", None, Length(7), Length(7))] * 2)(as_lane(x), [None])
    anything = F.pad(as_lane(x), (3, 0), value=0.7)
    streams = [Stream("text", None, Length(7, 3), Length(7, 3))] * 2
    assert largest(StreamGroupLayer(layers, streams)(anything, [None])[:, :, 3:] - short) < TOLERANCE
    padding = torch.stack([stream.forbidden()[-1] for stream in streams])
    alone = LastLayer(layers, torch.zeros(2, 7, dtype=torch.bool))(as_lane(x))
    assert largest(LastLayer(layers, padding)(anything) - alone) < TOLERANCE


@pytest.mark.parametrize(("queries", "keys"), [(5, 8), (8, 5), (7, 7)])
def test_empty_steps_hide_keys_and_keep_the_published_mask(queries: int, keys: int) -> None:
    forbidden = Stream("text", "audio", Length(queries, 8 - queries), Length(keys, 8 - keys)).forbidden()
    assert forbidden.shape == (8, 8)
    assert forbidden[:, : 8 - keys].all()
    assert torch.equal(forbidden[8 - queries :, 8 - keys :], attention_mask(queries, keys))


def test_close_lengths_share_a_lane_and_far_ones_do_not() -> None:
    assert group_lengths({"text": 46, "audio": 50, "vision": 48}) == {
        "text": Length(46, 4),
        "audio": Length(50),
        "vision": Length(48, 2),
    }
    assert {m: length.empty for m, length in group_lengths({"text": 46, "audio": 371, "vision": 496}).items()} == {
        "text": 0,
        "audio": 0,
        "vision": 0,
    }


def test_streams_with_equally_long_sources_stand_side_by_side() -> None:
    lengths = group_lengths({"text": 5, "audio": 20, "vision": 20})
    totals = [stream.keys.total for stream in group_streams(["vision", "audio"], lengths)]
    assert totals == [5, 5, 20, 20, 20, 20]
    equal = group_streams(["text", "vision", "audio"], group_lengths(dict.fromkeys(MODALITIES, 9)))
    assert [(s.target, s.source) for s in equal[:6]] == [(t, s) for t in ("text", "vision", "audio") for s in CROSS_PAIRS[t]]


def test_the_memory_input_does_both_final_norms_scale_and_positions() -> None:
    dmd = system_of(shape_of((6, 6, 6))).dmd
    (weight, bias), positions = memory_input(dmd, "audio"), memory_positions(dmd, "audio", Length(6, 1))
    x = torch.randn(2, 6, 24)
    parts = [dmd.cross_block["audio"][s].layer_norm(p) for s, p in zip(CROSS_PAIRS["audio"], x.chunk(2, -1), strict=True)]
    embedded = torch.cat(parts, -1) * 24**0.5 + dmd.memory_block["audio"].positions[1:7]
    units = torch.cat([F.layer_norm(part, (12,)) / 12**0.5 for part in x.chunk(2, -1)], -1)
    found = F.linear(units, weight.float(), bias.float()).transpose(1, 2) + positions[:, 1:].float()
    assert largest(found - as_lane(embedded.unsqueeze(0))) < TOLERANCE
    assert not positions[:, 0].any()


# The whole.


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("levels", [1, 3])
def test_the_student_answers_as_the_full_model_at_any_lengths(lengths: tuple[int, int, int], levels: int) -> None:
    shape = shape_of(lengths, levels=levels, kernels=(3, 1, 2))
    system, features = system_of(shape), features_of(shape)
    assert largest(StudentModule(system.dmd)(**features) - system.dmd(**features).output) < TOLERANCE


@pytest.mark.parametrize("other", [{"num_outputs": 4}, {"width": 15}, {"width": 8, "heads": 1}])
def test_the_student_answers_as_the_full_model_for_classes_odd_widths_and_one_head(other: dict[str, int]) -> None:
    shape = shape_of((7, 6, 7), kernels=(2, 2, 1), **other)
    system, features = system_of(shape), features_of(shape)
    assert largest(StudentModule(system.dmd)(**features) - system.dmd(**features).output) < TOLERANCE


def test_standardised_features_keep_their_padding() -> None:
    shape = shape_of((6, 9, 9), kernels=(3, 2, 1))
    system, features = system_of(shape, standardised=True), features_of(shape)
    assert largest(StudentModule(system.dmd)(**features) - system.dmd(**features).output) < TOLERANCE


def test_making_a_student_does_not_change_the_model() -> None:
    system = system_of(shape_of((6, 6, 6)))
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    ExplainModule(system)
    assert all(torch.equal(before[name], tensor) for name, tensor in system.state_dict().items())


def recording(name: str) -> tuple[DmdSystem, dict[str, Tensor]]:
    system, arrays = load_recording(shared_path("reference") / f"{name}.weights.safetensors")
    features = {m: torch.from_numpy(arrays[f"in/{m}"]) for m in MODALITIES}
    if name == "mosi_aligned_untrained":
        # Sample 4: all biases are zero and all streams begin with zeros; the one case where the padding mask taken from
        # the input differs from the published test on channel 0 (docs/model.md section 10).
        kept = [i for i in range(len(features["text"])) if i != 4]
        features = {m: x[kept] for m, x in features.items()}
    return system, features


def explained(system: DmdSystem, features: dict[str, Tensor]) -> list[Tensor]:
    out = system(**features)
    model = out.model
    logits = [torch.stack([part[m] for m in ("text", "vision", "audio")], 1) for part in (model.logit_homo, model.logit_hetero)]
    edges = [edge for edge in (out.edges_homo, out.edges_hetero) if edge is not None]
    return [model.output, *logits, *edges]


@pytest.mark.parametrize("name", RECORDINGS)
def test_student_and_explanation_agree_with_the_published_recordings(name: str) -> None:
    system, features = recording(name)
    with torch.inference_mode():
        found, expected = ExplainModule(system)(**features), explained(system, features)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert largest(ours - theirs) < TOLERANCE


# As a graph.


def graph_and_error(system: DmdSystem, features: dict[str, Tensor]) -> tuple[ModelProto, float]:
    """The fusion graph and its largest error over batches of 1, 2 and all samples."""
    examples = [(m, features[m][:2].clone()) for m in MODALITIES]
    names = explain_output_names(gd_units=system.homo_gd is not None)
    whole = graph_from_module(ExplainModule(system), examples, names)
    fusion = subgraph(whole, ["score"], "fusion")
    error = 0.0
    with torch.inference_mode():
        expected = [tensor.numpy() for tensor in explained(system, features)]
    for graph, outputs in ((fusion, expected[:1]), (whole, expected)):
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        for part in (slice(0, 1), slice(1, 3), slice(None)):
            found = session.run(None, {m: x[part].numpy() for m, x in features.items()})
            error = max(error, *(float(np.abs(f - e[part]).max()) for f, e in zip(found, outputs, strict=True)))
    return fusion, error


@pytest.mark.slow
@pytest.mark.parametrize("lengths", ["equal", "nearly equal", "two together, first alone"])
def test_the_exported_graph_agrees_at_every_batch_size(lengths: str) -> None:
    shape = shape_of(LENGTHS[lengths], levels=1, kernels=(3, 1, 2) if lengths != "equal" else (3, 3, 3))
    graph, error = graph_and_error(system_of(shape), features_of(shape))
    assert error < TOLERANCE
    assert {node.op_type for node in graph.graph.node} <= ONLY_THESE_OPERATORS


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDINGS)
def test_the_exported_graph_agrees_with_the_published_recordings(name: str) -> None:
    _, error = graph_and_error(*recording(name))
    assert error < TOLERANCE


@pytest.mark.slow
def test_the_padding_mask_is_a_module_of_its_own_in_the_graph() -> None:
    shape = shape_of((6, 6, 6), levels=1, kernels=(3, 1, 2))
    examples = [(m, x[:2].clone()) for m, x in features_of(shape).items()]
    graph = graph_from_module(StudentModule(system_of(shape).dmd), examples, ["score"])
    masks = {node.op_type for node in graph.graph.node if "/pad_mask/" in node.name}
    assert {"Abs", "ReduceMax", "Greater", "MaxPool"} <= masks
    assert not {"Conv", "Softmax"} & masks


def test_a_grouped_convolution_counts_its_own_streams_only_and_stores_every_weight_as_int8() -> None:
    linears = [nn.Linear(16, 24) for _ in range(3)]
    module = grouped([linear.weight for linear in linears], [linear.bias for linear in linears])
    graph = graph_from_module(module, [("x", torch.randn(2, 48, 5))], ["y"])
    assert multiply_adds(graph) == 3 * 16 * 24 * 5
    stored = lower_for_cpu(graph).model  # refuses scales along a reduction axis
    assert share_stored_int8(stored) == 1
    assert weight_bytes(stored) == 3 * 24 * (16 + 4)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(stored.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = torch.randn(4, 48, 5)
    exact = module(x).detach().numpy()
    assert np.corrcoef(session.run(None, {"x": x.numpy()})[0].ravel(), exact.ravel())[0, 1] > 0.9999
