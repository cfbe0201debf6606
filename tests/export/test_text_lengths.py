"""Text graphs of dynamic length give what the graph of fixed length gives, at every length and in every precision."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto

from dmdkit.calibration.text.lowerings import lower_text_for_cpu, store_tables_int8
from dmdkit.calibration.text.smoothing import activations_of, best_preparations
from dmdkit.errors import ExportError
from dmdkit.export.onnx_writer import check_contract
from dmdkit.export.text_inference import text_graph
from dmdkit.export.text_lengths import with_dynamic_length, with_fixed_length
from dmdkit.model.text_encoder import TextEncoder
from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner
from dmdkit.runtime.text.lengths import encode, length_groups, takes_any_length
from dmdkit.runtime.text.tokenizer import Layout, lay_out
from tests.text_builders import TINY_SHAPE

pytest.importorskip("transformers", reason="the extra text is not installed")

STEPS = 20
LAYOUT = Layout(STEPS, 0, "left", TINY_SHAPE.vocab_size)


@pytest.fixture(scope="module")
def graph() -> ModelProto:
    torch.manual_seed(0)
    encoder = TextEncoder(TINY_SHAPE, "zero").eval()
    encoder.bert.load_state_dict({k: v + 0.3 * torch.randn_like(v) for k, v in encoder.bert.state_dict().items()})
    return text_graph(encoder, STEPS)


def rows(lengths: list[int]) -> list[list[int]]:
    generator = np.random.default_rng(3)
    return [generator.integers(5, TINY_SHAPE.vocab_size, length).tolist() for length in lengths]


def forms(graph: ModelProto) -> dict[str, ModelProto]:
    feed = lay_out(rows([3, 9, 20]), LAYOUT).feed()
    activations = activations_of(graph, feed)
    cpu = lower_text_for_cpu(graph, activations, best_preparations(graph, activations, dynamic=True, outliers=4))
    return {"fp32": graph, "int8-cpu": cpu.model, "tables": store_tables_int8(graph, for_engine=True)}


def test_a_graph_of_any_length_equals_the_fixed_one_on_full_sentences(graph: ModelProto):
    batch = lay_out(rows([STEPS, STEPS]), LAYOUT)
    for name, model in forms(graph).items():
        dynamic = with_dynamic_length(model, STEPS)
        check_contract(dynamic)
        with (
            OnnxRuntimeRunner("text", model.SerializeToString(), {}) as fixed,
            OnnxRuntimeRunner("text", dynamic.SerializeToString(), {}) as opened,
        ):
            assert takes_any_length(opened)
            assert not takes_any_length(fixed)
            np.testing.assert_array_equal(encode(opened, batch), encode(fixed, batch), err_msg=name)


@pytest.mark.parametrize("length", [1, 3, 8, 15, 19])
def test_a_short_sentence_means_what_it_means_padded(graph: ModelProto, length: int):
    batch = lay_out(rows([length]), LAYOUT)
    dynamic = with_dynamic_length(graph, STEPS)
    with (
        OnnxRuntimeRunner("text", graph.SerializeToString(), {}) as fixed,
        OnnxRuntimeRunner("text", dynamic.SerializeToString(), {}) as opened,
    ):
        np.testing.assert_allclose(encode(opened, batch), encode(fixed, batch), rtol=0, atol=2e-6)


def test_a_mixed_batch_is_run_in_groups_of_similar_length(graph: ModelProto):
    lengths = [3, 20, 1, 9, 8, 17, 16]
    batch = lay_out(rows(lengths), LAYOUT)
    with OnnxRuntimeRunner("text", with_dynamic_length(graph, STEPS).SerializeToString(), {}) as opened:
        seen: list[tuple[int, ...]] = []
        infer = opened.infer

        def watched(feed):
            seen.append(feed["input_ids"].shape)
            return infer(feed)

        opened.infer = watched  # type: ignore[method-assign]
        together = encode(opened, batch)
        assert seen == [(3, 8), (2, 16), (2, 20)]
        for index, length in enumerate(lengths):
            alone = encode(opened, lay_out(rows(lengths)[index : index + 1], LAYOUT))
            np.testing.assert_allclose(together[index : index + 1], alone, rtol=0, atol=2e-6)
            assert not together[index, : STEPS - length].any()


def test_length_groups_keep_every_place_once():
    groups = length_groups([8, 9, 1, 50, 16, 17])
    assert groups == [[0, 2], [1, 4], [5], [3]]


def test_making_the_length_fixed_again_undoes_it(graph: ModelProto):
    back = with_fixed_length(with_dynamic_length(graph, STEPS), STEPS)
    check_contract(back)
    assert [dim.dim_value for dim in back.graph.output[0].type.tensor_type.shape.dim][1:] == [STEPS, TINY_SHAPE.hidden_size]
    feed = lay_out(rows([7, 20]), LAYOUT).feed()
    found = [OnnxRuntimeRunner("text", model.SerializeToString(), {}).infer(feed)["text"] for model in (graph, back)]
    np.testing.assert_array_equal(*found)
    assert with_fixed_length(graph, STEPS) == graph


def test_a_reshape_of_another_length_is_refused(graph: ModelProto):
    with pytest.raises(ExportError, match=r"reshapes to .*expected -1, 19"):
        with_dynamic_length(onnx.ModelProto.FromString(graph.SerializeToString()), 19)
