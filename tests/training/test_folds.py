"""Cross-validation: which samples a fold trains on, what it chooses, and what a run without a validation split says."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dmdkit.data import Dataset
from dmdkit.errors import ConfigError, DataError
from dmdkit.training import trainer
from dmdkit.training.folds import cross_validate, fold_numbers, pooled, read_folds, with_chosen_epochs
from dmdkit.training.run import CHECKPOINT_FILE, FINISHED_FOLDS_FILE, FOLDS_FILE, read_seen
from tests.conftest import tiny_dataset
from tests.training.helpers import tiny_config, train_tiny

FOLDS = ("training.folds=2", "training.readout_line=true")


def without_validation(dataset: Dataset) -> Dataset:
    return replace(dataset, splits={name: split for name, split in dataset.splits.items() if name != "valid"})


def test_every_sample_is_in_one_fold_and_folds_are_alike_in_size() -> None:
    numbers = fold_numbers(11, 3, 1)
    assert sorted(np.bincount(numbers)) == [3, 4, 4]
    assert not np.array_equal(numbers, fold_numbers(11, 3, 2))


def test_the_epochs_of_least_loss_are_chosen_by_models_that_did_not_see_a_sample(tmp_path) -> None:
    """Losses fall to the fourth of six epochs and rise; steps of a fold are turned into epochs of all samples."""
    dataset, seen = pooled(tiny_dataset(train=60)), []
    curve = np.array([3.0, 2.0, 1.5, 1.0, 2.0, 3.0])

    def curve_of(part: Dataset) -> tuple[np.ndarray, np.ndarray]:
        train, valid = part.splits["train"], part.splits["valid"]
        assert set(train.ids).isdisjoint(valid.ids)
        seen.extend(valid.ids)
        outputs = np.tile(valid.labels[None, :, None], (6, 1, 1)) + np.arange(6, dtype=np.float32)[:, None, None]
        return np.tile(curve[:, None], (1, len(valid))), outputs

    config = tiny_config("training.folds=3", "training.schedule=fixed", "training.epochs=6")
    cross_validate(config, dataset, tmp_path, curve_of, lambda *_: None)
    chosen = with_chosen_epochs(config, tmp_path)
    record, train = read_folds(tmp_path), dataset.splits["train"]
    assert sorted(seen) == sorted(train.ids)
    assert record.chosen == 4
    in_fold, in_all = -(-(len(train) - len(train) // 3) // 16), -(-len(train) // 16)
    assert chosen.training.epochs == record.epochs == round(4 * in_fold / in_all)
    assert np.allclose(record.outputs()[:, 0], train.labels + 3)


def test_a_set_without_a_validation_split_trains_with_folds_and_says_what_they_found(tmp_path) -> None:
    run = train_tiny(tmp_path / "run", *FOLDS, dataset=without_validation(tiny_dataset(train=40)))
    metrics, record = json.loads((run.path / "metrics.json").read_text()), read_folds(run.path)
    assert set(metrics["splits"]) == set(metrics["baselines"]) == {"folds", "test"}
    assert metrics["splits"]["folds"]["samples"] == 40
    assert metrics["epochs"] == record.epochs <= run.config.training.epochs
    assert metrics["readout_line"] is not None
    seen = read_seen(run.path)
    assert seen is not None
    assert set(seen.seen) == {"trained"}


def test_validation_samples_train_where_folds_choose(tmp_path) -> None:
    dataset = tiny_dataset(train=40)
    run = train_tiny(tmp_path / "run", *FOLDS, dataset=dataset)
    assert run.facts.train_samples == 40 + len(dataset.splits["valid"])


def test_a_training_killed_after_its_folds_goes_on_to_the_same_bytes(tmp_path, monkeypatch) -> None:
    whole = train_tiny(tmp_path / "whole", *FOLDS, "training.epochs=3")
    fit = trainer.LiveTraining.fit

    def interrupted(self, out, state, progress):
        save = trainer.save_state

        def once(*arguments):
            save(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(trainer, "save_state", once)
            fit(self, out, state, progress)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.LiveTraining, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "part", *FOLDS, "training.epochs=3")
    assert (tmp_path / "part" / CHECKPOINT_FILE).is_file()
    assert (tmp_path / "part" / FOLDS_FILE).is_file()
    part = train_tiny(tmp_path / "part", *FOLDS, "training.epochs=3", resume=True)
    assert part.model_sha256 == whole.model_sha256


def test_finished_folds_are_used_again_only_for_the_same_recipe_and_samples(tmp_path) -> None:
    dataset, trained = pooled(tiny_dataset(train=40)), []

    def curve_of(part: Dataset) -> tuple[np.ndarray, np.ndarray]:
        valid = part.splits["valid"]
        trained.append(len(valid))
        return np.ones((2, len(valid))), np.ones((2, len(valid), 1), np.float32)

    def folds_trained(config=FOLDS, data: Dataset = dataset) -> int:
        trained.clear()
        cross_validate(tiny_config(*config, "training.schedule=fixed"), data, tmp_path, curve_of, lambda *_: None)
        return len(trained)

    assert folds_trained() == 2
    assert folds_trained() == 0
    assert folds_trained((*FOLDS, "data.path=moved.pkl")) == 0
    assert folds_trained((*FOLDS, "training.seed=9")) == 2
    train = dataset.splits["train"]
    other = replace(dataset, splits={**dataset.splits, "train": replace(train, labels=train.labels + 0.5)})
    assert folds_trained((*FOLDS, "training.seed=9"), other) == 2
    file = tmp_path / FINISHED_FOLDS_FILE
    file.write_bytes(file.read_bytes()[:-40])
    assert folds_trained((*FOLDS, "training.seed=9"), other) == 2


def test_without_validation_a_recipe_that_leaves_folds_to_the_data_has_five_and_another_says_how() -> None:
    config = tiny_config("training.folds=auto")
    assert trainer.resolved(config, 40, 0)[0].training.folds == 5
    assert trainer.resolved(config, 40, 8)[0].training.folds == 0


@pytest.mark.parametrize(
    ("settings", "samples", "said"),
    [
        (["training.folds=0"], 40, r"needs a valid split.*--folds 5"),
        (["training.folds=9"], 10, r"10 samples are too few for 9 folds.*--folds"),
    ],
)
def test_what_folds_cannot_do_is_one_readable_error(tmp_path, settings, samples, said) -> None:
    with pytest.raises(DataError, match=said):
        train_tiny(tmp_path / "run", *settings, dataset=without_validation(tiny_dataset(train=samples)))
    assert not list(tmp_path.iterdir())


def test_folds_count_the_validation_samples_too(tmp_path) -> None:
    dataset = tiny_dataset(train=6, valid=3)
    with pytest.raises(DataError, match="9 samples are too few for 5 folds"):
        train_tiny(tmp_path / "run", "training.folds=5", dataset=dataset)
    assert not list(tmp_path.iterdir())


def test_one_fold_is_refused() -> None:
    with pytest.raises(ConfigError, match="folds=1 leaves nothing to train on"):
        tiny_config("training.folds=1")
