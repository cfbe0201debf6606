"""How far streams are from the labels: at the end beside padded windows, and by the share of a sample heard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from dmdkit.data.dataset import Split
from dmdkit.data.real_steps import beginnings, real_split
from dmdkit.data.step_labels import is_labelled
from dmdkit.errors import DataError
from dmdkit.metrics import classification_metrics, regression_metrics
from dmdkit.parity.stream_hops import SAMPLES, stream_answers, window_answers
from dmdkit.runtime.bundle import Bundle

__all__ = ["HeardError", "StreamError", "error_by_share", "stream_error"]

_SHARES = tuple(tenth / 10 for tenth in range(1, 11))


class HeardError(BaseModel):
    """The error of the last answers by the time that a share of each sample was heard.

    Attributes:
        share: Of a sample's steps, above 0 up to 1.
        error: Mean absolute error of the score, or share of wrong classes.
        samples: Number of samples with a label and an answer by then.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(gt=0, le=1)
    error: float
    samples: int


class StreamError(BaseModel):
    """What the answers of streams are worth; empty where samples lack labels.

    Attributes:
        stream_cost: Metrics of padded windows and of streams over the same samples' own steps, of a model trained padded.
        stream_by_share: The error by the share of a sample heard.
        stream_own_labels: Whether each answer was held against the label of its own step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stream_cost: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    stream_by_share: list[HeardError] = Field(default_factory=list)
    stream_own_labels: bool = False


def error_by_share(
    samples: Iterable[Sequence[tuple[int, float | None]]], shares: Sequence[float] = _SHARES
) -> list[HeardError]:
    """The mean error at each share; one without any sample is left out.

    Args:
        samples: Of each sample, (steps heard, error) of every answer, the last at its end; None where there is no label.
        shares: Of the steps heard.
    """
    kept, found = [list(sample) for sample in samples if sample], []
    for share in shares:
        last = [[error for heard, error in sample if heard <= share * sample[-1][0] + 1e-9][-1:] for sample in kept]
        errors = [error for one in last for error in one if error is not None]
        if errors:
            found.append(HeardError(share=share, error=sum(errors) / len(errors), samples=len(errors)))
    return found


def stream_error(bundle: Bundle, split: Split | None) -> StreamError:
    """What streams over the first samples answer; nothing without step graphs, and where samples are too short."""
    manifest = bundle.manifest
    if manifest.stream is None or split is None:
        return StreamError()
    part = split.take(np.arange(min(SAMPLES, len(split))))
    if not is_labelled(part.labels).all():
        return StreamError()
    try:
        own = part if manifest.real_steps else real_split("samples", "", part, manifest.stream.kernel)
    except DataError:
        return StreamError()
    assert own.steps is not None
    answers = stream_answers(bundle, "fp32", own.features(), own.steps, mixed=False)["score"]
    counts = own.steps - manifest.stream.kernel + 1
    wanted = beginnings(own, manifest.stream.kernel)
    if manifest.task == "classification":
        errors: npt.NDArray[np.float64] = (answers.argmax(1) != wanted.labels).astype(np.float64)
    else:
        errors = np.abs(answers[:, 0].astype(np.float64) - wanted.labels)
    known = wanted.known.tolist()
    pairs = [(int(heard), float(e) if there else None) for heard, e, there in zip(wanted.steps, errors, known, strict=True)]
    ends = np.cumsum(counts)
    by_sample = [pairs[end - count : end] for end, count in zip(ends, counts, strict=True)]
    cost = {}
    if not manifest.real_steps:
        scores = {"windows": window_answers(bundle, part)["score"], "streams": answers[ends - 1]}
        for name, found in scores.items():
            if manifest.task == "classification":
                cost[name] = classification_metrics(found, part.labels)
            else:
                cost[name] = regression_metrics(found[:, 0], part.labels, manifest.label_range)
    own_labels = own.step_labels is not None
    return StreamError(stream_cost=cost, stream_by_share=error_by_share(by_sample), stream_own_labels=own_labels)
