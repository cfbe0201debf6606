"""Windows of models trained on real steps: shorter than the longest, zeros behind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dmdkit.errors import InputError
from dmdkit.runtime.backends.base import Feed, steps_of
from dmdkit.runtime.inputs import as_array
from dmdkit.runtime.manifest import Manifest

__all__ = ["filled_up", "with_steps"]


def filled_up(values: Mapping[str, object], manifest: Manifest) -> dict[str, object]:
    """``values`` with zeros behind arrays that have fewer steps than the graphs take, equally many in every modality.

    What is no such array is left to the check of features.

    Raises:
        InputError: The modalities have different numbers of steps, or something is masked or no array.
    """
    arrays = {name: as_array(name, value) for name, value in values.items() if name in manifest.inputs and value is not None}
    counts = {name: array.shape[-2] for name, array in arrays.items() if array.ndim in (2, 3)}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"the modalities have different numbers of steps ({said}); give one step of each at a time")
    found = dict(values)
    for name, count in counts.items():
        array, missing = arrays[name], manifest.inputs[name].steps - count
        if missing > 0 and array.dtype.kind in "fiu":
            found[name] = np.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, missing), (0, 0)])
    return found


def with_steps(feed: Feed, manifest: Manifest) -> Feed:
    """``feed`` with ``steps``: zeros at the end of every modality are padding.

    Raises:
        InputError: A sample has fewer steps than the kernel, so nothing of it can be answered.
    """
    steps, kernel = steps_of(feed), manifest.model.kernels.text
    if (steps < kernel).any():
        sample = int((steps < kernel).argmax())
        raise InputError(
            f"sample {sample} has {steps[sample]} steps; the model needs at least {kernel}, those under its kernel"
        )
    return {**feed, "steps": steps}
