from __future__ import annotations

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from dmdkit.config import shape_of
from dmdkit.model import DmdSystem, LossWeights, loss_terms, total_loss
from dmdkit.training import trainer
from dmdkit.training.batches import batches_of, epoch_seed
from dmdkit.training.run import HISTORY_FILE, METRICS_FILE, MODEL_FILE
from tests.conftest import tiny_dataset
from tests.training.helpers import NO_DROPOUT, tiny_config, train_tiny

BATCHES = [torch.arange(start, start + 8) for start in range(0, 40, 8)]  # five: two groups of two, and one left over
CLIP = 0.002
SETTINGS = (
    NO_DROPOUT,
    "data.normalisation=none",
    "training.epochs=1",
    "training.batch_size=8",
    "training.accumulate_batches=2",
    f"training.clip_value={CLIP}",
)


def written_by_hand(variant="published"):
    """docs/model.md section 7, spelled out once more without the trainer."""
    dataset, config = tiny_dataset(train=40), tiny_config(*SETTINGS)
    settings = config.training
    torch.manual_seed(settings.seed)
    shape = shape_of(config.model, dataset.feature_dims, dataset.lengths, 1)
    system = DmdSystem(shape, config.model.dropout, gd_units=True).train()
    optimizer = torch.optim.AdamW(system.parameters(), lr=settings.learning_rate, weight_decay=0.0, fused=True)
    split = dataset.splits["train"]
    features = {name: torch.from_numpy(array) for name, array in split.features().items()}
    labels = torch.from_numpy(split.labels)
    weights = LossWeights(settings.distillation_weight, settings.decoupling_weight)
    for number, batch in enumerate(BATCHES, start=1):
        out = system(**{name: tensor[batch] for name, tensor in features.items()})
        loss = total_loss(loss_terms(out, labels[batch], settings.losses, classes=False), settings.losses, weights)
        (loss / 2 if variant == "averaged" else loss).backward()
        group_ends = number % 2 == 0
        for parameter in system.parameters():
            if parameter.grad is not None and (group_ends or variant != "clipped once"):
                parameter.grad.clamp_(-CLIP, CLIP)
        if group_ends or (variant == "incomplete group kept" and number == len(BATCHES)):
            optimizer.step()
            optimizer.zero_grad()
    return system.state_dict()


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "batches_of", lambda *_: list(BATCHES))
    run = train_tiny(tmp_path / "run", *SETTINGS, dataset=tiny_dataset(train=40))
    return load_file(run.model_file)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_an_epoch_equals_the_published_loop_written_by_hand(trained):
    assert same(trained, written_by_hand())


@pytest.mark.parametrize("variant", ["averaged", "clipped once", "incomplete group kept"])
def test_the_loop_by_hand_can_tell_other_readings_apart(trained, variant):
    assert not same(trained, written_by_hand(variant))


def test_fewer_batches_than_a_group_still_make_one_step(tmp_path):
    settings = ("training.accumulate_batches=10", "training.batch_size=16", "training.epochs=1")
    trained = load_file(train_tiny(tmp_path / "run", *settings).model_file)
    torch.manual_seed(1)
    config, dataset = tiny_config(), tiny_dataset()
    shape = shape_of(config.model, dataset.feature_dims, dataset.lengths, 1)
    untrained = dict(DmdSystem(shape, standardised=True).named_parameters())
    assert sum(not torch.equal(value, trained[name]) for name, value in untrained.items()) > len(untrained) / 2


def test_every_epoch_sees_every_sample_once_in_another_order():
    first, second = (torch.cat(batches_of(37, 16, epoch_seed(1, epoch))) for epoch in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(37))
    assert first.tolist() != second.tolist()
    assert [len(batch) for batch in batches_of(37, 16, 0)] == [16, 16, 5]


def scripted(monkeypatch, losses):
    """Makes the validation losses of the epochs ``losses``, whatever the model does."""
    epochs = iter(losses)

    def validate(self, split):
        loss = next(epochs, 9.0)
        return loss, {"mae": loss}

    monkeypatch.setattr(trainer.LiveTraining, "validate", validate)


