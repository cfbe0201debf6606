"""Predictions and metrics of a trained system."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dmdkit.data.dataset import Split, Task
from dmdkit.data.real_steps import beginnings, prefixes
from dmdkit.data.subsets import modality_subsets
from dmdkit.errors import RunError
from dmdkit.metrics import classification_metrics, regression_metrics
from dmdkit.model import DmdSystem
from dmdkit.training.run import Run

__all__ = ["features_on", "load_system", "predict", "step_metrics", "subset_metrics", "task_metrics"]

_BATCH = 64
_PREFIXED = 16
"""Samples whose every beginning is in memory at once: at 50 steps of 800 features 130 MB."""


def features_on(split: Split, device: torch.device | str) -> dict[str, Tensor]:
    """The three feature arrays and, where the split has them, ``steps`` as tensors on ``device``."""
    found = {name: torch.from_numpy(array).to(device) for name, array in split.features().items()}
    return found if split.steps is None else found | {"steps": torch.from_numpy(split.steps).to(device)}


def load_system(run: Run, device: torch.device | str = "cpu", *, weights: bytes | None = None) -> DmdSystem:
    """The run's model in evaluation mode.

    Args:
        run: A finished run.
        device: Where the model computes.
        weights: Content of the run's ``model.safetensors``, where the caller has read it; None reads it now.

    Raises:
        RunError: The weights do not belong to the run's shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    system = DmdSystem(
        run.facts.shape, run.config.model.dropout, standardised=run.facts.standardised, gd_units=run.facts.gd_units
    )
    try:
        system.load_state_dict(load(run.model_file.read_bytes() if weights is None else weights))
    except (SafetensorError, OSError, RuntimeError) as cause:
        raise RunError(f"{run.model_file}: damaged or not of this run: {' '.join(str(cause).split()):.300}") from cause
    return system.to(device).eval()


def predict(system: nn.Module, split: Split, device: torch.device | str = "cpu") -> npt.NDArray[np.float32]:
    """The model's output for every sample, float32 (N, C), in evaluation mode.

    Raises:
        RunError: An output is NaN or infinite.
    """
    training = system.training
    system.eval()
    outputs = []
    with torch.inference_mode():
        for start in range(0, len(split), _BATCH):
            part = split.take(np.arange(start, min(start + _BATCH, len(split))))
            outputs.append(system(**features_on(part, device)).model.output.float().cpu())
    system.train(training)
    result: npt.NDArray[np.float32] = torch.cat(outputs).numpy()
    wrong = ~np.isfinite(result).all(1)
    if wrong.any():
        sample = split.ids[int(wrong.argmax())]
        raise RunError(
            f"the model's outputs are not finite ({int(wrong.sum())} of {len(split)} samples, such as {sample!r}); train "
            "again with a lower training.learning_rate"
        )
    return result


def subset_metrics(
    system: nn.Module, split: Split, task: Task, label_range: tuple[float, float] | None, device: torch.device | str = "cpu"
) -> dict[str, dict[str, float | None]]:
    """Every metric with only some modalities there, the others all zero, by their names: text, ..., text+audio+vision."""
    return {
        name: task_metrics(predict(system, part, device), part.labels, task, label_range)
        for name, part in modality_subsets(split)
    }


def step_metrics(
    system: nn.Module,
    split: Split,
    kernel: int,
    task: Task,
    label_range: tuple[float, float] | None,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, float | None]]:
    """Every metric of the answers after 1, 2, ... steps against the labels of those steps, by that number, and of "any".

    Args:
        system: The model.
        split: Samples with real steps in front and labels by step.
        kernel: The model's.
        task: The model's.
        label_range: The model's.
        device: Where the model computes.
    """
    found = beginnings(split, kernel)
    if not found.known.any():
        return {}
    answers = []
    for start in range(0, len(split), _PREFIXED):
        part = prefixes(split.take(np.arange(start, min(start + _PREFIXED, len(split)))), kernel, labelled=True)
        answers += [predict(system, part, device)] if len(part) else []
    predicted, steps, labels = np.concatenate(answers), found.steps[found.known], found.labels[found.known]
    chosen = {str(count): steps == count for count in sorted(set(steps.tolist()))}
    chosen["any"] = np.ones(len(steps), bool)
    return {
        name: {"samples": int(rows.sum()), **task_metrics(predicted[rows], labels[rows], task, label_range)}
        for name, rows in chosen.items()
    }


def task_metrics(
    predicted: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32] | npt.NDArray[np.int64],
    task: Task,
    label_range: tuple[float, float] | None,
) -> dict[str, float | None]:
    """Every metric of the task for outputs (N, C)."""
    if task == "classification":
        return classification_metrics(predicted, labels)
    return regression_metrics(predicted[:, 0], labels, label_range)
