"""The training split as batches on the device, and what one of them says about the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmdkit.data.dataset import MODALITIES, Split
from dmdkit.errors import RunError
from dmdkit.model import LossTerms
from dmdkit.records import LabelArray

__all__ = [
    "DeviceSplit",
    "batches_of",
    "check_finite",
    "drop_modalities",
    "drop_stretches",
    "epoch_seed",
    "term_names",
    "term_values",
]

_SHOWN_IDS = 5
_POOL_BATCHES = 8
"""Batches, at least, within which samples are sorted by their length: enough for like lengths, few enough to stay random."""


@dataclass(frozen=True)
class DeviceSplit:
    """The arrays of a split on the training's device, in the model's type."""

    features: dict[str, Tensor]
    labels: Tensor
    tokens: Tensor | None
    steps: Tensor | None
    step_labels: Tensor | None

    @classmethod
    def of(cls, split: Split, device: torch.device) -> DeviceSplit:
        """``split`` on ``device``."""
        dtype = torch.get_default_dtype()
        features = {name: torch.from_numpy(array).to(device, dtype) for name, array in split.features().items()}
        tokens = None if split.tokens is None else torch.from_numpy(split.tokens).to(device)
        steps = None if split.steps is None else torch.from_numpy(split.steps)
        by_step = None if split.step_labels is None or steps is None else _labels_on(split.step_labels, device)
        return cls(features, _labels_on(split.labels, device), tokens, steps, by_step)

    def drawn_steps(self, random_prefix: float, kernel: int) -> Tensor | None:
        """How many steps of each sample an epoch hears, (N,) on the CPU; with ``random_prefix`` often fewer than there are.

        Where the split has labels by step, a sample ends early only at a step that has one. None: the split is padded.
        """
        steps = self.steps
        if steps is None or random_prefix == 0:
            return steps
        places = torch.arange(1, self.features["text"].shape[1] + 1)
        ends = (places >= kernel) & (places < steps.unsqueeze(1))
        if self.step_labels is not None:
            ends &= _is_labelled(self.step_labels).cpu()
        ends |= places == steps.unsqueeze(1)
        any_end = torch.where(ends, torch.rand(ends.shape), -1.0).argmax(1) + 1
        return torch.where(torch.rand(len(steps)) < random_prefix, any_end, steps)

    def labels_of(self, indices: Tensor, steps: Tensor | None) -> Tensor:
        """The labels of samples that end after ``steps`` (B,): those of that step, where there are any, else the samples'."""
        labels = self.labels[indices]
        if steps is None or self.step_labels is None:
            return labels
        own = self.step_labels[indices, steps - 1]
        return torch.where(_is_labelled(own), own, labels)


def _labels_on(labels: LabelArray, device: torch.device) -> Tensor:
    found = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
    return found.to(torch.get_default_dtype()) if found.is_floating_point() else found


