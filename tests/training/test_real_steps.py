"""``data.steps=real`` trains on the steps there are, remembers it, and is measured that way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmdkit.cli import main
from dmdkit.config import RunConfig, load_run_config, recipe_path, shape_of
from dmdkit.data import write_dataset
from dmdkit.data.real_steps import with_real_steps
from dmdkit.errors import ConfigError
from dmdkit.model import loss_terms, total_loss
from dmdkit.records import PerModality
from dmdkit.training.batches import DeviceSplit, batches_of
from dmdkit.training.evaluation import load_system, predict, step_metrics, task_metrics
from dmdkit.training.run import Run, RunFacts
from dmdkit.training.trainer import LiveTraining
from tests.conftest import TINY_SETTINGS, tiny_dataset
from tests.stream_builders import stream_split
from tests.training.helpers import NO_DROPOUT, tiny_config, train_tiny

REAL = ["data.steps=real", "training.random_prefix=0.5"]


def test_a_run_of_real_steps_is_finished_and_says_so(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [part for setting in [*TINY_SETTINGS, *REAL] for part in ("--set", setting)]
    out = tmp_path / "real"
    assert main(["train", "--data", str(tiny_data), "--out", str(out), "--device", "cpu", *settings]) == 0
    run = Run.open(out)
    assert (run.facts.steps, run.config.training.random_prefix) == ("real", 0.5)
    assert {facts.padding_side for facts in (run.facts.inputs or {}).values()} == {"right"}
    capsys.readouterr()
    assert main(["evaluate", str(out), "--data", str(tiny_data)]) == 0
    split = stream_split()
    features = {"steps": np.full(len(split), 6)} | {
        "text": split.text[:, :6],
        "audio": split.audio[:, :6],
        "vision": split.vision[:, :6],
    }
    assert np.isfinite(predict(load_system(run), type(split)(split.ids, labels=split.labels, **features))).all()


def test_random_prefixes_end_anywhere_from_the_kernel_on() -> None:
    split = stream_split()
    data = DeviceSplit.of(
        type(split)(split.ids, split.text, split.audio, split.vision, split.labels, steps=np.full(len(split), 9)),
        torch.device("cpu"),
    )
    torch.manual_seed(0)
    many = torch.cat([data.drawn_steps(0.5, 3) for _ in range(20)])  # type: ignore[misc]
    assert set(many.tolist()) == set(range(3, 10))
    assert 0.5 < float((many == 9).float().mean()) < 0.62
    whole = data.drawn_steps(0.0, 3)
    assert whole is not None
    assert (whole == 9).all()


def test_a_prefix_ends_at_a_labelled_step_and_learns_that_label() -> None:
    split = stream_split()
    own = np.full((len(split), 9), np.nan, np.float32)
    own[:, [3, 6]] = [0.25, 0.75]
    own[:10] = np.nan
    data = DeviceSplit.of(replace(split, steps=np.full(len(split), 9), step_labels=own), torch.device("cpu"))
    torch.manual_seed(0)
    many = torch.stack([data.drawn_steps(0.9, 3) for _ in range(20)])  # type: ignore[misc]
    assert set(many[:, 10:].flatten().tolist()) == {4, 7, 9}
    assert set(many[:, :10].flatten().tolist()) == {9}
    rows = torch.tensor([10, 10, 10, 0])
    found = data.labels_of(rows, torch.tensor([4, 7, 9, 5]))
    assert found.tolist() == [0.25, 0.75, float(split.labels[10]), float(split.labels[0])]
    padded = DeviceSplit.of(split, torch.device("cpu"))
    assert padded.drawn_steps(0.5, 3) is None
    assert padded.labels_of(rows, None).tolist() == [float(split.labels[int(row)]) for row in rows]


def test_samples_of_like_length_share_batches_and_every_one_comes_once() -> None:
    steps = torch.from_numpy(np.random.default_rng(0).integers(1, 51, 1000))
    batches = batches_of(1000, 16, 3, steps, 4)
    assert torch.cat(batches).sort().values.tolist() == list(range(1000))
    assert all(torch.equal(a, b) for a, b in zip(batches, batches_of(1000, 16, 3, steps, 4), strict=True))
    assert sum(int(steps[batch].max()) * len(batch) for batch in batches) < 0.62 * 50 * 1000
    assert [len(batch) for batch in batches].count(16) == 62
    first = torch.stack([steps[batch].max() for batch in batches[:60]]).float().reshape(6, 10).mean(1)
    assert float(first.max() / first.min()) < 2, "the order of lengths must not be that of training"
    other = batches_of(1000, 16, 4, steps, 4)
    assert not torch.equal(torch.cat(batches), torch.cat(other))


def test_a_batch_cut_to_its_longest_sample_learns_the_same() -> None:
    dataset = with_real_steps(tiny_dataset(), PerModality(text=1, audio=1, vision=1))
    config = tiny_config(NO_DROPOUT, "data.steps=real", "training.clip_value=1e6")
    shape = shape_of(config.model, dataset.feature_dims, dataset.lengths, 1)
    facts = RunFacts(
        origin="train", shape=shape, task="regression", label_range=(-3.0, 3.0), standardised=True, gd_units=True, steps="real"
    )
    live = LiveTraining(config, facts, dataset, "cpu")
    short, steps = torch.arange(8), torch.full((8,), 4)  # of six
    seen: list[int] = []
    live.system.dmd.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    loss, _ = live._step(short, steps)
    assert seen == [4]
    learnt = {name: p.grad.clone() for name, p in live.system.named_parameters() if p.grad is not None}
    live.system.zero_grad()
    whole = {name: tensor[short] for name, tensor in live.train_data.features.items()}
    terms = loss_terms(
        live.system(**whole, steps=steps),
        live.train_data.labels[short],
        "released",
        present=live.system.dmd.present_steps(steps),
    )
    total = total_loss(terms, "released", live.weights)
    total.backward()
    torch.testing.assert_close(loss, total)
    for name, parameter in live.system.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(learnt[name], parameter.grad, msg=name)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["training.random_prefix=0.5"], "add --set data.steps=real"),
        (["data.steps=real", "text_encoder=bert"], "leave text_encoder out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_run_config(recipe_path("small"), settings)


def test_older_recipes_are_padded() -> None:
    config: RunConfig = load_run_config(recipe_path("small"))
    assert config.data.steps == "padded"


def test_evaluate_holds_each_step_against_its_own_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = tiny_dataset()
    test = dataset.splits["test"]
    own = np.full((len(test), 6), np.nan, np.float32)
    own[:, 3], own[:, 5] = -test.labels, test.labels
    dataset = replace(dataset, splits={**dataset.splits, "test": replace(test, step_labels=own)})
    write_dataset(dataset, tmp_path / "steps.npz")
    run = train_tiny(tmp_path / "run", "data.steps=real", "training.epochs=1", dataset=dataset)
    assert main(["evaluate", str(run.path), "--data", str(tmp_path / "steps.npz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["steps_heard"]) == ["2", "4", "6", "any"]
    assert {name: values["samples"] for name, values in found["steps_heard"].items()} == {"2": 15, "4": 60, "6": 45, "any": 120}
    split = with_real_steps(dataset, PerModality(text=1, audio=1, vision=1)).splits["test"]
    assert split.steps is not None
    second = replace(split.take(np.arange(15)), steps=np.full(15, 2))
    expected = task_metrics(predict(load_system(run), second), -test.labels[:15], "regression", (-3.0, 3.0))
    assert found["steps_heard"]["2"]["mae"] == pytest.approx(expected["mae"])
    nothing = replace(split, step_labels=np.full_like(own, np.nan))
    assert step_metrics(load_system(run), nothing, 1, "regression", (-3.0, 3.0)) == {}
    assert main(["evaluate", str(run.path), "--data", str(tmp_path / "steps.npz")]) == 0
    assert "against the label of each one's last step" in capsys.readouterr().err
