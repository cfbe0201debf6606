"""The trainer against the published procedure, written plainly once more (benchmarks/published_loop.py)."""

from __future__ import annotations

import pytest
import torch

from benchmarks.published_loop import PublishedModel, published_step
from dmdkit.config import DropoutConfig, shape_of
from dmdkit.training import trainer
from dmdkit.training.batches import batches_of, epoch_seed
from dmdkit.training.progress import SilentProgress
from dmdkit.training.run import RunFacts
from tests.conftest import tiny_dataset
from tests.training.helpers import NO_DROPOUT, tiny_config

STEPS, GROUP, BATCH = 30, 2, 8
SAMPLES = 37  # four whole batches and a part of one: two groups, and what is left over is dropped
WEIGHT_TOLERANCE = 1e-6
"""After 30 steps; summation order alone moves the weights by about 1e-8 (positions and the order of products)."""


@pytest.fixture
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trainer_of(*assignments: str) -> trainer.LiveTraining:
    config = tiny_config(NO_DROPOUT, "data.normalisation=none", "training.learning_rate=1e-3", *assignments)
    dataset = tiny_dataset(train=SAMPLES)
    shape = shape_of(config.model, dataset.feature_dims, dataset.lengths, 1)
    facts = RunFacts(origin="train", shape=shape, task="regression", label_range=(-3.0, 3.0), standardised=False, gd_units=True)
    return trainer.LiveTraining(config, facts, dataset, "cpu")


def published_weights(live: trainer.LiveTraining, *, clip: float, steps: int = STEPS) -> dict[str, torch.Tensor]:
    """The weights after ``steps`` of the plain loop, from those ``live`` begins with."""
    weights = {name: value.detach().clone().requires_grad_() for name, value in live.system.named_parameters()}
    model = PublishedModel(weights, live.facts.shape, DropoutConfig())
    optimizer = torch.optim.Adam(weights.values(), lr=live.settings.learning_rate)
    split = live.dataset.splits["train"]
    features = {name: torch.from_numpy(array).double() for name, array in split.features().items()}
    labels = torch.from_numpy(split.labels).double()
    done, epoch = 0, 0
    while done < steps:
        batches = batches_of(SAMPLES, BATCH, epoch_seed(live.settings.seed, epoch))
        for start in range(0, len(batches) - len(batches) % GROUP, GROUP):
            group = batches[start : start + GROUP]
            parts = [({name: array[chosen] for name, array in features.items()}, labels[chosen]) for chosen in group]
            published_step(model, optimizer, parts, clip)
            done += 1
        epoch += 1
    return {name: value.detach() for name, value in weights.items()}


def largest_difference(live: trainer.LiveTraining, weights: dict[str, torch.Tensor]) -> float:
    return max(float((value.detach() - weights[name]).abs().max()) for name, value in live.system.named_parameters())


SETTINGS = (f"training.batch_size={BATCH}", f"training.accumulate_batches={GROUP}", "training.clip_value=0.05")


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("kernels", ["{text: 1, audio: 1, vision: 1}", "{text: 3, audio: 1, vision: 2}"])
def test_thirty_steps_end_at_the_weights_of_the_published_loop(kernels: str) -> None:
    live = trainer_of(f"model.kernels={kernels}", *SETTINGS)
    expected = published_weights(live, clip=0.05)
    for epoch in range(STEPS // 2):
        live.run_epoch(epoch, SilentProgress())
    assert largest_difference(live, expected) < WEIGHT_TOLERANCE


@pytest.mark.usefixtures("_double")
def test_the_comparison_would_see_another_clipping() -> None:
    live = trainer_of("model.kernels={text: 1, audio: 1, vision: 1}", *SETTINGS)
    other = published_weights(live, clip=0.06, steps=4)
    for epoch in range(2):
        live.run_epoch(epoch, SilentProgress())
    assert largest_difference(live, other) > 100 * WEIGHT_TOLERANCE
