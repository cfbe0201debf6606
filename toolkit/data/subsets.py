"""What is left of samples whose sensors fail: each of the seven sets of modalities, the others all zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np

from dmdkit.data.dataset import MODALITIES, Split

__all__ = ["modality_subsets"]


def modality_subsets(split: Split) -> Iterator[tuple[str, Split]]:
    """Name and samples of every subset: text, audio, vision, text+audio, ..., text+audio+vision."""
    for count in range(1, len(MODALITIES) + 1):
        for there in combinations(MODALITIES, count):
            left = {name: array if name in there else np.zeros_like(array) for name, array in split.features().items()}
            yield "+".join(there), replace(split, text=left["text"], audio=left["audio"], vision=left["vision"])
