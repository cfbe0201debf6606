"""Samples to plan with."""

from __future__ import annotations

from dmdkit.calibration.search.planning import Samples
from dmdkit.data import Split
from dmdkit.parity.compare import HopRecord, compare


def samples_of(split: Split, validation: Split | None = None) -> Samples:
    """One split to calibrate on, and another, or the same, to judge on."""
    judged = validation if validation is not None else split

    def judge(before, after) -> HopRecord:
        return compare(
            "fp32",
            "candidate",
            before,
            after,
            precision="int8-trt",
            task="regression",
            label_range=(-3.0, 3.0),
            labels=judged.labels,
            ids=judged.ids,
        )

    return Samples(split.features(), judged.features(), "validation", judge)
