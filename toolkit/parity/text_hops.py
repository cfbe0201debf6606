"""Parity of text graphs: tokens in, score out, because what an encoder's error does to the score is what counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from dmdkit.data.dataset import LabelArray, TokenArray
from dmdkit.data.tokenise import encode_tokens
from dmdkit.parity.compare import HopRecord, compare
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.open_graph import open_runner

__all__ = ["pair_of", "text_hops"]

Array = npt.NDArray[np.float32]
Score = Callable[[str, dict[str, Array]], Array]


def pair_of(precision: str) -> str:
    """The name of the hop in which both the text and the fusion graph are of this precision."""
    return f"text.{precision}+fusion.{precision}"


def text_hops(
    bundle: Bundle,
    *,
    tokens: TokenArray,
    features: Mapping[str, Array],
    truth: Array | None,
    truth_is_recorded: bool = False,
    lowerings: bool = True,
    labels: LabelArray | None,
    ids: tuple[str, ...],
    distinct: int | None = None,
    score: Score,
    on_step: Callable[[], None],
) -> list[HopRecord]:
    """Every hop of the text graphs.

    Three kinds: PyTorch to ``text.fp32``; that to each lowering, both in front of ``fusion.fp32``, which isolates the text
    graph; and that to each lowering in front of the fusion graph of the same precision, which is what a robot runs.

    Args:
        bundle: A bundle with a text encoder.
        tokens: int64 (N, 2, T).
        features: Audio and vision features of the samples; its text is not used.
        truth: The PyTorch model's score (N, C); None leaves the first hop out.
        truth_is_recorded: Whether that was computed at export, not now.
        lowerings: Whether the other hops are wanted.
        labels: (N,), or None.
        ids: N sample names.
        distinct: Number of different samples; None: all of them.
        score: A fusion graph's score on features.
        on_step: Called after each text graph.
    """
    manifest = bundle.manifest
    names = [name for name, graph in manifest.graphs.items() if name == "text.fp32" or (lowerings and graph.kind == "text")]
    encoded: dict[str, dict[str, Array]] = {}
    for name in names:
        with open_runner(bundle, name) as runner:
            encoded[name] = {**features, "text": encode_tokens(runner, tokens)}
        on_step()

    def hop(
        source: str, target: str, precision: str, before: Array, after: Array, *, recorded: bool, simulated: bool
    ) -> HopRecord:
        return compare(
            source,
            target,
            {"score": before},
            {"score": after},
            precision=precision,
            task=manifest.task,
            label_range=manifest.label_range,
            labels=labels,
            ids=ids,
            kind="recorded" if recorded else "simulated" if simulated else "measured",
            distinct=distinct,
        )

    base = score("fusion.fp32", encoded["text.fp32"])
    hops = []
    if truth is not None:
        hops.append(hop("pytorch.fp32", "text.fp32", "fp32", truth, base, recorded=truth_is_recorded, simulated=False))
    for name in names:
        graph = manifest.graphs[name]
        if graph.precision == "fp32":
            continue
        simulated = graph.simulated_on_cpu
        alone = score("fusion.fp32", encoded[name])
        hops.append(hop("text.fp32", name, graph.precision, base, alone, recorded=False, simulated=simulated))
        fusion = f"fusion.{graph.precision}"
        if fusion in manifest.graphs:
            both = score(fusion, encoded[name])
            pair = pair_of(graph.precision)
            hops.append(hop("text.fp32", pair, graph.precision, base, both, recorded=False, simulated=simulated))
    return hops
