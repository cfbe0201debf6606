"""What a run learns about its data, and what of it reaches the bundle."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmdkit.cli import main
from dmdkit.config import TrainingConfig
from dmdkit.data import MODALITIES, write_dataset
from dmdkit.model import absence_distance
from dmdkit.runtime.manifest import read_manifest
from dmdkit.training.batches import drop_modalities, drop_stretches
from dmdkit.training.statistics import dropped_share, input_facts, standardisation
from tests.conftest import TINY_SETTINGS, tiny_dataset
from tests.training.helpers import train_tiny

FLAGS = ["--device", "cpu", *(part for setting in TINY_SETTINGS for part in ("--set", setting))]


def three_classes(seed: int = 0):
    dataset = tiny_dataset(seed, train=64, valid=24, test=60)
    splits = {
        name: replace(split, labels=np.digitize(split.labels, (-1.0, 1.0)).astype(np.int64))
        for name, split in dataset.splits.items()
    }
    return replace(dataset, task="classification", label_range=None, num_classes=3, splits=splits)


@pytest.mark.slow
def test_modality_dropout_trains_and_makes_the_manifest_say_so(tiny_data, tmp_path):
    run, bundle = tmp_path / "run", tmp_path / "b.dmd"
    dropout = ["--set", "training.modality_dropout=0.3"]
    assert main(["train", "--data", str(tiny_data), "--out", str(run), *FLAGS, *dropout]) == 0
    assert main(["export", str(run), "--out", str(bundle)]) in (0, 2)
    assert all(record.trained_absent for record in read_manifest(bundle).inputs.values())


def test_without_it_no_modality_may_be_absent(tiny_bundle):
    assert not any(record.trained_absent for record in read_manifest(tiny_bundle).inputs.values())


@pytest.mark.parametrize(("probability", "absent"), [(0.0, False), (0.05, False), (0.07, True), (0.5, True)])
def test_each_modality_is_dropped_a_third_of_the_time_and_counted_so(probability, absent):
    facts = input_facts(tiny_dataset(), dropped_share(TrainingConfig(modality_dropout=probability)))
    assert [fact.trained_absent for fact in facts.values()] == [absent] * 3


def test_samples_without_a_modality_count_too():
    dataset = tiny_dataset()
    dataset.splits["train"].audio[:2] = 0
    facts = input_facts(dataset, 0.0)
    assert facts["audio"].empty_share == 2 / 64
    assert [facts[name].trained_absent for name in MODALITIES] == [False, True, False]


def test_modality_dropout_zeroes_whole_samples_of_one_modality():
    torch.manual_seed(0)
    features = {name: torch.ones(3000, 2, 3) for name in MODALITIES}
    dropped, absent = drop_modalities(features, 0.3)
    lost = torch.stack([(dropped[name] == 0).all((1, 2)) for name in MODALITIES])
    assert torch.equal(lost, torch.stack([(dropped[name] == 0).any((1, 2)) for name in MODALITIES]))
    assert lost.sum(0).max() == 1
    assert torch.allclose(lost.float().mean(1), torch.tensor(0.1), atol=0.02)
    assert torch.equal(absent, lost.any(0))
    assert drop_modalities(features, 0.0) == (features, None)


def test_every_subset_is_zeroed_as_often_as_another_where_two_may_be_absent():
    torch.manual_seed(0)
    features = {name: torch.ones(6000, 2, 3) for name in MODALITIES}
    dropped, absent = drop_modalities(features, 0.6, 2)
    lost = torch.stack([(dropped[name] == 0).all((1, 2)) for name in MODALITIES], 1).long()
    shares = torch.bincount(lost @ torch.tensor([4, 2, 1]), minlength=8) / 6000
    assert torch.equal(absent, lost.any(1))
    assert torch.allclose(shares[1:7], torch.full((6,), 0.1), atol=0.02)
    assert shares[7] == 0
    share = dropped_share(TrainingConfig(modality_dropout=0.6, most_absent=2))
    assert float(lost.float().mean()) == pytest.approx(share, abs=0.02)


def test_the_full_modality_output_teaches_samples_that_lack_something_alone():
    student = torch.tensor([[1.0], [2.0], [5.0]], requires_grad=True)
    teacher = torch.tensor([[0.0], [4.0], [0.0]], requires_grad=True)
    found = absence_distance(student, teacher, torch.tensor([True, True, False]))
    found.backward()
    assert float(found.detach()) == 1.5
    assert student.grad is not None
    assert student.grad.flatten().tolist() == [0.5, -0.5, 0.0]
    assert teacher.grad is None
    assert float(absence_distance(student, teacher, torch.zeros(3, dtype=torch.bool)).detach()) == 0
    logits = torch.randn(4, 3)
    assert float(absence_distance(logits, logits, torch.ones(4, dtype=torch.bool))) == pytest.approx(0, abs=1e-6)
    assert float(absence_distance(logits, -logits, torch.ones(4, dtype=torch.bool))) > 0


def test_a_teacher_of_absent_modalities_changes_what_is_learnt(tmp_path):
    dropout = ("training.modality_dropout=0.5", "training.most_absent=2")
    runs = [train_tiny(tmp_path / weight, *dropout, f"training.absence_weight={weight}") for weight in ("0", "1")]
    assert runs[0].model_sha256 != runs[1].model_sha256
    assert all(item.trained_absent for item in runs[1].facts.inputs.values())


def test_standardisation_ignores_padding_and_leaves_constant_columns_alone():
    dataset = tiny_dataset()
    split = dataset.splits["train"]
    split.vision[:, 2:, 1] = 7.0
    split.vision[: len(split) // 4, 2:, 1] = 7.0
    mean, scale = standardisation(split)["vision"]
    present = split.vision[(split.vision != 0).any(-1)]
    assert np.allclose(mean, present.mean(0), atol=1e-5)
    assert np.allclose(np.delete(scale, 1), np.delete(present.std(0), 1), atol=1e-4)
    constant = np.full((4, 6, 3), 2.5, np.float32)
    mean, scale = standardisation(replace(split, audio=constant))["audio"]
    assert mean.tolist() == [2.5] * 3
    assert scale.tolist() == [1.0] * 3


def test_an_all_zero_modality_trains_and_is_pointed_out(tmp_path, capsys):
    dataset = tiny_dataset()
    for split in dataset.splits.values():
        split.audio[:] = 0
    write_dataset(dataset, tmp_path / "silent.npz")
    assert main(["train", "--data", str(tmp_path / "silent.npz"), "--out", str(tmp_path / "run"), *FLAGS]) == 0
    assert "audio is zero in every training sample" in capsys.readouterr().err
    facts = json.loads((tmp_path / "run" / "facts.json").read_text())["inputs"]["audio"]
    assert (facts["empty_share"], facts["trained_absent"]) == (1.0, True)


@pytest.mark.slow
def test_three_classes_train_export_check_and_predict(tmp_path, capsys):
    data, run, bundle = tmp_path / "classes.npz", tmp_path / "run", tmp_path / "b.dmd"
    write_dataset(three_classes(), data)
    assert (
        main(["train", "--data", str(data), "--out", str(run), *FLAGS, "--epochs", "5", "--set", "training.learning_rate=0.01"])
        == 0
    )
    metrics = json.loads((run / "metrics.json").read_text())["splits"]["test"]
    assert metrics.keys() == {"samples", "accuracy", "f1", "cross_entropy"}
    assert metrics["accuracy"] > 0.5
    assert main(["export", str(run), "--int8", "--int8-search", "none", "--out", str(bundle)]) in (0, 2)
    capsys.readouterr()
    assert main(["check", str(bundle), "--data", str(data), "--run", str(run), "--json"]) in (0, 2)
    ledger = json.loads(capsys.readouterr().out)
    assert all("accuracy" in hop["metrics"] for hop in ledger["hops"] if "gd_" not in hop["target"])
    assert ledger["hops"][0]["status"] == "passed"
    assert main(["evaluate", str(run), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["accuracy"] == metrics["accuracy"]
    assert main(["predict", str(bundle), "--data", str(data), "--graph", "fp32", "--json"]) == 0
    samples = json.loads(capsys.readouterr().out)["samples"]
    assert len(samples) == 60
    assert sum(sample["class"] == sample["label"] for sample in samples) / 60 == pytest.approx(metrics["accuracy"])
    assert main(["predict", str(bundle), "--data", str(data), "--graph", "fp32", "--limit", "2"]) == 0
    assert "class" in capsys.readouterr().out
    four = three_classes()
    four.splits["test"].labels[0] = 3
    write_dataset(replace(four, num_classes=4), tmp_path / "four.npz")
    for command in (["check", str(bundle)], ["predict", str(bundle)], ["evaluate", str(run)]):
        assert main([*command, "--data", str(tmp_path / "four.npz")]) == 1
        assert "4 classes" in capsys.readouterr().err


def test_a_batch_of_one_at_the_epochs_end_trains(tmp_path):
    assert train_tiny(tmp_path / "run", dataset=tiny_dataset(train=17)).facts.train_samples == 17


@pytest.mark.parametrize("losses", ["released", "paper"])
def test_both_objectives_train(tmp_path, losses):
    train_tiny(tmp_path / "run", f"training.losses={losses}", "training.epochs=1")


def test_bf16_trains(tmp_path):
    train_tiny(tmp_path / "run", "training.precision=bf16-mixed", "training.epochs=1")


def test_stretch_dropout_zeroes_one_stretch_of_one_modality():
    torch.manual_seed(0)
    features = {"text": torch.ones(4000, 20, 2), "audio": torch.ones(4000, 30, 3), "vision": torch.ones(4000, 10, 1)}
    dropped = drop_stretches(features, 0.5)
    gone = {name: (array == 0).all(-1) for name, array in dropped.items()}
    assert all(torch.equal(gone[name], (array == 0).any(-1)) for name, array in dropped.items())
    touched = torch.stack([steps.any(1) for steps in gone.values()])
    assert touched.sum(0).max() == 1
    assert 0.4 < float(touched.any(0).double().mean()) < 0.5, "half of the samples, but for stretches that hold no step"
    for steps in gone.values():
        starts = (steps[:, 1:] & ~steps[:, :-1]).sum(1) + steps[:, 0].long()
        assert int(starts.max()) == 1
        assert float(steps[steps.any(1)].double().mean()) == pytest.approx(0.35, abs=0.06)
    assert drop_stretches(features, 0.0) is features
