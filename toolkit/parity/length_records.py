"""Parity of text graphs at single lengths of a sentence: the hops show all lengths that samples have, mixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from dmdkit.data.dataset import Split, TokenArray
from dmdkit.data.tokenise import encode_tokens
from dmdkit.parity.compare import COMPRESSED_P99_ERROR_SD, CPP_MAX_ERROR, HopRecord
from dmdkit.parity.cpp_runner import CppRunner
from dmdkit.parity.text_hops import pair_of
from dmdkit.runtime.batching import infer_batched
from dmdkit.runtime.bundle import Bundle, Golden
from dmdkit.runtime.open_graph import open_runner
from dmdkit.runtime.self_check import FP32_MAX_ERROR
from dmdkit.runtime.text.encoder import layout_of
from dmdkit.runtime.text.tokenizer import lay_out

__all__ = ["LENGTHS", "LengthRecord", "length_records", "sentences_of", "text_output_sd"]

Array = npt.NDArray[np.float32]

LENGTHS = (3, 8, 15, 30, 50)
"""Tokens, special ones included; the bundle's longest stands in for those beyond it."""

SAMPLES = 16
"""Sentences of each length: enough to see a graph that goes wrong at one, too few to prove it by themselves."""


class LengthRecord(BaseModel):
    """One text graph on sentences of one length, each by itself, judged by the score behind ``fusion.fp32``.

    Attributes:
        source: What it is compared with: for ``text.fp32`` itself on the same sentences padded to the longest; for a lowering
            ``text.fp32`` on the same sentences; for C++ (``...@cpp``) the same graphs in Python.
        target: The graph.
        tokens: Length of the sentences.
        samples: Number of sentences.
        error: Of the scores; the largest for fp32 and C++, the root mean square for a lowering: so few sentences have no 99th
            percentile, and their root mean square is held to the same bound. None: they are missing or not finite.
        limit: Largest ``error`` that passes.
        status: A failure is one of the graph, and a pass is no proof.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    target: str
    tokens: int
    samples: int
    error: float | None
    limit: float
    status: Literal["passed", "failed"]


def sentences_of(rows: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """``SAMPLES`` sentences of ``length`` tokens, evenly chosen from ``rows``.

    A longer one loses what stands before its last token, as in truncation; a shorter one goes on with the tokens of the
    sentences after it.

    Args:
        rows: Token ids of each sentence, special tokens included, 2 or more.
        length: Tokens of every sentence that comes out, 3 or more.
    """
    places = np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).round().astype(np.int64)
    found = []
    for place in places.tolist():
        inner = list(rows[place][1:-1])
        for step in range(1, len(rows) + 1):
            if len(inner) >= length - 2:
                break
            inner += rows[(place + step) % len(rows)][1:-1]
        while inner and len(inner) < length - 2:
            inner += inner
        if inner:
            found.append([rows[place][0], *inner[: length - 2], rows[place][-1]])
    return found


def text_output_sd(hops: Sequence[HopRecord]) -> float:
    """Standard deviation of the score on the samples that text graphs were measured on; 0 where none was."""
    return max((hop.output_sd or 0.0 for hop in hops if hop.target.startswith("text.")), default=0.0)


def _records(
    source: str, target: str, before: Mapping[int, Array], after: Mapping[int, Array], limit: float, *, largest: bool
) -> list[LengthRecord]:
    found = []
    for tokens, expected in before.items():
        if after[tokens].shape == expected.shape:
            error = np.abs(after[tokens].astype(np.float64) - expected)
            value = float(error.max() if largest else np.sqrt(np.square(error).mean()))
        else:
            value = float("nan")
        good = np.isfinite(value) and value <= limit
        found.append(
            LengthRecord(
                source=source,
                target=target,
                tokens=tokens,
                samples=len(expected),
                error=value if np.isfinite(value) else None,
                limit=limit,
                status="passed" if good else "failed",
            )
        )
    return found


def length_records(
    bundle: Bundle,
    golden: Golden,
    split: Split | None,
    native: CppRunner | None,
    on_step: Callable[[], None],
    *,
    output_sd: float = 0.0,
) -> list[LengthRecord]:
    """Every text graph at every length, in C++ too where there is one; none where graphs have one length.

    Args:
        bundle: An opened bundle.
        golden: Its golden samples.
        split: Samples with tokens; None: the golden ones.
        native: The C++ runtime, or None.
        on_step: Called after each text graph.
        output_sd: Standard deviation of the score on whole samples, which the limits are parts of; sentences of one length
            may have scores that lie nearer together, and then it counts.

    Raises:
        RunnerError: ``native`` gave no usable answer.
    """
    manifest = bundle.manifest
    if manifest.text is None or manifest.text.lengths != "dynamic" or (split is not None and split.tokens is None):
        return []
    fed = golden.unit_inputs["text"]
    recorded = _stacked(fed["input_ids"], fed["attention_mask"])
    given = recorded if split is None or split.tokens is None else split.tokens
    rows = [row for row in (sample[0][sample[1] == 1].tolist() for sample in given) if len(row) > 1]
    layout = layout_of(manifest.text)
    lengths = sorted({min(length, layout.max_tokens) for length in LENGTHS})
    chosen = {length: sentences_of(rows, length) for length in lengths} if rows and lengths[0] >= min(LENGTHS) else {}
    if not all(chosen.values()):
        return []
    batches = {length: lay_out(sentences, layout) for length, sentences in chosen.items()}
    tokens = {length: _stacked(batch.input_ids, batch.attention_mask) for length, batch in batches.items()}
    features = golden.inputs if split is None else split.features()

    def others(count: int) -> dict[str, Array]:
        return {name: np.resize(array, (count, *array.shape[1:])) for name, array in features.items() if name != "text"}

    with open_runner(bundle, "fusion.fp32") as fusion:

        def scores(encoded: Mapping[int, Array]) -> dict[int, Array]:
            return {
                length: infer_batched(fusion.infer, {**others(len(text)), "text": text}, 1)["score"]
                for length, text in encoded.items()
            }

        with open_runner(bundle, "text.fp32") as runner:
            padded = scores({n: np.concatenate([runner.infer(row)["text"] for row in _each(t)]) for n, t in tokens.items()})
            base = scores({length: encode_tokens(runner, array) for length, array in tokens.items()})
        on_step()
        sd = max(output_sd, float(np.concatenate(list(base.values())).std()))
        found = _records("text.fp32, padded", "text.fp32", padded, base, FP32_MAX_ERROR * max(1.0, sd), largest=True)
        for name, graph in manifest.graphs.items():
            if graph.kind != "text" or name == "text.fp32":
                continue
            with open_runner(bundle, name) as runner:
                after = scores({length: encode_tokens(runner, array) for length, array in tokens.items()})
            found += _records("text.fp32", name, base, after, COMPRESSED_P99_ERROR_SD * sd, largest=False)
            on_step()
    for precision in ("fp32", "int8-cpu") if native is not None else ():
        assert native is not None
        text, fused = f"text.{precision}", f"fusion.{precision}"
        if text in manifest.graphs and fused in manifest.graphs:
            found += _in_cpp(bundle, native, precision, chosen, tokens, others)
            on_step()
    return found


def _stacked(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> TokenArray:
    return np.stack([ids, mask], axis=1)


def _each(tokens: TokenArray) -> list[dict[str, npt.NDArray[np.int64]]]:
    """The inputs of a text graph, sentence by sentence, padding and all."""
    return [{"input_ids": row[None, 0].copy(), "attention_mask": row[None, 1].copy()} for row in tokens]


def _in_cpp(
    bundle: Bundle,
    native: CppRunner,
    precision: str,
    chosen: Mapping[int, list[list[int]]],
    tokens: Mapping[int, TokenArray],
    others: Callable[[int], dict[str, Array]],
) -> list[LengthRecord]:
    """The ids of all sentences through the C++ runtime in one run, against Python's answers.

    None where the two have different ONNX Runtimes, which says nothing about the language.
    """
    with open_runner(bundle, f"text.{precision}") as encoder, open_runner(bundle, f"fusion.{precision}") as fusion:
        backend = fusion.backend
        here = {
            length: infer_batched(fusion.infer, {**others(len(array)), "text": encode_tokens(encoder, array)}, 1)["score"]
            for length, array in tokens.items()
        }
    parts = [others(len(sentences)) for sentences in chosen.values()]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    answers = native.run_words(bundle, precision, [row for sentences in chosen.values() for row in sentences], joined)
    if answers.backend != backend:
        return []
    there, start = {}, 0
    for length, sentences in chosen.items():
        there[length] = answers.outputs.get("score", np.empty(0, np.float32))[start : start + len(sentences)]
        start += len(sentences)
    pair = pair_of(precision)
    return _records(pair, f"{pair}@cpp", here, there, CPP_MAX_ERROR, largest=True)
