"""The PyTorch model's own outputs under the graphs' names: what every graph must reproduce."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from dmdkit.data import Split
from dmdkit.model.system import DmdSystem, stack

__all__ = ["reference_outputs", "unit_inputs"]

Array = npt.NDArray[np.float32]
_BATCH = 32


def reference_outputs(system: DmdSystem, split: Split) -> dict[str, Array]:
    """Score (N, C), logit_homo and logit_hetero (N, 3, C), and with GD-Units edges_homo and edges_hetero (N, 6)."""
    return _outputs(system, split)[0]


def unit_inputs(system: DmdSystem, split: Split) -> dict[str, dict[str, Array]]:
    """What each GD-Unit is fed on these samples: logits (N, 3, C) and representations (N, 3, r)."""
    return _outputs(system, split)[1]


def _outputs(system: DmdSystem, split: Split) -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
    parts: list[dict[str, Array]] = []
    system.eval()
    with torch.inference_mode():
        for start in range(0, len(split), _BATCH):
            features = {name: torch.from_numpy(a[start : start + _BATCH].copy()) for name, a in split.features().items()}
            if split.steps is not None:
                features["steps"] = torch.from_numpy(split.steps[start : start + _BATCH])
            out = system(**features)
            model = out.model
            part = {
                "score": model.output,
                "logit_homo": stack(model.logit_homo),
                "logit_hetero": stack(model.logit_hetero),
                "repr_homo": stack(model.repr_homo),
                "repr_hetero": stack(model.repr_hetero),
            }
            if out.edges_homo is not None and out.edges_hetero is not None:
                part |= {"edges_homo": out.edges_homo, "edges_hetero": out.edges_hetero}
            parts.append({name: tensor.numpy() for name, tensor in part.items()})
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    units = {}
    if "edges_homo" in whole:
        for space in ("homo", "hetero"):
            units[f"gd_{space}"] = {
                "logits": whole[f"logit_{space}"],
                "representations": whole[f"repr_{space}"],
            }
    return {name: array for name, array in whole.items() if not name.startswith("repr_")}, units