def history_of(run):
    with (run.path / HISTORY_FILE).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_rate_halves_and_training_stops_on_the_validation_loss(tmp_path, monkeypatch):
    scripted(monkeypatch, [1.0, 0.9, *[0.95] * 20])
    settings = ("training.epochs=30", "training.plateau_patience=2", "training.early_stop_patience=5")
    run = train_tiny(tmp_path / "run", *settings)
    rows = history_of(run)
    assert [int(row["epoch"]) for row in rows] == list(range(1, 8))  # the best is 2; five worse ones end it
    assert [float(row["learning_rate"]) for row in rows] == [1e-3] * 5 + [5e-4] * 2  # after more than two worse ones
    metrics = json.loads((run.path / METRICS_FILE).read_text())
    assert (metrics["best_epoch"], metrics["epochs"], metrics["stopped_early"]) == (2, 7, True)


def test_the_best_epoch_on_validation_is_what_the_run_keeps(tmp_path, monkeypatch):
    weights = {}
    scripts = {"second best": [1.0, 0.5, 0.7, 0.6], "two epochs": [1.0, 0.5], "tie": [1.0, 0.5, 0.5], "last best": [4, 3, 2, 1]}
    for name, losses in scripts.items():
        scripted(monkeypatch, losses)
        run = train_tiny(tmp_path / name, f"training.epochs={len(losses)}", "training.plateau_patience=9")
        weights[name] = run.model_file.read_bytes()
    assert weights["second best"] == weights["two epochs"] != weights["last best"]
    assert weights["tie"] == weights["two epochs"], "an epoch that is no better does not take over"


def test_test_labels_choose_nothing(tmp_path):
    reference = train_tiny(tmp_path / "a")
    dataset = tiny_dataset()
    dataset.splits["test"].labels[:] = 0
    other = train_tiny(tmp_path / "b", dataset=dataset)
    assert reference.model_file.read_bytes() == other.model_file.read_bytes()


def test_the_seed_alone_decides(tmp_path):
    runs = [train_tiny(tmp_path / name, f"training.seed={seed}") for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    first, again, other = (run.model_file.read_bytes() for run in runs)
    assert first == again != other


def test_history_and_metrics_hold_every_loss_and_metric(tmp_path):
    run = train_tiny(tmp_path / "run")
    row = history_of(run)[0]
    terms = {"total", "task", "reconstruction", "cycle", "orthogonality", "margin"}
    terms |= {f"{space}_{name}" for space in ("homo", "hetero") for name in ("reg", "logit", "repr")}
    names = {"mae", "corr", "acc7", "acc5", "acc3", "acc2_non_zero", "f1_non_zero", "acc2_has_zero", "f1_has_zero"}
    assert row.keys() == {
        "epoch",
        "learning_rate",
        "valid_loss",
        "train_gradient_norm",
        *(f"train_{name}" for name in terms),
        *(f"valid_{name}" for name in names),
    }
    metrics = json.loads((run.path / METRICS_FILE).read_text())
    for split, size in (("valid", 16), ("test", 60)):
        assert metrics["splits"][split].keys() == {"samples", *names}
        assert metrics["splits"][split]["samples"] == size
    best = min(history_of(run), key=lambda row: float(row["valid_loss"]))
    assert float(best["valid_mae"]) == metrics["splits"]["valid"]["mae"]
    assert int(best["epoch"]) == metrics["best_epoch"]
    assert (run.path / MODEL_FILE).stat().st_size > 0


def test_a_loss_that_is_not_finite_ends_with_advice(tmp_path):
    dataset = tiny_dataset()
    for array in dataset.splits["train"].features().values():
        array[:] = 1e30
    with pytest.raises(trainer.RunError, match=r"the loss became .*standardise"):
        train_tiny(tmp_path / "run", "data.normalisation=none", dataset=dataset)
