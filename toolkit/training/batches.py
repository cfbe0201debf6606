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


@dataclass(frozen=True)
class DeviceSplit:
    """The arrays of a split on the training's device, in the model's type."""

    features: dict[str, Tensor]
    labels: Tensor
    tokens: Tensor | None
    steps: Tensor | None

    @classmethod
    def of(cls, split: Split, device: torch.device) -> DeviceSplit:
        """``split`` on ``device``."""
        dtype = torch.get_default_dtype()
        features = {name: torch.from_numpy(array).to(device, dtype) for name, array in split.features().items()}
        tokens = None if split.tokens is None else torch.from_numpy(split.tokens).to(device)
        labels = torch.from_numpy(np.ascontiguousarray(split.labels)).to(device)
        steps = None if split.steps is None else torch.from_numpy(split.steps).to(device)
        return cls(features, labels.to(dtype) if labels.is_floating_point() else labels, tokens, steps)

    def real_steps(self, indices: Tensor, random_prefix: float, kernel: int) -> Tensor | None:
        """How many steps of these samples are heard, (B,); with ``random_prefix`` often fewer than there are.

        None: the split is padded.
        """
        if self.steps is None:
            return None
        steps = self.steps[indices]
        if random_prefix == 0:
            return steps
        shorter = kernel + (torch.rand(len(steps)).to(steps.device) * (steps - kernel + 1)).long()
        return torch.where(torch.rand(len(steps)).to(steps.device) < random_prefix, shorter, steps)


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of everything random in an epoch: batches and dropout."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def batches_of(count: int, size: int, seed: int) -> list[Tensor]:
    """Indices 0 to ``count`` - 1 in an order of the seed's, in batches of ``size``; the last may be smaller."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return list(torch.split(order, size))


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
