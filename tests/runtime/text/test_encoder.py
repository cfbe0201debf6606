"""Strings, ids and features give one answer; what an encoder's bundle cannot read is refused in a sentence."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file

from dmdkit.cli import main
from dmdkit.errors import BundleError, InputError, MissingDependencyError
from dmdkit.runtime import Runtime
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.inputs import is_for_text_encoder
from dmdkit.runtime.open_graph import open_runner
from dmdkit.runtime.text.lengths import encode
from dmdkit.runtime.text.tokenizer import Layout, lay_out
from tests.conftest import ROOT
from tests.runtime.builders import golden_inputs, put_file, set_verdict
from tests.text_builders import MAX_TOKENS, VOCABULARY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def features(text_bundle: Path) -> dict[str, np.ndarray]:
    return golden_inputs(text_bundle)


@pytest.fixture(scope="module")
def runtime(text_bundle: Path):
    with Runtime.open(text_bundle, graph="fp32") as opened:
        yield opened


def rest(features: dict[str, np.ndarray], index: int | slice = 0) -> dict[str, np.ndarray]:
    return {name: features[name][index] for name in ("audio", "vision")}


def test_a_string_its_ids_and_its_features_give_the_same_score(text_bundle: Path, runtime: Runtime, features):
    tokens = Bundle.open(text_bundle).golden().unit_inputs["text"]
    for index in range(3):
        ids = tokens["input_ids"][index]
        words = " ".join(VOCABULARY[i] for i in ids if i not in (0, 2, 3))
        expected = runtime.predict(text=features["text"][index], **rest(features, index)).score
        for text in (words, ids, ids[ids != 0], ids[ids != 0].tolist(), np.concatenate([ids[ids != 0], [0]])[:MAX_TOKENS]):
            np.testing.assert_allclose(runtime.predict(text=text, **rest(features, index)).score, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_ids_of_pytorch_are_read_as_numpys(runtime: Runtime, features, dtype: str):
    torch = pytest.importorskip("torch")
    ids = [[2, 12, 13, 3, 0], [2, 14, 3, 0, 0]]
    expected = runtime.predict(text=ids, **rest(features, slice(0, 2))).score
    whole = torch.tensor(ids, dtype=getattr(torch, dtype))
    for text in (whole, list(whole), [row[row != 0] for row in whole], [list(row) for row in whole]):
        np.testing.assert_array_equal(runtime.predict(text=text, **rest(features, slice(0, 2))).score, expected)
    one = runtime.predict(text=whole[0], **rest(features)).score
    np.testing.assert_allclose(one, expected[0], rtol=0, atol=1e-6)
    values = torch.from_numpy(features["text"][0])  # features of PyTorch are still features
    by_numpy = runtime.predict(text=features["text"][0], **rest(features)).score
    np.testing.assert_array_equal(runtime.predict(text=values, **rest(features)).score, by_numpy)


def test_masked_ids_are_refused(runtime: Runtime, features):
    ids = np.ma.masked_array([2, 12, 13, 3], mask=[False, False, True, False])
    with pytest.raises(InputError, match="'text' has 1 masked values"):
        runtime.predict(text=ids, **rest(features))


def test_a_batch_of_strings_is_each_string_alone(runtime: Runtime, features):
    sentences = ["the film", "", "very good good plot"]
    together = runtime.predict(text=sentences, **rest(features, slice(0, 3)))
    assert together.score.shape == (3, 1)
    for index, sentence in enumerate(sentences):
        alone = runtime.predict(text=sentence, **rest(features, index))
        assert alone.score.shape == (1,)
        np.testing.assert_allclose(together.score[index], alone.score, rtol=0, atol=1e-5)
    ragged = [[2, 12, 3], [2, 3], [2, 12, 13, 14, 3]]
    assert runtime.predict(text=ragged, **rest(features, slice(0, 3))).score.shape == (3, 1)
    assert runtime.predict(text=np.array(sentences), **rest(features, slice(0, 3))).score.shape == (3, 1)


def test_an_array_of_one_string_is_that_string_not_its_letters(runtime: Runtime, features):
    expected = runtime.predict(text="fine", **rest(features)).score
    np.testing.assert_array_equal(runtime.predict(text=np.array("fine"), **rest(features)).score, expected)
    with pytest.raises(InputError, match="disagree on the batch"):  # four letters would be this batch
        runtime.predict(text=np.array("fine"), **rest(features, slice(0, 4)))
    with pytest.raises(InputError, match="shape"):
        runtime.predict(text=np.array(3), **rest(features))


def test_a_padding_token_between_others_is_read_as_a_string_that_spells_it(runtime: Runtime, features):
    good, film = VOCABULARY.index("good"), VOCABULARY.index("film")
    expected = runtime.predict(text="good [PAD] film", **rest(features)).score
    assert not np.array_equal(runtime.predict(text="good film", **rest(features)).score, expected)
    found = runtime.predict(text=[0, 2, good, 0, film, 3, 0, 0], **rest(features)).score
    np.testing.assert_array_equal(found, expected)


def test_a_long_string_is_cut_and_counted(text_bundle: Path, features):
    with Runtime.open(text_bundle, graph="fp32") as runtime:
        long = runtime.predict(text="good " * 40, **rest(features))
        assert long.truncated == 1
        assert runtime.predict(text="good", **rest(features)).truncated == 0
        runtime.predict(text=["good " * 40, "a", "good " * 9], **rest(features, slice(0, 3)))
        assert runtime.truncated_count == 3
        cut = runtime.predict(text="good " * (MAX_TOKENS - 2), **rest(features))
        np.testing.assert_array_equal(long.score, cut.score)


def test_words_explain_too(runtime: Runtime, features):
    found = runtime.explain(text="a very good film", **rest(features))
    assert found.logit_homo.shape == (3, 1)
    np.testing.assert_allclose(found.score, runtime.predict(text="a very good film", **rest(features)).score, rtol=0, atol=1e-5)


def test_the_encoder_opens_with_the_first_words_only(text_bundle: Path, features):
    with Runtime.open(text_bundle) as runtime:
        runtime.predict(**{name: array[0] for name, array in features.items()})
        assert runtime.text_graph is None
        runtime.predict(text="good", **rest(features))
        assert runtime.text_graph == "text.int8-cpu"
    with pytest.raises(InputError, match="closed"):
        runtime.predict(text="good", **rest(features))


def test_automatic_choice_reads_words_only_with_a_graph_that_passed(text_bundle_copy: Path, features):
    set_verdict(text_bundle_copy, "failed", "text.int8-cpu")
    with Runtime.open(text_bundle_copy) as runtime:
        runtime.predict(text="good", **rest(features))
        assert runtime.text_graph == "text.fp32"
    set_verdict(text_bundle_copy, "unverified", "text.fp32", "text.int8-trt")
    with Runtime.open(text_bundle_copy) as runtime, pytest.raises(BundleError, match="no text graph of this bundle has passed"):
        runtime.predict(text="good", **rest(features))
    with Runtime.open(text_bundle_copy, graph="int8-cpu") as runtime:  # asked for by name
        runtime.predict(text="good", **rest(features))
        assert runtime.text_graph == "text.int8-cpu"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"good", "bytes"),
        (["good", 3, "a"], "sentence 1 is a int"),
        (np.array([[2, 99, 3]]), "token id 99"),
        (np.arange(1, 12)[None], "11 tokens, expected 1 to 8"),
        (np.zeros((1, 4), np.int64), "0 tokens"),
        ([[2, 3], "good"], "mixes sentences"),
        ([[], [2, 3]], "sentence 0 has 0 tokens"),
        ([np.array(2), np.array(3)], "has shape"),
        ([[2, 3], np.array(3)], "mixes sentences"),
        ([[2, 1.5, 3]], "among token ids"),
        ([2, None, 3], "holds None among token ids"),
        ([2, True, 3], "among token ids"),
        (np.zeros((0, 4), np.int64), "at least one sentence"),
        ("\ud800", "cannot be tokenised"),
    ],
)
def test_words_that_cannot_be_read_are_refused(runtime: Runtime, features, text, message):
    with pytest.raises(InputError, match=message):
        runtime.predict(text=text, **rest(features))


def test_a_batch_of_strings_must_fit_the_rest(runtime: Runtime, features):
    with pytest.raises(InputError, match="disagree on the batch"):
        runtime.predict(text=["good", "bad"], **rest(features, slice(0, 3)))


def test_words_need_a_bundle_that_reads_them(tiny_bundle: Path):
    features = golden_inputs(tiny_bundle)
    with Runtime.open(tiny_bundle, graph="fp32") as runtime, pytest.raises(BundleError, match="no text encoder"):
        runtime.predict(text="good", **rest(features))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", True), (["a"], True), ((1, 2), True), ([[1, 2]], True), (np.array([1]), True), (np.array(["a"]), True),
        (None, False), (np.zeros(3, np.float32), False), ([[0.5]], False), ([], False), ([[]], False),
        ([[[1]]], False), (3, False),
    ],
)  # fmt: skip
def test_words_are_told_from_features(value, expected):
    assert is_for_text_encoder(value) is expected


def test_strings_without_the_tokenizers_library_say_which_extra_brings_it(text_bundle: Path, features, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with Runtime.open(text_bundle, graph="fp32") as runtime:
        with pytest.raises(MissingDependencyError, match=r"dmdkit\[tokens\]"):
            runtime.predict(text="good", **rest(features))
        assert runtime.predict(text=[2, 12, 3], **rest(features)).score.shape == (1,)  # ids need none


def test_words_from_many_threads_open_the_encoder_once(text_bundle: Path, features):
    with Runtime.open(text_bundle, graph="fp32") as runtime:
        expected = runtime.predict(text=features["text"][0], **rest(features)).score
        scores: list[np.ndarray] = []
        threads = [
            threading.Thread(target=lambda: scores.append(runtime.predict(text="a", **rest(features)).score)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(scores) == 8
        assert all(np.array_equal(score, scores[0]) for score in scores)
        assert expected.shape == scores[0].shape


@pytest.mark.parametrize("damage", [b"", b"{}", b"x" * 50])
def test_a_damaged_tokenizer_is_a_bundle_error(text_bundle_copy: Path, features, damage):
    put_file(text_bundle_copy, "tokenizer.json", damage)
    with Runtime.open(text_bundle_copy, graph="fp32") as runtime, pytest.raises(BundleError, match=r"tokenizer\.json"):
        runtime.predict(text="good", **rest(features))


def test_an_edited_tokenizer_is_noticed_on_opening(text_bundle_copy: Path):
    path = text_bundle_copy / "tokenizer.json"
    path.write_text(path.read_text().replace("superb", "dismal"))
    with pytest.raises(BundleError, match="SHA-256 differs"):
        Runtime.open(text_bundle_copy)


def test_a_graph_that_takes_other_tokens_is_refused(text_bundle_copy: Path, features):
    put_file(text_bundle_copy, "graphs/text.fp32.onnx", (text_bundle_copy / "graphs/fusion.fp32.onnx").read_bytes())
    with (
        Runtime.open(text_bundle_copy, graph="fp32") as runtime,
        pytest.raises(BundleError, match="not what the manifest says"),
    ):
        runtime.predict(text="good", **rest(features))


def test_self_check_replays_the_tokens(text_bundle: Path):
    with Runtime.open(text_bundle) as runtime:
        found = {check.graph: check for check in runtime.self_check(every_graph=True).graphs}
    assert found.keys() >= {"text.fp32", "text.int8-cpu", "text.int8-trt"}
    assert all(check.passed for check in found.values())


def grow_a_scale(model: onnx.ModelProto, factor: float) -> None:
    """Multiplies the scale of one INT8 weight matrix, in the middle of the graph."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    ranges = {node.output[1] for node in model.graph.node if node.op_type == "DynamicQuantizeLinear"}
    scales = [node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]
    scales += [node.input[1] for node in model.graph.node if node.op_type == "Mul" and node.input[0] in ranges]
    chosen = constants[scales[len(scales) // 2]]
    chosen.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(chosen) * np.float32(factor), chosen.name))


