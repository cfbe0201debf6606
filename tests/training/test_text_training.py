"""A text encoder trains with the model, resumes to the same bytes, and lies in the run as anyone can use it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dmdkit.cli import main
from dmdkit.config import RunConfig, validated
from dmdkit.data import write_dataset
from dmdkit.errors import ConfigError, RunError, WeightsError
from dmdkit.training.encoder_directory import read_encoder_directory, run_dataset, run_encoder
from dmdkit.training.run import TEXT_DIR, Run
from dmdkit.training.trainer import train
from tests.conftest import TINY_SETTINGS
from tests.text_builders import VOCABULARY, text_dataset, write_bert

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bert(text_data: Path) -> Path:
    return text_data.parent / "bert"


def config(bert: Path, epochs: int = 2, **text: object) -> RunConfig:
    values = {
        "text_encoder": {"path": str(bert), "max_tokens": 8, **text},
        "model": {"width": 8, "heads": 2, "levels": 1, "kernels": {"text": 1, "audio": 1, "vision": 1}},
        "training": {"epochs": epochs, "batch_size": 16, "accumulate_batches": 2, "learning_rate": 1e-3},
    }
    return validated(RunConfig, values, "test")


def test_a_path_alone_is_a_section(bert: Path):
    values = config(bert).model_dump() | {"text_encoder": str(bert)}
    found = validated(RunConfig, values, "test").text_encoder
    assert found is not None
    assert (found.path, found.fine_tune, found.padded_steps) == (str(bert), True, "zero")


def test_fine_tuning_changes_the_encoder_and_the_run_holds_it(text_run: Path, bert: Path):
    before, after = load_file(bert / "model.safetensors"), load_file(text_run / TEXT_DIR / "model.safetensors")
    assert before.keys() == after.keys()
    assert not torch.equal(before["encoder.layer.0.output.dense.weight"], after["encoder.layer.0.output.dense.weight"])
    assert sorted(item.name for item in (text_run / TEXT_DIR).iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    facts = Run.open(text_run).facts
    assert facts.text is not None
    assert facts.text.fine_tuned
    assert facts.shape.feature_dims.text == 16
    assert facts.shape.lengths.text == 8
    assert facts.inputs is not None
    assert facts.inputs["text"].padding_side == "left"


def test_what_a_run_holds_is_a_model_of_hugging_faces(text_run: Path):
    from transformers import BertModel

    run = Run.open(text_run)
    theirs = BertModel.from_pretrained(text_run / TEXT_DIR, add_pooling_layer=False, local_files_only=True).eval()
    encoder, tokenizer = run_encoder(run)
    batch = tokenizer(["the film very good good plot a a"])  # no padding, so both see the same
    with torch.no_grad():
        ids = torch.from_numpy(batch.input_ids)
        found = encoder(ids, torch.from_numpy(batch.attention_mask))
        torch.testing.assert_close(found, theirs(ids).last_hidden_state, rtol=0, atol=1e-6)


def test_the_recorded_ranges_are_those_of_the_trained_encoder(text_run: Path, text_data: Path):
    from dmdkit.data import load_dataset

    run = Run.open(text_run)
    train_split = run_dataset(run, load_dataset(text_data)).splits["train"]
    steps = train_split.text[(train_split.text != 0).any(-1)]
    assert run.facts.inputs is not None
    np.testing.assert_allclose(run.facts.inputs["text"].maximum, steps.max(0), rtol=0, atol=1e-6)


def test_a_frozen_encoder_stays_as_it_was(bert: Path, tmp_path: Path):
    run = train(config(bert, epochs=1, fine_tune=False), text_dataset(), tmp_path / "frozen", device="cpu")
    before, after = load_file(bert / "model.safetensors"), load_file(run.path / TEXT_DIR / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    state = torch.load(run.path / "last.ckpt", weights_only=True)
    assert not any(key.startswith("text_encoder.") for key in state["model"])


def test_a_resumed_training_ends_in_the_same_bytes(bert: Path, tmp_path: Path):
    whole = train(config(bert, epochs=3), text_dataset(), tmp_path / "whole", device="cpu")
    train(config(bert, epochs=1), text_dataset(), tmp_path / "parts", device="cpu")
    resumed = train(config(bert, epochs=3), text_dataset(), tmp_path / "parts", device="cpu", resume=True)
    for name in ("model.safetensors", "history.csv", "metrics.json", "facts.json", f"{TEXT_DIR}/model.safetensors"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes(), name


def test_resuming_with_another_encoder_is_refused(bert: Path, tmp_path: Path):
    copy = Path(shutil.copytree(bert, tmp_path / "bert"))
    run = train(config(copy, epochs=1), text_dataset(), tmp_path / "run", device="cpu")
    write_bert(copy, seed=5)
    with pytest.raises(RunError, match="not the text encoder the run began with"):
        train(run.config, text_dataset(), run.path, device="cpu", resume=True)


def test_the_encoder_may_have_its_own_learning_rate(bert: Path, tmp_path: Path):
    slow = train(config(bert, epochs=1, learning_rate=1e-12), text_dataset(), tmp_path / "slow", device="cpu")
    before, after = load_file(bert / "model.safetensors"), load_file(slow.path / TEXT_DIR / "model.safetensors")
    for key in before:
        torch.testing.assert_close(before[key], after[key], rtol=0, atol=1e-6)
    assert slow.config.training.learning_rate == 1e-3


@pytest.mark.parametrize(("given", "rate"), [({}, 2e-5), ({"learning_rate": None}, 1e-3), ({"learning_rate": 3e-4}, 3e-4)])
def test_the_encoders_rate_is_small_unless_it_is_set(given: dict[str, float | None], rate: float, bert: Path, tmp_path: Path):
    own = config(bert, epochs=1, **given)
    if not given:
        assert own.text_encoder is not None
        assert own.text_encoder.learning_rate == rate
    groups: list[float] = []
    original = torch.optim.AdamW

    def adam(parameters, **options):
        groups.extend(group.get("lr", options["lr"]) for group in parameters)
        return original(parameters, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.optim.AdamW", adam)
        train(own, text_dataset(), tmp_path / "run", device="cpu")
    assert groups == [1e-3, rate]


def test_evaluate_reads_the_words_again(text_run: Path, capsys: pytest.CaptureFixture[str]):
    recorded = json.loads((text_run / "metrics.json").read_text())["splits"]["test"]
    assert main(["evaluate", str(text_run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mae"] == pytest.approx(recorded["mae"], abs=1e-6)


def test_force_replaces_a_run_with_an_encoder_and_nothing_else(text_run: Path, tiny_data: Path, tmp_path: Path, capsys):
    copy = Path(shutil.copytree(text_run, tmp_path / "copy"))
    command = ["train", "--data", str(tiny_data), "--out", str(copy), "--force"]
    settings = [part for setting in TINY_SETTINGS for part in ("--set", setting)]
    (copy / TEXT_DIR / "notes.txt").write_text("mine")
    assert main([*command, *settings]) == 1
    assert "holds what is not a run's (text_encoder)" in capsys.readouterr().err
    (copy / TEXT_DIR / "notes.txt").unlink()
    assert main([*command, *settings]) == 0
    assert not (copy / TEXT_DIR).exists()


def test_too_long_sentences_are_counted_in_a_note(bert: Path, tmp_path: Path):
    dataset = text_dataset()
    split = dataset.splits["train"]
    long = replace(split, raw_text=("a " * 30, *split.raw_text[1:]))
    run = train(
        config(bert, epochs=1, fine_tune=False),
        replace(dataset, splits={**dataset.splits, "train": long}),
        tmp_path / "run",
        device="cpu",
    )
    assert any("1 of 64 sentences are longer than 8 tokens" in note for note in run.facts.notes)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (shutil.rmtree, ConfigError, "no such directory"),
        (lambda d: (d / "config.json").unlink(), ConfigError, "config.json is missing"),
        (lambda d: (d / "config.json").write_text("{"), WeightsError, "cannot be read"),
        (lambda d: (d / "config.json").write_text("[" * 100_000), WeightsError, "cannot be read"),
        (lambda d: (d / "config.json").write_text('{"model_type": "gpt2"}'), WeightsError, "a text encoder is a BERT"),
        (lambda d: (d / "tokenizer.json").unlink(), ConfigError, r"neither tokenizer\.json nor vocab\.txt"),
        (lambda d: (d / "tokenizer.json").write_text("{}"), ConfigError, "not a tokenizer"),
        (lambda d: (d / "model.safetensors").unlink(), WeightsError, "no such file"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 100), WeightsError, "not a readable safetensors"),
        (lambda d: save_file({"a": torch.zeros(1)}, d / "model.safetensors"), WeightsError, "keys do not fit"),
    ],
)
def test_a_directory_that_is_no_encoder_is_one_error(bert: Path, tmp_path: Path, damage, error, message):
    copy = Path(shutil.copytree(bert, tmp_path / "bert"))
    damage(copy)
    with pytest.raises(error, match=message):
        train(config(copy), text_dataset(), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_more_tokens_than_positions_are_refused(bert: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="has 32 positions"):
        train(config(bert, max_tokens=33), text_dataset(), tmp_path / "run", device="cpu")


def test_a_vocabulary_file_stands_for_a_tokenizer(bert: Path, tmp_path: Path):
    copy = Path(shutil.copytree(bert, tmp_path / "bert"))
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    own = read_encoder_directory(copy).sentence_tokenizer(8, "zero")(["The FILM very good."])
    expected = read_encoder_directory(bert).sentence_tokenizer(8, "zero")(["The FILM very good."])
    np.testing.assert_array_equal(own.input_ids, expected.input_ids)


def test_a_pickled_checkpoint_is_read_as_plain_tensors_only(bert: Path, tmp_path: Path):
    copy = Path(shutil.copytree(bert, tmp_path / "bert"))
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(tensors, copy / "pytorch_model.bin")
    assert read_encoder_directory(copy).encoder("zero").weights().keys() == tensors.keys()
    torch.save({"a": object()}, copy / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="plain tensors"):
        read_encoder_directory(copy).encoder("zero")


def test_a_file_without_words_cannot_train_an_encoder(bert: Path, tiny_data: Path, tmp_path: Path, capsys):
    out = tmp_path / "run"
    steps = ["--set", "text_encoder.max_tokens=8"]
    assert main(["train", "--data", str(tiny_data), "--text-encoder", str(bert), "--out", str(out), *steps]) == 1
    assert "no usable raw_text" in capsys.readouterr().err
    assert not out.exists()


def test_a_damaged_encoder_in_a_run_says_so(text_run: Path, tmp_path: Path, text_data: Path):
    copy = Path(shutil.copytree(text_run, tmp_path / "copy"))
    (copy / TEXT_DIR / "config.json").unlink()
    with pytest.raises(RunError, match="damaged"):
        run_encoder(Run.open(copy))
    write_dataset(text_dataset(), tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == text_data.read_bytes()
