"""Parity of words between the languages: a string or its token ids in, score out, in C++ and in Python."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dmdkit.data.dataset import Split
from dmdkit.data.tokenise import encode_tokens
from dmdkit.parity.compare import HopRecord
from dmdkit.parity.cpp_runner import CppRunner, cpp_hop
from dmdkit.parity.text_hops import pair_of
from dmdkit.runtime.batching import infer_batched
from dmdkit.runtime.bundle import Bundle, Golden
from dmdkit.runtime.open_graph import open_runner

__all__ = ["words_in_cpp"]


def words_in_cpp(
    bundle: Bundle,
    golden: Golden,
    split: Split | None,
    native: CppRunner | None,
    distinct: int | None,
    on_step: Callable[[], None],
) -> list[HopRecord]:
    """The hops from words to the score in C++, one for each precision that a CPU runs; none where nothing reads words.

    Args:
        bundle: An opened bundle.
        golden: Its golden samples.
        split: Samples with tokens; None: the golden ones. C++ gets transcripts where there are any, as that
            compares the tokenizers too.
        native: The C++ runtime; None: no hop.
        distinct: Number of different samples; None: all of them.
        on_step: Called after each hop.

    Raises:
        RunnerError: ``native`` gave no usable answer.
    """
    manifest = bundle.manifest
    if native is None or manifest.text is None or (split is not None and split.tokens is None):
        return []
    fed = golden.unit_inputs["text"]
    tokens = (
        np.stack([fed["input_ids"], fed["attention_mask"]], axis=1) if split is None or split.tokens is None else split.tokens
    )
    words = (
        [sample[0][sample[1] == 1].tolist() for sample in tokens] if split is None or split.raw_text is None else split.raw_text
    )
    others = {name: array for name, array in (split.features() if split else golden.inputs).items() if name != "text"}
    hops = []
    for precision in ("fp32", "int8-cpu"):
        text, fusion = f"text.{precision}", f"fusion.{precision}"
        if text not in manifest.graphs or fusion not in manifest.graphs:
            continue
        with open_runner(bundle, text) as encoder, open_runner(bundle, fusion) as runner:
            found = encode_tokens(encoder, tokens)
            here = infer_batched(runner.infer, {**others, "text": found}, 1)
        there = native.run_words(bundle, precision, words, others)
        labels, ids = (None, manifest.golden.ids) if split is None else (split.labels, split.ids)
        pair = pair_of(precision)
        hops.append(cpp_hop(pair, here, there, manifest=manifest, labels=labels, ids=ids, distinct=distinct))
        on_step()
    return hops
