"""What the runtime answers: a prediction, and an explanation of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dmdkit.errors import AnswerError

__all__ = ["Explanation", "Prediction", "require_finite"]

Array = npt.NDArray[np.float32]


def require_finite(graph: str, name: str, values: Array) -> Array:
    """``values``: a robot must not act on what is no number, whatever made it: an overflow, most likely.

    Raises:
        AnswerError: One is not finite.
    """
    if not np.isfinite(values).all():
        raise AnswerError(
            f"{graph}: {name} is not finite for inputs that are; they are larger than the graph's arithmetic holds, or the "
            "graph is broken: run `dmdkit check`"
        )
    return values


@dataclass(frozen=True)
class Prediction:
    """What ``predict`` returns.

    Attributes:
        score: float32 (B, C), or (C,) where the inputs had no batch axis: regression value or raw class logits.
        latency_ms: Time inside ``predict``.
        graph: The graph that answered.
        out_of_range: Modality -> share of its values outside the training range, where that is worth a look.
        truncated: How many sentences were longer than the text encoder reads, and cut.
    """

    score: Array
    latency_ms: float
    graph: str
    out_of_range: dict[str, float] = field(default_factory=dict)
    truncated: int = 0


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` returns; arrays lack the batch axis where the inputs did.

    Attributes:
        score: float32 (B, C).
        logit_homo: float32 (B, 3, C), what each modality's common part says alone; order as in the manifest.
        logit_hetero: float32 (B, 3, C), the same for the exclusive part.
        edges_homo: float32 (B, 6), which modality teaches which; None for a bundle without GD-Units.
        edges_hetero: float32 (B, 6), the same in the exclusive space.
        modality_order: Modalities along the axis of length three.
        edge_order: (student, teacher) per edge.
        latency_ms: Time inside ``explain``.
        graph: The graph that answered.
    """

    score: Array
    logit_homo: Array
    logit_hetero: Array
    edges_homo: Array | None
    edges_hetero: Array | None
    modality_order: tuple[str, ...]
    edge_order: tuple[tuple[str, str], ...]
    latency_ms: float
    graph: str