@pytest.mark.parametrize("graph", ["text.int8-cpu", "text.int8-trt"])
def test_one_doubled_scale_fails_the_self_check_of_a_text_graph(text_bundle_copy: Path, graph: str):
    file = f"graphs/{graph}.onnx"
    model = onnx.load_from_string((text_bundle_copy / file).read_bytes())
    grow_a_scale(model, 2)
    put_file(text_bundle_copy, file, model.SerializeToString())
    with Runtime.open(text_bundle_copy, graph="fp32") as runtime:
        failed = {check.graph for check in runtime.self_check(every_graph=True).graphs if not check.passed}
    assert failed == {graph}


def test_golden_tokens_that_do_not_fit_are_damage(text_bundle_copy: Path):
    from safetensors.numpy import save

    name = "golden/golden.safetensors"
    tensors = load_file(text_bundle_copy / name)
    for broken in ("input/text/input_ids", "input/text/attention_mask"):
        changed = {key: array for key, array in tensors.items() if key != broken}
        put_file(text_bundle_copy, name, save(changed))
        with pytest.raises(BundleError, match="damaged"):
            Bundle.open(text_bundle_copy).golden()
    put_file(
        text_bundle_copy, name, save({**tensors, "input/text/input_ids": tensors["input/text/input_ids"].astype(np.float32)})
    )
    with pytest.raises(BundleError, match="int64"):
        Bundle.open(text_bundle_copy).golden()


