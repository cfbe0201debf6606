"""A text encoder in fp16: tokens stay whole numbers, its mask stays in range, and its verdict is measured like any other."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from dmdkit.calibration.fp16 import lower_to_fp16
from dmdkit.data import load_dataset
from dmdkit.data.tokenise import dataset_with_text
from dmdkit.errors import ExportError
from dmdkit.export.fp16_check import mostly_masked
from dmdkit.export.fp16_forms import add_fp16_graphs, fp16_graphs, has_fp16_rest
from dmdkit.export.graphs import ExportedGraph
from dmdkit.export.text_inference import text_graph
from dmdkit.model.text_encoder import TextEncoder
from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.open_graph import open_runner
from tests.text_builders import MAX_TOKENS, TINY_SHAPE

pytestmark = pytest.mark.slow

FORMS = ["text.fp16", "text.int8-trt"]


def tokens_with(count: int) -> dict[str, np.ndarray]:
    """One sentence in which only the last ``count`` steps are tokens."""
    mask = (np.arange(MAX_TOKENS) >= MAX_TOKENS - count).astype(np.int64)[None]
    ids = np.arange(4, 4 + MAX_TOKENS)[None] % TINY_SHAPE.vocab_size
    return {"input_ids": np.ascontiguousarray(ids * mask), "attention_mask": mask}


def test_export_fp16_adds_the_text_graph_with_int64_tokens_and_float32_features(text_engine_bundle: Path) -> None:
    bundle = Bundle.open(text_engine_bundle)
    bundle.verify()
    record = bundle.graph("text.fp16")
    model = onnx.load(text_engine_bundle / record.file)
    assert (record.opset, record.ir_version) == (20, 10)
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert kinds == {"input_ids": TensorProto.INT64, "attention_mask": TensorProto.INT64, "text": TensorProto.FLOAT}
    tables = [tensor for tensor in model.graph.initializer if tensor.dims == [TINY_SHAPE.vocab_size, TINY_SHAPE.hidden_size]]
    assert [tensor.data_type for tensor in tables] == [TensorProto.FLOAT16], "the embeddings are most of a BERT's size"


def test_int8_for_tensorrt_keeps_its_integer_share_and_its_rest_is_fp16(text_engine_bundle: Path, text_bundle: Path) -> None:
    mixed, plain = (Bundle.open(path).manifest.graphs["text.int8-trt"] for path in (text_engine_bundle, text_bundle))
    assert has_fp16_rest(onnx.load(text_engine_bundle / mixed.file))
    assert not has_fp16_rest(onnx.load(text_bundle / plain.file))
    assert mixed.multiply_adds_int8 == pytest.approx(plain.multiply_adds_int8)
    assert mixed.multiply_adds_int8 > 0
    assert mixed.weights_stored_int8 == plain.weights_stored_int8 == 1.0


def test_every_constant_is_finite_in_fp16(text_engine_bundle: Path) -> None:
    for name in FORMS:
        model = onnx.load(text_engine_bundle / f"graphs/{name}.onnx")
        half = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16]
        assert half
        assert all(np.isfinite(numpy_helper.to_array(tensor)).all() for tensor in half)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("count", [0, 1, MAX_TOKENS])
def test_masked_steps_do_not_reach_the_features(text_engine_bundle: Path, text_bundle: Path, name: str, count: int) -> None:
    """Against the graph it was made from, and with other ids where the mask is 0: attention must not see them."""
    source = (text_engine_bundle, "text.fp32") if name == "text.fp16" else (text_bundle, name)
    feed = tokens_with(count)
    with open_runner(Bundle.open(source[0]), source[1]) as runner:
        expected = runner.infer(feed)["text"]
    with open_runner(Bundle.open(text_engine_bundle), name) as runner:
        found = runner.infer(feed)["text"]
        others = {**feed, "input_ids": np.where(feed["attention_mask"] == 0, 7, feed["input_ids"])}
        np.testing.assert_array_equal(runner.infer(others)["text"], found)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 if name == "text.fp16" else 0.25)


def test_the_report_names_what_stayed_in_fp32_and_the_ledger_has_the_hops(text_engine_bundle: Path) -> None:
    report = json.loads((text_engine_bundle / "report/fp16.json").read_text())["graphs"]
    for name in FORMS:
        facts = report[name]
        assert 0 < len(facts["kept_fp32"]) < facts["nodes"] / 4
        norms = 2 * TINY_SHAPE.num_hidden_layers + 1
        assert sum(node.endswith("LayerNormalization") for node in facts["kept_fp32"]) == norms
        assert facts["golden_error"] > 0
    hops = {hop["target"]: hop for hop in json.loads((text_engine_bundle / "report/parity.json").read_text())["hops"]}
    for target in (*FORMS, "text.fp16+fusion.fp16", "text.int8-trt+fusion.int8-trt"):
        assert (hops[target]["source"], hops[target]["kind"], hops[target]["samples"]) == ("text.fp32", "simulated", 60)
    assert hops["text.fp16"]["status"] == "passed", hops["text.fp16"]["reason"]
    assert Bundle.open(text_engine_bundle).manifest.graphs["text.fp16"].verdict.status == "passed"


def test_a_bundle_gets_the_form_it_lacks_and_keeps_the_proofs_it_has(
    text_engine_bundle: Path, text_data: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(text_engine_bundle, tmp_path / "words.dmd"))
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["graphs"]["text.fp16"]
    del manifest["files"]["graphs/text.fp16.onnx"]
    (copy / "graphs/text.fp16.onnx").unlink()
    path.write_text(json.dumps(manifest))
    before = Bundle.open(copy)
    dataset = load_dataset(text_data, task="regression", label_range=before.manifest.label_range)
    dataset = dataset_with_text(before, dataset, ["test"], encode=True)
    after, report = add_fp16_graphs(copy, parity=(dataset, "test"))
    assert set(report.graphs) == {"text.fp16"}
    assert after.graphs["text.fp16"].verdict.samples == 60
    assert after.graphs["fusion.fp16"] == before.manifest.graphs["fusion.fp16"]
    assert set(json.loads((copy / "report/fp16.json").read_text())["graphs"]) >= {"fusion.fp16", *FORMS}
    Bundle.open(copy).verify()


def test_padded_steps_stay_exactly_zero_and_steps_with_a_token_do_not(text_engine_bundle: Path) -> None:
    """The fusion graph takes a step of zeros, and nothing else, for padding."""
    bundle = Bundle.open(text_engine_bundle)
    tokens = bundle.golden().unit_inputs["text"]
    for name in FORMS:
        with open_runner(bundle, name) as runner:
            empty = ~runner.infer(tokens)["text"].any(axis=2)
        np.testing.assert_array_equal(empty, tokens["attention_mask"] == 0)


@pytest.mark.parametrize("padded_steps", ["zero", "encoded"])
def test_both_ways_of_padding_have_an_fp16_form_and_a_lost_mask_is_noticed(
    padded_steps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(TINY_SHAPE, padded_steps)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    lengths = np.arange(16) % MAX_TOKENS + 1
    steps = np.arange(MAX_TOKENS)
    mask = steps >= MAX_TOKENS - lengths[:, None] if padded_steps == "zero" else steps < lengths[:, None]
    ids = np.random.default_rng(0).integers(4, TINY_SHAPE.vocab_size, mask.shape) * mask
    tokens = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    graph = ExportedGraph("text", "fp32", text_graph(encoder, MAX_TOKENS), {})
    graphs, report = fp16_graphs([graph], {"text": np.zeros((1, 1, 1), np.float32)}, lambda _: None, tokens)
    assert [made.name for made in graphs] == ["text.fp32", "text.fp16"]
    facts = report.graphs["text.fp16"]
    assert 0 < facts.golden_error < 0.02 * facts.output_sd
    assert 0 < facts.hostile_error < 0.02 * facts.output_sd

    def without_mask(*_: object) -> object:
        made = lower_to_fp16(graph.model, tokens)
        for tensor in made.model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.size == 1 and array.dtype.kind == "f" and array.min() <= -9000:
                tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(array), tensor.name))
        return made

    monkeypatch.setattr("dmdkit.export.fp16_forms.lower_to_fp16", without_mask)
    with pytest.raises(ExportError, match=r"features move by .* \(rms\)"):
        fp16_graphs([graph], {"text": np.zeros((1, 1, 1), np.float32)}, lambda _: None, tokens)


def test_positions_are_counted_exactly_where_fp16_has_no_odd_numbers() -> None:
    steps = 2200  # fp16 counts to 2048
    shape = TINY_SHAPE.model_copy(update={"max_position_embeddings": steps, "num_hidden_layers": 1})
    torch.manual_seed(0)
    encoder = TextEncoder(shape, "zero")
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model = text_graph(encoder, steps)
    tokens = {"input_ids": np.full((1, steps), 4, np.int64), "attention_mask": np.ones((1, steps), np.int64)}
    lowering = lower_to_fp16(model, tokens)
    assert {name for name in lowering.kept_fp32 if "LayerNorm" not in name} == {"/CumSum", "/Sub", "/Clip"}
    answers = []
    for made, options in ((model, {}), (lowering.model, lowering.session_options)):
        with OnnxRuntimeRunner("text", made.SerializeToString(), options) as runner:
            answers.append(runner.infer(tokens)["text"][0, -100:])
    assert np.abs(answers[0] - answers[1]).max() < 0.05 * np.abs(np.diff(answers[0], axis=0)).mean(), "not its neighbour's"


def test_sentences_are_masked_to_none_one_and_more_tokens_on_the_side_they_stand() -> None:
    left = {"input_ids": np.ones((3, 4), np.int64), "attention_mask": np.array([[0, 1, 1, 1]] * 3)}
    assert mostly_masked(left)["attention_mask"].tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]]
    right = {"input_ids": np.ones((3, 4), np.int64), "attention_mask": np.array([[1, 1, 1, 0]] * 3)}
    assert mostly_masked(right)["attention_mask"].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]


def test_a_mask_that_fp16_cannot_hold_is_refused(text_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As exported, masked scores are -1e4. Where a mask became -inf, a sentence without a token would be NaN."""
    bundle = Bundle.open(text_bundle)
    model = onnx.load(text_bundle / "graphs/text.fp32.onnx")

    def overflowing(*_: object) -> object:
        made = lower_to_fp16(model, bundle.golden().unit_inputs["text"])
        for tensor in made.model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT16 and numpy_helper.to_array(tensor).min() <= -9000:
                tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, -np.inf, np.float16), tensor.name))
        return made

    monkeypatch.setattr("dmdkit.export.fp16_forms.lower_to_fp16", overflowing)
    graph = ExportedGraph("text", "fp32", model, {})
    with pytest.raises(ExportError, match=r"nearly every token masked the features are not finite; the attention mask leaves"):
        fp16_graphs([graph], bundle.golden().inputs, lambda _: None, bundle.golden().unit_inputs["text"])
