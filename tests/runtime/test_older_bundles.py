"""Bundles that an earlier version wrote open, and answer as they did."""

import pytest

from dmdkit.runtime import Runtime
from tests.older_files import BUNDLES, GRAPHS, WORDS, assert_same_as_then, inputs_of

FIELDS = ("logit_homo", "logit_hetero", "edges_homo", "edges_hetero")


@pytest.mark.parametrize(("name", "precision"), GRAPHS)
def test_a_bundle_of_0_1_gives_the_same_bits(name: str, precision: str) -> None:
    samples = inputs_of(name)
    with Runtime.open(BUNDLES / name, graph=precision, backend="onnxruntime", device="cpu") as runtime:
        why = runtime.explain(**samples)
        found = {"score": runtime.predict(**samples).score, "explain_score": why.score}
        assert runtime.self_check().passed
    assert_same_as_then(name, precision, found | {field: getattr(why, field) for field in FIELDS})


def test_a_bundle_of_0_1_with_a_text_encoder_takes_words() -> None:
    pytest.importorskip("tokenizers", reason="the extra text is not installed")
    samples = inputs_of("words")
    with Runtime.open(BUNDLES / "words", graph="fp32", backend="onnxruntime", device="cpu") as runtime:
        score = runtime.predict(text=WORDS, audio=samples["audio"][:2], vision=samples["vision"][:2]).score
    assert_same_as_then("words", "fp32", {"score_of_words": score})
