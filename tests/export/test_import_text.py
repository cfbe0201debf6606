"""A published checkpoint with its BERT: imported, exported, and equal to Hugging Face's model in front of the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dmdkit.cli import main
from dmdkit.config import ModelShape, PerModality
from dmdkit.model.system import DmdSystem
from dmdkit.runtime import Runtime
from dmdkit.runtime.bundle import Bundle
from dmdkit.training.evaluation import load_system
from dmdkit.training.run import TEXT_DIR, Run
from tests.model.test_published import published_state
from tests.text_builders import MAX_TOKENS, TINY_SHAPE, VOCABULARY, write_bert

pytest.importorskip("transformers", reason="the extra text is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("published") / "bert", seed=3)


@pytest.fixture(scope="module")
def checkpoint(bert: Path) -> Path:
    """A state_dict under the published names, with ``text_model.model.*``."""
    torch.manual_seed(1)
    shape = ModelShape(
        feature_dims=PerModality(text=16, audio=4, vision=5),
        lengths=PerModality(text=MAX_TOKENS, audio=6, vision=6),
        kernels=PerModality(text=3, audio=1, vision=1),
        width=8,
        heads=2,
        levels=1,
        num_outputs=1,
    )

    state = published_state(DmdSystem(shape, gd_units=False))
    state |= {f"text_model.model.{key}": value for key, value in load_file(bert / "model.safetensors").items()}
    state["text_model.model.pooler.dense.weight"] = torch.zeros(16, 16)
    state["text_model.model.embeddings.position_ids"] = torch.arange(32)[None]
    path = bert.parent / "dmd.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def run(checkpoint: Path, bert: Path) -> Run:
    out = checkpoint.parent / "run"
    assert main(["import", str(checkpoint), "--heads", "2", "--text-encoder", str(bert), "--out", str(out)]) == 0
    return Run.open(out)


def test_the_encoder_comes_from_the_checkpoint_and_runs_as_published(run: Run, bert: Path):
    own, theirs = load_file(run.path / TEXT_DIR / "model.safetensors"), load_file(bert / "model.safetensors")
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    assert run.facts.text is not None
    assert (run.facts.text.padded_steps, run.facts.text.max_tokens) == ("encoded", MAX_TOKENS)
    assert not any("text_model" in note for note in run.facts.notes)


def test_strings_give_what_bert_model_and_the_rest_give(run: Run, bert: Path, tmp_path: Path):
    from transformers import BertModel

    out = tmp_path / "b.dmd"
    assert main(["export", str(run.path), "--out", str(out)]) == 2, "nothing proven without parity data"
    record = Bundle.open(out).manifest.text
    assert record is not None
    assert (record.padding_side, record.padded_steps) == ("right", "encoded")
    theirs, system = BertModel.from_pretrained(bert, add_pooling_layer=False, local_files_only=True).eval(), load_system(run)
    generator = np.random.default_rng(0)
    audio, vision = (generator.normal(size=(1, 6, width)).astype(np.float32) for width in (4, 5))
    for sentence in ("", "the film", "very good good good plot a a a"):
        ids = [2, *(VOCABULARY.index(word) for word in sentence.split()), 3][:MAX_TOKENS]
        ids = ids if len(ids) < MAX_TOKENS or ids[-1] == 3 else [*ids[:-1], 3]
        padded = torch.tensor([ids + [0] * (MAX_TOKENS - len(ids))])
        with torch.no_grad():
            text = theirs(padded, (torch.arange(MAX_TOKENS) < len(ids)).long()[None], torch.zeros_like(padded))
            expected = system(text.last_hidden_state, torch.from_numpy(audio), torch.from_numpy(vision)).model.output.numpy()
        with Runtime.open(out, graph="fp32") as runtime:
            found = runtime.predict(text=[sentence], audio=audio, vision=vision).score
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass --text-encoder DIR"),
        (["--text-encoder", "BERT", "--drop-text-encoder"], "contradict each other"),
        (["--text-encoder", "nowhere"], "no such directory"),
    ],
)
def test_what_cannot_be_imported_says_why(checkpoint: Path, bert: Path, tmp_path: Path, capsys, arguments, message):
    arguments = [str(bert) if item == "BERT" else item for item in arguments]
    assert main(["import", str(checkpoint), "--heads", "2", "--out", str(tmp_path / "run"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_encoder_of_another_width_is_refused(checkpoint: Path, tmp_path: Path, capsys):
    wide = write_bert(tmp_path / "wide", TINY_SHAPE.model_copy(update={"hidden_size": 32}))
    assert main(["import", str(checkpoint), "--heads", "2", "--text-encoder", str(wide), "--out", str(tmp_path / "run")]) == 1
    assert "do not fit its config.json" in capsys.readouterr().err


def test_a_checkpoint_without_an_encoder_takes_none(checkpoint: Path, bert: Path, tmp_path: Path, capsys):
    state = {k: v for k, v in torch.load(checkpoint, weights_only=True).items() if not k.startswith("text_model.")}
    torch.save(state, tmp_path / "plain.pth")
    command = ["import", str(tmp_path / "plain.pth"), "--heads", "2", "--out", str(tmp_path / "run")]
    assert main([*command, "--text-encoder", str(bert)]) == 1
    assert "holds no text encoder" in capsys.readouterr().err
    assert main(command) == 0