def _is_labelled(labels: Tensor) -> Tensor:
    return ~labels.isnan() if labels.is_floating_point() else labels >= 0


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of everything random in an epoch: batches and dropout."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def batches_of(count: int, size: int, seed: int, steps: Tensor | None = None, group: int = 1) -> list[Tensor]:
    """Indices 0 to ``count`` - 1 in an order of the seed's, in batches of ``size``; one may be smaller.

    Args:
        count: Number of samples.
        size: Samples of a batch.
        seed: Decides the order.
        steps: int64 (count,), steps of each: samples of like length are then batched together, so that a batch can be cut to
            its longest. Only samples of a pool of batches change places, and the batches of a pool come in any order.
        group: Batches that make an optimiser step; a pool holds whole groups.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    if steps is None:
        return list(torch.split(order, size))
    found: list[Tensor] = []
    for pool in torch.split(order, size * group * -(-_POOL_BATCHES // group)):
        batches = torch.split(pool[torch.argsort(steps[pool], stable=True)], size)
        found += [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
    return found


def _chosen_modality(batch: int, probability: float) -> Tensor:
    """Of each sample, the number of one modality with ``probability``, else -1."""
    chosen = torch.randint(len(MODALITIES), (batch,))
    chosen[torch.rand(batch) >= probability] = -1
    return chosen


def _absent_modalities(batch: int, probability: float, most: int) -> Tensor:
    """Which modalities of each sample are zeroed, boolean (B, 3): with ``probability`` some, else none."""
    numbers = torch.arange(len(MODALITIES))
    if most == 1:
        return _chosen_modality(batch, probability).unsqueeze(1) == numbers
    subset = torch.randint(2 * len(MODALITIES), (batch, 1))  # one modality alone is zeroed, or alone stays
    zeroed = (subset % len(MODALITIES) == numbers) == (subset < len(MODALITIES))
    return zeroed & (torch.rand(batch, 1) < probability)


def drop_modalities(features: dict[str, Tensor], probability: float, most: int = 1) -> tuple[dict[str, Tensor], Tensor | None]:
    """Zeroes up to ``most`` (1 or 2) modalities of each sample with ``probability``, every subset as often as another.

    Returns:
        The features, and which samples lack something, boolean (B,); None where the probability is 0.
    """
    if probability == 0:
        return features, None
    absent = _absent_modalities(next(iter(features.values())).shape[0], probability, most)
    there = {name: (~absent[:, index]).to(features[name]).view(-1, 1, 1) for index, name in enumerate(MODALITIES)}
    return {name: features[name] * kept for name, kept in there.items()}, absent.any(1)


def drop_stretches(features: dict[str, Tensor], probability: float) -> dict[str, Tensor]:
    """Zeroes a stretch of steps in one modality of each sample with ``probability``: any length, any place.

    What a sensor that fails for a moment leaves; :func:`drop_modalities` is a sensor that is not there.
    """
    if probability == 0:
        return features
    batch = next(iter(features.values())).shape[0]
    chosen = _chosen_modality(batch, probability)
    ends = torch.rand(batch, 2).sort(1).values
    found = {}
    for index, name in enumerate(MODALITIES):
        place = (torch.arange(features[name].shape[1]) + 0.5) / features[name].shape[1]
        inside = (place >= ends[:, :1]) & (place < ends[:, 1:]) & (chosen == index).unsqueeze(1)
        found[name] = features[name] * (~inside).to(features[name]).unsqueeze(2)
    return found


def _groups(terms: LossTerms) -> dict[str, Sequence[Tensor]]:
    units = {f"{space}_{name}": [value] for space, unit in terms.distillation.items() for name, value in unit.items()}
    return {
        "task": list(terms.task.values()),
        "reconstruction": list(terms.reconstruction.values()),
        "cycle": list(terms.cycle.values()),
        "orthogonality": list(terms.orthogonality.values()),
        "margin": [terms.margin],
        **units,
    }


def term_names(terms: LossTerms) -> list[str]:
    """Names of what :func:`term_values` gives."""
    return ["total", *_groups(terms)]


def term_values(total: Tensor, terms: LossTerms) -> Tensor:
    """The total and the sum of each group of terms, (n,), on their device: nothing waits for them."""
    return torch.stack([total.detach(), *(torch.stack([v.detach() for v in group]).sum() for group in _groups(terms).values())])


def check_finite(values: Tensor, names: Sequence[str], where: str, ids: Sequence[str]) -> None:
    """Refuses a loss that is NaN or infinite.

    Args:
        values: What :func:`term_values` gave, on the CPU.
        names: Their names.
        where: Epoch and batch, for the message.
        ids: Names of the batch's samples.

    Raises:
        RunError: Naming the terms and the samples.
    """
    if torch.isfinite(values[0]):
        return
    wrong = [name for name, value in zip(names[1:], values[1:].tolist(), strict=True) if not np.isfinite(value)]
    shown = ", ".join(repr(name) for name in ids[:_SHOWN_IDS]) + (", ..." if len(ids) > _SHOWN_IDS else "")
    raise RunError(
        f"the loss became {float(values[0])} in {where} ({', '.join(wrong) or 'their weighted sum'}; samples {shown}); lower "
        "training.learning_rate, or standardise the features with --set data.normalisation=standardise"
    )
