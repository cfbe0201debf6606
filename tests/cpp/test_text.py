"""C++ reads words, token ids and features of a bundle with a text encoder, and answers as Python does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dmdkit.cli import main
from dmdkit.runtime import Runtime
from tests.runtime.builders import golden_inputs
from tests.text_builders import MAX_TOKENS

pytestmark = pytest.mark.slow


def test_features_give_the_same_score_in_both_languages(native_bin: Path, text_bundle: Path, tmp_path: Path):
    features = golden_inputs(text_bundle)
    save_file(features, tmp_path / "features.safetensors")
    command = [native_bin / "dmdkit-run", text_bundle, "--graph", "fp32", "--input", tmp_path / "features.safetensors"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Runtime.open(text_bundle, graph="fp32") as runtime:
        expected = runtime.predict(**features).score
    found = np.array(json.loads(done.stdout)["score"]["values"], np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def run_words(native_bin: Path, bundle: Path, folder: Path, words: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs dmdkit-run on the sentences in ``folder / words`` and the other modalities beside them."""
    files = ["--words", folder / words, "--input", folder / "rest.safetensors"]
    command = [native_bin / "dmdkit-run", bundle, *files, *options]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def scores(native_bin: Path, bundle: Path, folder: Path, text: object, features: dict[str, np.ndarray], *options: str) -> dict:
    (folder / "words.json").write_text(json.dumps(text))
    save_file({name: features[name][: len(text)] for name in ("audio", "vision")}, folder / "rest.safetensors")
    done = run_words(native_bin, bundle, folder, "words.json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SENTENCES = ["a very good film", "", "Superbly   DULL, the plot.", "good " * 40, "\u00e9t\u00e9 \u4e2d film [MASK]", "the film"]


@pytest.mark.parametrize("precision", ["fp32", "int8-cpu"])
@pytest.mark.parametrize("kind", ["words", "ids"])
def test_words_and_ids_give_pythons_score(native_bin: Path, text_bundle: Path, tmp_path: Path, precision: str, kind: str):
    features = golden_inputs(text_bundle)
    text: list = SENTENCES if kind == "words" else [[2, 12, 13, 3], [0, 0, 2, 3], [2, 5, 0, 6, 3, 0]]
    found = scores(native_bin, text_bundle, tmp_path, text, features, "--graph", precision)
    assert found["text_graph"] == f"text.{precision}"
    with Runtime.open(text_bundle, graph=precision) as runtime:
        expected = [
            runtime.predict(text=one, audio=features["audio"][index], vision=features["vision"][index]).score
            for index, one in enumerate(text)
        ]
        assert found["truncated"] == runtime.truncated_count == (2 if kind == "words" else 0)
    np.testing.assert_allclose(np.ravel(found["score"]["values"]), np.ravel(expected), rtol=0, atol=1e-6)


def test_a_batch_of_words_is_each_alone_and_explains(native_bin: Path, text_bundle: Path, tmp_path: Path):
    features = golden_inputs(text_bundle)
    options = ["--graph", "fp32", "--explain"]
    one = scores(native_bin, text_bundle, tmp_path, SENTENCES, features, *options)
    together = scores(native_bin, text_bundle, tmp_path, SENTENCES, features, *options, "--batch", "6")
    for name in ("score", "logit_homo", "edges_homo"):
        np.testing.assert_allclose(together[name]["values"], one[name]["values"], rtol=0, atol=1e-5)
    assert one["truncated"] == together["truncated"] == 4  # two sentences, by each of predict and explain


def test_lines_of_a_text_file_are_sentences(native_bin: Path, text_bundle: Path, tmp_path: Path):
    features = golden_inputs(text_bundle)
    lines = ["a very good film", "the plot"]
    expected = scores(native_bin, text_bundle, tmp_path, lines, features)
    (tmp_path / "words.txt").write_text("\n".join(lines) + "\n")
    done = run_words(native_bin, text_bundle, tmp_path, "words.txt")
    assert json.loads(done.stdout)["score"] == expected["score"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"good\n\xff\n", "sentence 0 cannot be tokenised: it is not UTF-8"),
        (b"good\n", "inputs disagree on the number of samples"),
        (b"", "holds no sentence"),
    ],
)
def test_words_that_cannot_be_read_are_one_line(
    native_bin: Path, text_bundle: Path, tmp_path: Path, content: bytes, reason: str
):
    features = golden_inputs(text_bundle)
    save_file({name: features[name][:2] for name in ("audio", "vision")}, tmp_path / "rest.safetensors")
    (tmp_path / "words.txt").write_bytes(content)
    done = run_words(native_bin, text_bundle, tmp_path, "words.txt")
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_golden_samples_are_replayed_through_the_text_graphs_too(native_bin: Path, text_bundle: Path):
    command = [str(native_bin / "dmdkit-run"), str(text_bundle), "--self-check", "--every-graph"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    names = {graph["graph"] for graph in json.loads(done.stdout)["graphs"]}
    assert {"fusion.fp32", "text.fp32", "text.int8-cpu", "text.int8-trt"} <= names


def test_check_compares_words_in_both_languages(native_bin: Path, text_bundle_copy: Path, text_data: Path):
    runner = ["--runner", str(native_bin / "dmdkit-run")]
    assert main(["check", str(text_bundle_copy), "--data", str(text_data), "--split", "test", *runner]) in (0, 2)
    ledger = json.loads((text_bundle_copy / "report/parity.json").read_text())
    hops = {hop["target"]: hop for hop in ledger["hops"]}
    for name in ("text.fp32+fusion.fp32@cpp", "text.int8-cpu+fusion.int8-cpu@cpp"):
        assert hops[name]["max_error"] <= 1e-6, hops[name]["reason"]
        lengths = [record for record in ledger["lengths"] if record["target"] == name]
        assert [record["status"] for record in lengths] == ["passed"] * len(lengths)
        assert [record["tokens"] for record in lengths] == [3, MAX_TOKENS]
