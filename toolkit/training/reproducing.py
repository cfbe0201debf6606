"""Whether a second training of a run gives the same weights, and where it cannot, how far its answers are from the first's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file

from dmdkit.data.dataset import Split
from dmdkit.errors import RunError
from dmdkit.training.evaluation import load_system, predict
from dmdkit.training.run import ENVIRONMENT_FILE, Run

__all__ = ["OUTPUT_BOUND", "Reproduction", "compared", "environment_changes", "environment_of"]

OUTPUT_BOUND = 0.1
"""Mean difference of the outputs, in standard deviations of the first run's, up to which a training on another machine or
with other versions counts as the same one. Chosen, not derived: rounding apart, the steps are the same."""

_DECIDES = ("python", "system", "machine", "cpu", "packages", "torch_threads", "cuda_device")


@dataclass(frozen=True)
class Reproduction:
    """What comparing two trainings found.

    Attributes:
        status: identical, within (the bound), or different.
        environment: What was different between the two, one readable entry each.
        weight_difference: Largest absolute difference of a weight; None where the shapes differ.
        output_difference: Mean absolute difference of the outputs, in standard deviations of the first run's.
        sentence: What it means.
    """

    status: Literal["identical", "within", "different"]
    environment: list[str]
    weight_difference: float | None
    output_difference: float | None
    sentence: str


def environment_of(run: Path) -> dict[str, Any]:
    """The machine and versions a run was trained with; empty where it does not say."""
    try:
        values = json.loads((run / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def environment_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of two environments is different and may change a result; all that one of them does not say is left out."""

    def flat(values: dict[str, Any]) -> dict[str, Any]:
        packages = values.get("packages")
        single = {name: values[name] for name in _DECIDES if name in values and name != "packages"}
        return {**single, **(packages if isinstance(packages, dict) else {})}

    old, new = flat(before), flat(now)
    return [f"{name} {old[name]} then, {new[name]} now" for name in old if name in new and old[name] != new[name]]


def _weight_difference(first: Run, second: Run) -> float | None:
    one, other = load_file(first.model_file), load_file(second.model_file)
    if {k: v.shape for k, v in one.items()} != {k: v.shape for k, v in other.items()}:
        return None
    return max(float((value.double() - other[name].double()).abs().max()) for name, value in one.items())


def compared(first: Run, second: Run, split: Split, device: torch.device | str = "cpu") -> Reproduction:
    """The run ``second``, a training of ``first``'s recipe on its data, against ``first``.

    Args:
        first: The run to reproduce.
        second: The training just done.
        split: Samples to compare the outputs on, as the run's model takes them.
        device: Where the models compute.

    Raises:
        RunError: One of them cannot be computed.
    """
    changes = environment_changes(environment_of(first.path), environment_of(second.path))
    if first.model_sha256 == second.model_sha256:
        return Reproduction("identical", changes, 0.0, 0.0, "reproduced bit by bit: the weights are the same bytes")
    weights = _weight_difference(first, second)
    if weights is None:
        raise RunError(f"{first.path}: its weights have other shapes than a training of its recipe gives; one was changed")
    one, other = (predict(load_system(run, device), split, device).astype(np.float64) for run in (first, second))
    spread = float(one.std())
    difference = float(np.abs(one - other).mean()) / spread if spread > 0 else float(np.abs(one - other).mean())
    figures = (
        f"the outputs of {len(split)} samples differ by {difference:.3g} of their standard deviation on average, a weight by "
        f"up to {weights:.2g}"
    )
    where = "; ".join(changes)
    within = difference <= OUTPUT_BOUND
    if changes and within:
        said = f"reproduced within the bound of {OUTPUT_BOUND:g}, not bit by bit ({where}): {figures}"
        return Reproduction("within", changes, weights, difference, said)
    if changes:
        said = f"not reproduced ({where}): {figures}; the bound is {OUTPUT_BOUND:g}"
    else:
        said = f"not reproduced, though machine and versions are those recorded: {figures}; expected the same bytes"
    return Reproduction("different", changes, weights, difference, said)
