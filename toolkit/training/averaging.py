"""An exponential average of the weights over the steps: what lowering the rate does, at any moment of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]

_WARM_STEPS = 10


class WeightAverage:
    """The average of parameters; the first steps count for more, so that it does not begin with untrained weights.

    Args:
        parameters: What is averaged, as it is now.
        decay: Share of its past that the average keeps at a step.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.values = [parameter.detach().clone() for parameter in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Takes in the parameters as they are after a step."""
        self.steps += 1
        kept = min(self.decay, self.steps / (self.steps + _WARM_STEPS))
        torch._foreach_lerp_(self.values, list(self.parameters), 1 - kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The average takes the parameters' place for as long as the context lasts."""
        live = [parameter.detach().clone() for parameter in self.parameters]
        self._set(self.values)
        try:
            yield
        finally:
            self._set(live)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        torch._foreach_copy_(list(self.parameters), list(values))

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        return {"steps": self.steps, "values": [value.cpu().clone() for value in self.values]}

    def restore(self, state: dict[str, object]) -> None:
        """Goes on from what :meth:`state` gave.

        Raises:
            KeyError, ValueError: It is of other weights.
        """
        steps, values = state["steps"], state["values"]
        if not isinstance(steps, int) or not isinstance(values, list):
            raise ValueError("another average")
        if [value.shape for value in values] != [value.shape for value in self.values]:
            raise ValueError("an average of other weights")
        self.steps = steps
        self.values = [new.to(old) for new, old in zip(values, self.values, strict=True)]
