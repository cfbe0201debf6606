"""Chooses calibration samples, from training data only, and refuses data that would calibrate a lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmdkit.calibration.coverage import cover, observed_share
from dmdkit.data import Dataset, Split, same_samples, sample_hashes
from dmdkit.data.fingerprints import Fingerprints
from dmdkit.data.overlap import ids_are_names, ids_are_row_numbers, stands_in
from dmdkit.errors import CalibrationError
from dmdkit.files import sha256_of_bytes
from dmdkit.parity.compare import MIN_VERIFIED_SAMPLES
from dmdkit.parity.held_out import CalibrationSamples
from dmdkit.parity.int8_report import CoverageRecord
from dmdkit.runtime.inputs import OUT_OF_RANGE_SHARE, RangeGuard
from dmdkit.runtime.manifest import CalibrationRecord, InputRecord

__all__ = [
    "DEFAULT_CALIBRATION_SAMPLES",
    "MIN_CALIBRATION_SAMPLES",
    "CalibrationSet",
    "calibration_set",
    "search_samples",
]

MIN_CALIBRATION_SAMPLES = 32
"""Below this a range is luck: the largest activation of few samples says little about the next one."""

DEFAULT_CALIBRATION_SAMPLES = 128

MIN_RANGE_SEEN = 0.25
"""Mean over columns of the calibration range over the run's training range. Any 32 of the 469 training utterances of CMU-MOSI
show more than twice as much in every modality (docs/int8.md); features ten times too small show a tenth."""

_LABEL_PARTS = 3

MAX_SEARCH_SAMPLES = 128
"""Layers are ranked on at most so many samples: a few hundred evaluations of each are made."""


@dataclass(frozen=True)
class CalibrationSet:
    """The chosen samples.

    Attributes:
        split: The calibration samples.
        data_sha256: Hash of the file they came from.
        coverage: Which labels, extremes and absent modalities the samples cover.
        ids_are_names: Whether an id of theirs names one sample in every split of that file.
    """

    split: Split
    data_sha256: str
    coverage: CoverageRecord
    ids_are_names: bool = True

    def samples(self) -> CalibrationSamples:
        """What a bundle keeps of the samples, so that no verdict rests on them."""
        known = dict(zip(self.split.ids, sample_hashes(self.split), strict=True))
        return CalibrationSamples(ids_are_names=self.ids_are_names, samples=known)

    def fingerprints(self) -> Fingerprints:
        """What a bundle keeps besides, to know the samples where they were rounded or scaled."""
        return Fingerprints.of(self.split, ids_are_names=self.ids_are_names)

    def record(self, method: str, used_by: Iterable[str]) -> CalibrationRecord:
        """What the manifest keeps of it."""
        hashes = sample_hashes(self.split)
        return CalibrationRecord(
            method=method,
            sample_ids=list(self.split.ids),
            content_sha256=sha256_of_bytes("".join(hashes).encode()),
            data_sha256=self.data_sha256,
            used_by=sorted(used_by),
        )


def _spread_over_labels(split: Split, count: int) -> npt.NDArray[np.int64]:
    """Indices of ``count`` samples spread evenly over the sorted labels, so that no part of the range is left out."""
    order = np.argsort(split.labels, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(np.int64)]
    return np.sort(np.unique(chosen)).astype(np.int64)


def _check_overlap(chosen: Split, held_out: Mapping[str, Split], source: str, *, by_name: bool) -> None:
    """Refuses samples that also stand in held-out data: by content, and by name where names say something."""
    ids = set(chosen.ids) if by_name else set()
    for name, split in held_out.items():
        advice = "calibrate with training samples only, or the parity would be measured on what was calibrated"
        if name == "train":
            advice = "these are training samples: measure parity on held-out ones (--parity-split, --parity-data)"
        shared = [] if ids_are_row_numbers(split.ids) else [sample for sample in split.ids if sample in ids]
        if shared:
            raise CalibrationError(
                f"{source}: calibration sample {shared[0]!r} also stands in the {name} data ({len(shared)} shared ids); "
                f"{advice}"
            )
        same = same_samples(chosen, split)
        if same:
            raise CalibrationError(
                f"{source}: calibration sample {same[0][0]!r} has the same features as {same[0][1]!r} in the {name} data "
                f"({len(same)} such pairs); {advice}"
            )


def _check_kind(dataset: Dataset, split: Split, inputs: Mapping[str, InputRecord]) -> None:
    for name, record in inputs.items():
        shape = split.features()[name].shape[1:]
        if shape != (record.steps, record.features):
            raise CalibrationError(
                f"{dataset.source}: {name} has {shape[0]} steps of {shape[1]} features, the run was trained on "
                f"{record.steps} of {record.features}; calibrate with the run's own training data"
            )
    for name, share in RangeGuard(inputs).shares(split.features()).items():
        if share >= OUT_OF_RANGE_SHARE:
            raise CalibrationError(
                f"{dataset.source}: {share:.0%} of the {name} values lie outside the run's training range; these are "
                "features of another kind or scale: calibrate with the run's own training data"
            )
    for name, array in split.features().items():
        record = inputs[name]
        if array.any() and len(split) > 1 and (array == array[:1]).all():
            raise CalibrationError(
                f"{dataset.source}: {name} is the same in every calibration sample; a range seen once says nothing: calibrate "
                "with the run's own training data"
            )
        if array.any() and record.minimum is not None and record.maximum is not None:
            seen = observed_share(array, record.minimum, record.maximum)
            if seen < MIN_RANGE_SEEN:
                raise CalibrationError(
                    f"{dataset.source}: {name} shows {seen:.0%} of the run's training range, at least {MIN_RANGE_SEEN:.0%} is "
                    "needed; these are features of another kind or scale: calibrate with the run's own training data"
                )
        if not array.any() and not inputs[name].trained_absent:
            raise CalibrationError(
                f"{dataset.source}: {name} is all zero in every calibration sample, but the run was trained with it; "
                "calibrate with samples that have every modality"
            )


def _check_labels(dataset: Dataset, split: Split, label_range: tuple[float, float] | None, classes: int | None) -> None:
    """Refuses labels of one kind: activations of the others would never be seen."""
    labels = split.labels
    if dataset.task == "classification":
        missing = sorted(set(range(classes or dataset.num_classes or 0)) - set(map(int, labels)))
        if missing:
            raise CalibrationError(
                f"{dataset.source}: no calibration sample of class {', '.join(map(str, missing))}; calibrate with every class"
            )
        return
    known = label_range or dataset.label_range
    assert known is not None, "a regression set has a label range"
    low, high = known
    width = (high - low) / _LABEL_PARTS
    for part in range(_LABEL_PARTS):
        start, end = low + part * width, low + (part + 1) * width
        if not ((labels >= start) & (labels <= end)).any():
            raise CalibrationError(
                f"{dataset.source}: no calibration sample is labelled between {start:g} and {end:g}, a part of the label range "
                f"{low:g} to {high:g}; calibrate with samples of every kind"
            )


def calibration_set(
    dataset: Dataset,
    inputs: Mapping[str, InputRecord],
    *,
    held_out: Mapping[str, Split] | None = None,
    count: int = DEFAULT_CALIBRATION_SAMPLES,
    own_sha256: str | None = None,
    label_range: tuple[float, float] | None = None,
    classes: int | None = None,
) -> CalibrationSet:
    """Samples of the training split of ``dataset`` that cover its labels, its extremes and its empty modalities.

    Args:
        dataset: The feature file given for calibration.
        inputs: What the run takes, with its training ranges where they are known.
        held_out: Further samples that must not be calibrated on (the parity data), by name.
        count: Largest number of samples.
        own_sha256: Hash of the file the run was trained on, if known; other files must show enough of the labels.
        label_range: Of the run, for a regression; None: the file's own.
        classes: Of the run, for classes; None: the file's own.

    Raises:
        CalibrationError: No training split, too few samples, samples that are also held out (by id or by content), features
            whose shape or range cannot be the run's or that hardly vary, or labels of one kind only.
    """
    if "train" not in dataset.splits:
        raise CalibrationError(
            f"{dataset.source}: no train split to calibrate with (it has {', '.join(dataset.splits)}); held-out samples "
            "must not be used"
        )
    train = dataset.splits["train"]
    if len(train) < MIN_CALIBRATION_SAMPLES or count < MIN_CALIBRATION_SAMPLES:
        raise CalibrationError(
            f"{dataset.source}: {min(len(train), count)} calibration samples, at least {MIN_CALIBRATION_SAMPLES} are needed"
        )
    _check_kind(dataset, train, inputs)
    if dataset.sha256 != own_sha256:  # the run's own data is what it is
        _check_labels(dataset, train, label_range, classes)
    indices, coverage = cover(train, count)
    chosen = train.take(indices)
    own = {name: split for name, split in dataset.splits.items() if name != "train"}
    by_name = ids_are_names(dataset.splits)
    _check_overlap(chosen, {**own, **(held_out or {})}, dataset.source, by_name=by_name)
    return CalibrationSet(chosen, dataset.sha256, coverage, by_name)


def _left(split: Split, held_out: Iterable[Split], *, by_name: bool, used: Iterable[str] = ()) -> Split:
    """``split`` without the samples that are held out, and without those of these ids."""
    known = set(used)
    out = np.array([sample in known for sample in split.ids], np.bool_)
    for other in held_out:
        out |= stands_in(split, other, by_name=by_name)
    return split.take(np.flatnonzero(~out))


def search_samples(
    dataset: Dataset,
    calibration: CalibrationSet,
    *,
    held_out: Mapping[str, Split] | None = None,
    count: int = MAX_SEARCH_SAMPLES,
) -> tuple[str, Split]:
    """Name and samples to rank layers and choose methods on: neither calibrated on nor what parity is measured on.

    What the parity data leaves of the validation split where that is enough to judge by; else training samples that were not
    calibrated on, and where there are none of those either, the calibration samples themselves (the name says so).

    Args:
        dataset: The feature file given for calibration.
        calibration: The calibration samples chosen from the same data.
        held_out: Samples that must choose nothing (the parity data), by name.
        count: Largest number of samples.
    """
    proof = list((held_out or {}).values())
    if "valid" in dataset.splits:
        valid = _left(dataset.splits["valid"], proof, by_name=calibration.ids_are_names)
        if len(valid) >= MIN_VERIFIED_SAMPLES:
            return "valid", valid.take(_spread_over_labels(valid, count))
    left = _left(dataset.splits["train"], proof, by_name=calibration.ids_are_names, used=calibration.split.ids)
    if len(left) >= MIN_VERIFIED_SAMPLES:
        return "train, without the calibration samples", left.take(_spread_over_labels(left, count))
    return "the calibration samples", calibration.split
