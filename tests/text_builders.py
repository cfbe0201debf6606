"""A BERT small enough to train in seconds, a tokenizer with a few words, and samples whose words say their label."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from dmdkit.data import Dataset
from dmdkit.model.text_encoder import BertShape, TextEncoder
from tests.conftest import tiny_dataset

WORDS = ["awful", "bad", "poor", "dull", "plain", "fair", "fine", "good", "great", "superb", "film", "plot", "the", "a", "very"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##ly", ".", ","]
MAX_TOKENS = 8

TINY_SHAPE = BertShape(
    vocab_size=len(VOCABULARY),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
)


def tokenizer_json(vocabulary: list[str] = VOCABULARY) -> str:
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer({word: index for index, word in enumerate(vocabulary)}, lowercase=True)
    tokenizer.enable_padding(length=20)  # which a reader must not obey
    tokenizer.enable_truncation(3)
    return str(tokenizer.to_str())


def write_bert(path: Path, shape: BertShape = TINY_SHAPE, seed: int = 0) -> Path:
    """A directory in Hugging Face layout with random weights."""
    path.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    encoder = TextEncoder(shape, "zero")
    # The customary initialisation leaves so small a model nearly constant.
    state = {name: value + 0.3 * torch.randn_like(value) for name, value in encoder.weights().items()}
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(encoder.config()))
    (path / "tokenizer.json").write_text(tokenizer_json())
    return path


def sentences(labels: np.ndarray, seed: int = 0) -> tuple[str, ...]:
    """A sentence for each label in [-3, 3]: one word says roughly what it is."""
    generator = np.random.default_rng(seed)
    result = []
    for label in labels:
        word = WORDS[int(np.clip(np.round((label + 3) / 6 * 9), 0, 9))]
        others = generator.choice(["film", "plot", "the", "a", "very"], generator.integers(0, 4))
        result.append(" ".join([*others, word]))
    return tuple(result)


def text_dataset() -> Dataset:
    """The tiny set with a transcript for every sample; its text features are noise that nothing may read."""
    dataset = tiny_dataset()
    splits = {
        name: replace(split, raw_text=sentences(split.labels, seed), text=np.full_like(split.text, 7.0))
        for seed, (name, split) in enumerate(dataset.splits.items())
    }
    return replace(dataset, splits=splits)
