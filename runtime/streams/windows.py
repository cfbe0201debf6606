"""Windows of models trained on real steps: shorter than the longest, zeros behind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dmdkit.errors import InputError
from dmdkit.records import MODALITIES
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
    """``feed`` with each sample's own steps in front and their number in ``steps``, as the model was trained.

    Steps at either end that are zero in every modality are padding; a silence inside a sample is not.

    Raises:
        InputError: A sample has fewer steps than the kernel, so nothing of it can be answered.
    """
    feed = _own_steps_in_front(feed)
    steps, kernel = steps_of(feed), manifest.model.kernels.text
    ends_in_nothing = ~np.any([feed[name][:, -1].any(axis=1) for name in MODALITIES], axis=0)
    steps[ends_in_nothing & (steps == feed["text"].shape[1])] = 0  # counted as whole because nothing is there
    if (steps < kernel).any():
        sample = int((steps < kernel).argmax())
        raise InputError(
            f"sample {sample} has {steps[sample]} steps; the model needs at least {kernel}, those under its kernel"
        )
    return {**feed, "steps": steps}


def _own_steps_in_front(feed: Feed) -> Feed:
    if feed["text"][:, 0].any(axis=1).all():  # nearly always, and cheap to see
        return feed
    filled = np.any([(feed[name] != 0).any(axis=2) for name in MODALITIES], axis=0)
    first = filled.argmax(axis=1)  # 0 where a sample holds nothing
    if not first.any():
        return feed
    places = first[:, None] + np.arange(filled.shape[1])
    rows, behind = np.arange(len(filled))[:, None], places >= filled.shape[1]
    moved = {}
    for name in MODALITIES:
        moved[name] = feed[name][rows, np.where(behind, 0, places)]
        moved[name][behind] = 0.0
    return {**feed, **moved}
