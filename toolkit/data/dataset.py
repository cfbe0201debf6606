"""What every reader returns: three feature arrays, labels and ids per split, checked once and then trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dmdkit.records import MODALITIES, FloatArray, LabelArray, TokenArray

__all__ = ["MODALITIES", "SPLITS", "Dataset", "FloatArray", "LabelArray", "Split", "Task", "TokenArray"]

SPLITS = ("train", "valid", "test")

Task = Literal["regression", "classification"]


@dataclass(frozen=True)
class Split:
    """The samples of one split, in file order.

    Attributes:
        ids: N sample names, unique within the split.
        text: float32 (N, T_text, D_text), padding steps all zero.
        audio: float32 (N, T_audio, D_audio), padding steps all zero.
        vision: float32 (N, T_vision, D_vision), padding steps all zero.
        labels: float32 (N,) for regression, int64 (N,) class numbers from 0 for classification; NaN or -1 for a sample without
            one, where labels were not needed.
        raw_text: N transcripts, where the file has them.
        text_bert: int64 (N, 3, T): token ids, mask and segments as a file of MMSA's has them.
        steps: int64 (N,), how many real steps stand in front of each sample, where padding was moved behind them.
        tokens: int64 (N, 2, T): ids and mask as a text encoder takes them; ``text`` is then what it made of them.
        step_labels: (N, T) of the labels' type, where the file has a label for a sample that ends at a step; NaN or -1 where
            there is none.
    """

    ids: tuple[str, ...]
    text: FloatArray
    audio: FloatArray
    vision: FloatArray
    labels: LabelArray
    raw_text: tuple[str, ...] | None = None
    text_bert: TokenArray | None = None
    tokens: TokenArray | None = None
    steps: TokenArray | None = None
    step_labels: LabelArray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def features(self) -> dict[str, FloatArray]:
        """The three feature arrays by modality, in the order text, audio, vision."""
        return {"text": self.text, "audio": self.audio, "vision": self.vision}

    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        """What a graph takes of these samples: the features and, where the split has them, ``steps``."""
        return dict(self.features()) if self.steps is None else {**self.features(), "steps": self.steps}

    def take(self, indices: npt.NDArray[np.int64]) -> Split:
        """The samples at ``indices``, as a split of their own."""
        return Split(
            ids=tuple(self.ids[int(index)] for index in indices),
            text=self.text[indices],
            audio=self.audio[indices],
            vision=self.vision[indices],
            labels=self.labels[indices],
            raw_text=None if self.raw_text is None else tuple(self.raw_text[int(index)] for index in indices),
            text_bert=None if self.text_bert is None else self.text_bert[indices],
            tokens=None if self.tokens is None else self.tokens[indices],
            steps=None if self.steps is None else self.steps[indices],
            step_labels=None if self.step_labels is None else self.step_labels[indices],
        )


@dataclass(frozen=True)
class Dataset:
    """A feature file after reading and checking.

    Attributes:
        source: The file it came from, as the user named it, or a description of a generated set.
        sha256: SHA-256 of that file.
        task: What the labels are.
        label_range: (low, high) of a regression task, declared or inferred from the training labels; None for classes,
            and where nothing is labelled.
        num_classes: Number of classes, or None for regression.
        padding_side: Per modality "left", "right" or "none", as seen in the data.
        splits: Splits by name; at least one of train, valid, test. All have the same T and D per modality.
        notes: What the reader changed or assumed, one readable sentence each (replaced values, unused keys).
    """

    source: str
    sha256: str
    task: Task
    label_range: tuple[float, float] | None
    num_classes: int | None
    padding_side: Mapping[str, Literal["left", "right", "none"]]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()

    @property
    def num_outputs(self) -> int:
        """C, the outputs per head: 1 for regression, else the number of classes."""
        return self.num_classes or 1

    @property
    def lengths(self) -> dict[str, int]:
        """T_m, steps per modality."""
        first = next(iter(self.splits.values()))
        return {name: array.shape[1] for name, array in first.features().items()}

    @property
    def feature_dims(self) -> dict[str, int]:
        """D_m, feature width per modality."""
        first = next(iter(self.splits.values()))
        return {name: array.shape[2] for name, array in first.features().items()}