def test_predict_reads_the_files_words(text_bundle: Path, text_data: Path, capsys):
    assert main(["predict", str(text_bundle), "--data", str(text_data), "--json", "--graph", "fp32", "--limit", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["graph"] == "fusion.fp32 after text.fp32"
    assert len(found["samples"]) == 4


def test_check_measures_words_to_score_with_and_without_pytorch(
    text_bundle_copy: Path, text_data: Path, text_run: Path, capsys
):
    command = ["check", str(text_bundle_copy), "--data", str(text_data), "--backend", "onnxruntime", "--json"]
    main(command)
    without = {hop["target"]: hop for hop in json.loads(capsys.readouterr().out)["hops"]}
    assert without["text.fp32"]["kind"] == "recorded"
    assert without["text.int8-cpu+fusion.int8-cpu"]["samples"] == 60
    main([*command, "--run", str(text_run)])
    found = {hop["target"]: hop for hop in json.loads(capsys.readouterr().out)["hops"]}
    assert found["text.fp32"]["kind"] == "measured"
    assert found["text.fp32"]["status"] == "passed"
    assert found["text.fp32"]["max_error"] < 1e-5
    assert found["text.int8-trt"]["kind"] == "simulated"


def test_a_text_graph_that_fails_together_with_fusion_is_not_passed(text_bundle_copy: Path, text_data: Path):
    """The pair a robot runs counts, not the text graph alone."""
    file = "graphs/fusion.int8-cpu.onnx"
    model = onnx.load_from_string((text_bundle_copy / file).read_bytes())
    grow_a_scale(model, 100)
    put_file(text_bundle_copy, file, model.SerializeToString())
    assert main(["check", str(text_bundle_copy), "--data", str(text_data), "--backend", "onnxruntime"]) == 2
    graphs = Bundle.open(text_bundle_copy).manifest.graphs
    assert graphs["text.int8-cpu"].verdict.status == "failed"
    assert "fusion.int8-cpu" in graphs["text.int8-cpu"].verdict.reason
    assert graphs["text.fp32"].verdict.status != "failed"


def test_check_of_another_run_with_the_same_model_but_another_encoder_is_refused(
    text_bundle: Path, text_data: Path, text_run: Path, tmp_path: Path, capsys
):
    copy = Path(shutil.copytree(text_run, tmp_path / "run"))
    with (copy / "text_encoder" / "model.safetensors").open("ab") as stream:
        stream.write(b" ")
    assert main(["check", str(text_bundle), "--data", str(text_data), "--run", str(copy)]) == 1
    assert "its text encoder differs" in capsys.readouterr().err


def test_features_alone_leave_a_text_graphs_verdict_as_it_was(text_bundle_copy: Path, features, tmp_path: Path):
    from dmdkit.data import Dataset, Split, write_dataset

    count = len(features["text"])
    split = Split(
        tuple(map(str, range(count))), features["text"], features["audio"], features["vision"], np.zeros(count, np.float32)
    )
    data = Dataset("x", "0" * 64, "regression", (-3.0, 3.0), None, dict.fromkeys(features, "left"), {"test": split})
    write_dataset(data, tmp_path / "features.npz")
    before = Bundle.open(text_bundle_copy).manifest.graphs["text.int8-cpu"].verdict
    main(["check", str(text_bundle_copy), "--data", str(tmp_path / "features.npz"), "--backend", "onnxruntime"])
    assert Bundle.open(text_bundle_copy).manifest.graphs["text.int8-cpu"].verdict == before


def test_a_sentence_costs_its_own_tokens_in_every_precision(text_bundle: Path, features, capsys: pytest.CaptureFixture[str]):
    bundle = Bundle.open(text_bundle)
    assert [record.name for record in bundle.manifest.requires] == ["text-lengths"]
    ids = [[2, 12, 3], [2, 12, 13, 14, 15, 16, 17, 3]]
    for name in (name for name, graph in bundle.manifest.graphs.items() if graph.kind == "text"):
        with open_runner(bundle, name) as runner:
            assert runner.inputs[0].shape == (-1, -1), name
            alone = runner.infer({"input_ids": np.array(ids[:1]), "attention_mask": np.ones((1, 3), np.int64)})["text"]
            assert alone.shape == (1, 3, features["text"].shape[2])
            whole = encode(runner, lay_out(ids, Layout(MAX_TOKENS, 0, "left", len(VOCABULARY))))
            spread = float(features["text"].std())
            np.testing.assert_allclose(whole[:1, -3:], alone, rtol=0, atol=1e-5 if name == "text.fp32" else spread)
            assert not whole[0, :-3].any()
    assert main(["inspect", str(text_bundle)]) == 0
    assert "padded steps zero, dynamic length" in " ".join(capsys.readouterr().out.split())


def test_a_bundle_of_fixed_length_still_reads_words(capsys: pytest.CaptureFixture[str]):
    old = ROOT / "tests/fixtures/bundles/0.1/words"
    with Runtime.open(old, graph="fp32") as runtime:
        golden = golden_inputs(old)
        found = runtime.predict(text=["good", "a very good film"], audio=golden["audio"][:2], vision=golden["vision"][:2])
        assert np.isfinite(found.score).all()
    assert main(["inspect", str(old)]) == 0
    assert "fixed length" in " ".join(capsys.readouterr().out.split())
