"""The encoder computes what Hugging Face's BertModel computes, and takes only weights that are such a model's."""

from __future__ import annotations

import pytest
import torch

from dmdkit.errors import WeightsError
from dmdkit.model.text_encoder import BertShape, TextEncoder, bert_shape
from tests.text_builders import TINY_SHAPE

pytest.importorskip("transformers", reason="the extra text is not installed")


def tokens(lengths: list[int], steps: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids, mask = torch.zeros(len(lengths), steps, dtype=torch.int64), torch.zeros(len(lengths), steps, dtype=torch.int64)
    for row, length in enumerate(lengths):
        place = slice(steps - length, steps) if side == "left" else slice(0, length)
        ids[row, place] = torch.randint(1, TINY_SHAPE.vocab_size, (length,), generator=generator)
        mask[row, place] = 1
    return ids, mask


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {k: v + 0.3 * torch.randn_like(v) for k, v in TextEncoder(TINY_SHAPE, "zero").weights().items()}


def encoder(weights: dict[str, torch.Tensor], padded_steps: str) -> TextEncoder:
    return TextEncoder.from_weights(TINY_SHAPE, padded_steps, weights, "here")  # type: ignore[arg-type]


def published(weights: dict[str, torch.Tensor]):
    """Hugging Face's own model, loaded by its own means."""
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**TINY_SHAPE.model_dump(exclude={"model_type"})), add_pooling_layer=False)
    model.load_state_dict(weights, strict=False)
    return model.eval()


def test_padding_as_published_gives_bert_models_hidden_states(weights):
    ids, mask = tokens([3, 8, 5], 8, "right")
    with torch.no_grad():
        found = encoder(weights, "encoded")(ids, mask)
        expected = published(weights)(ids, mask, torch.zeros_like(ids)).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (found[0, -1] != 0).any()


def test_zeroed_padding_comes_first_and_changes_no_token(weights):
    ids, mask = tokens([3, 8, 5], 8, "left")
    with torch.no_grad():
        found = encoder(weights, "zero")(ids, mask)
        for row, length in enumerate([3, 8, 5]):
            alone = published(weights)(ids[row : row + 1, -length:]).last_hidden_state[0]
            torch.testing.assert_close(found[row, -length:], alone, rtol=0, atol=1e-5)
            assert not found[row, : 8 - length].any()


@pytest.mark.parametrize("prefix", ["", "bert.", "text_model.model.", "model."])
def test_weights_inside_larger_checkpoints_and_with_old_names_are_understood(weights, prefix):
    old = {prefix + k.replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in weights.items()}
    old[f"{prefix}pooler.dense.weight"] = torch.zeros(16, 16)
    old[f"{prefix}embeddings.position_ids"] = torch.arange(32)[None]
    found = encoder(old, "zero").weights()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_every_key_that_does_not_fit_is_named(weights):
    broken = dict(weights)
    del broken["embeddings.LayerNorm.bias"]
    broken["encoder.layer.2.output.dense.bias"] = torch.zeros(16)
    broken["embeddings.word_embeddings.weight"] = torch.zeros(3, 16)
    broken["embeddings.LayerNorm.weight"] = torch.full((16,), torch.nan)
    with pytest.raises(WeightsError, match="4 keys") as caught:
        encoder(broken, "zero")
    assert "missing: embeddings.LayerNorm.bias" in str(caught.value)
    assert "unexpected: encoder.layer.2.output.dense.bias" in str(caught.value)
    assert "misshapen: embeddings.word_embeddings.weight is (3, 16), expected (23, 16)" in str(caught.value)
    assert "not finite: embeddings.LayerNorm.weight" in str(caught.value)


def test_sizes_no_tensor_bears_out_are_refused_before_they_are_allocated(weights):
    huge = TINY_SHAPE.model_copy(update={"vocab_size": 1 << 23, "hidden_size": 1 << 22})  # 128 TiB
    with pytest.raises(WeightsError, match="misshapen"):
        TextEncoder.from_weights(huge, "zero", weights, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "a text encoder is a BERT"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_size": 15}, "does not divide"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"pad_token_id": 99}, "pad_token_id"),
        ({"hidden_act": "swish"}, "hidden_act"),
        ({"is_decoder": True}, "is_decoder"),
    ],
)
def test_what_is_no_plain_bert_is_refused(change, message):
    with pytest.raises(WeightsError, match=message):
        bert_shape({**TINY_SHAPE.model_dump(), **change}, "config.json")


@pytest.mark.parametrize("values", [None, [], "bert", {}, {"model_type": "bert"}])
def test_what_is_no_config_is_refused(values):
    with pytest.raises(WeightsError, match=r"config\.json"):
        bert_shape(values, "config.json")


def test_keys_of_a_config_that_decide_nothing_are_ignored():
    assert bert_shape({**TINY_SHAPE.model_dump(), "use_cache": True, "transformers_version": "4"}, "c") == TINY_SHAPE
    assert isinstance(TINY_SHAPE, BertShape)
