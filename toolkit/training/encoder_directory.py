"""A text encoder's directory: read from where the user has it, written into a run, and applied to a feature file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dmdkit.config import PaddedSteps, RunConfig, TextEncoderConfig, TokensFrom
from dmdkit.data.dataset import Dataset, Split
from dmdkit.data.padding import PaddingSide
from dmdkit.data.tokenise import tokenised
from dmdkit.errors import BundleError, ConfigError, RunError, WeightsError
from dmdkit.files import sha256_of_bytes, write_bytes, write_json
from dmdkit.model.published import read_tensors
from dmdkit.model.text_encoder import BertShape, TextEncoder, bert_shape
from dmdkit.runtime.text.tokenizer import Layout, SentenceTokenizer, read_tokenizer
from dmdkit.training.checkpoint import model_bytes
from dmdkit.training.run import TEXT_DIR, Run, TextFacts

__all__ = [
    "EncoderDirectory",
    "TrainingEncoder",
    "encoded",
    "encoded_split",
    "encoder_sha256",
    "read_encoder_directory",
    "run_dataset",
    "run_encoder",
    "text_facts",
    "with_tokens",
    "write_encoder_directory",
]

CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE = "config.json", "tokenizer.json", "model.safetensors"
_OTHER_WEIGHTS = "pytorch_model.bin"
_MAX_CONFIG_BYTES = 1 << 20
_BATCH = 64


@dataclass(frozen=True)
class EncoderDirectory:
    """A text encoder in Hugging Face layout.

    Attributes:
        path: The directory.
        shape: What ``config.json`` says.
        tokenizer: ``tokenizer.json``, without padding and truncation of its own.
    """

    path: Path
    shape: BertShape
    tokenizer: bytes

    def layout(self, max_tokens: int, padded_steps: PaddedSteps) -> Layout:
        """How its tokens fill T steps."""
        vocabulary = self.shape.vocab_size
        return Layout(max_tokens, self.shape.pad_token_id, "left" if padded_steps == "zero" else "right", vocabulary)

    def sentence_tokenizer(self, max_tokens: int, padded_steps: PaddedSteps) -> SentenceTokenizer:
        """Its tokenizer for T tokens.

        Raises:
            ConfigError: The encoder has fewer positions.
        """
        if max_tokens > self.shape.max_position_embeddings:
            raise ConfigError(
                f"text_encoder.max_tokens={max_tokens}: {self.path} has {self.shape.max_position_embeddings} positions"
            )
        return SentenceTokenizer(self.tokenizer, self.layout(max_tokens, padded_steps), str(self.path / TOKENIZER_FILE))

    def encoder(self, padded_steps: PaddedSteps, *, weights: dict[str, torch.Tensor] | None = None) -> TextEncoder:
        """The encoder in evaluation mode, with the directory's weights or with ``weights``.

        Raises:
            WeightsError: The weights are missing, damaged, or do not fit ``config.json``.
        """
        source = self.path / WEIGHTS_FILE
        if weights is None:
            if not source.is_file() and (self.path / _OTHER_WEIGHTS).is_file():
                source = self.path / _OTHER_WEIGHTS
            weights = read_tensors(source)
        return TextEncoder.from_weights(self.shape, padded_steps, weights, str(source))


def read_encoder_directory(path: Path) -> EncoderDirectory:
    """A directory in Hugging Face layout; a ``vocab.txt`` alone stands for a ``tokenizer.json``.

    Raises:
        ConfigError: It is not such a directory.
        WeightsError: ``config.json`` is damaged or describes no BERT.
        MissingDependencyError: The tokenizers library is not installed.
    """
    if not path.is_dir():
        raise ConfigError(f"text_encoder: {path}: no such directory; give the local directory of a BERT in Hugging Face layout")
    config = path / CONFIG_FILE
    try:
        if config.stat().st_size > _MAX_CONFIG_BYTES:
            raise WeightsError(f"{config}: larger than {_MAX_CONFIG_BYTES} bytes, so it is no config")
        values = json.loads(config.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise ConfigError(f"text_encoder: {path}: {CONFIG_FILE} is missing; it is not in Hugging Face layout") from cause
    except (OSError, ValueError, RecursionError) as cause:
        raise WeightsError(f"{config}: cannot be read: {cause!s:.200}") from cause
    return EncoderDirectory(path, bert_shape(values, str(config)), _tokenizer_bytes(path))


def _tokenizer_bytes(path: Path) -> bytes:
    file, vocabulary = path / TOKENIZER_FILE, path / "vocab.txt"
    try:
        if file.is_file():
            tokenizer = read_tokenizer(file.read_bytes(), str(file))
        elif vocabulary.is_file():
            settings = path / "tokenizer_config.json"
            said = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
            from tokenizers import BertWordPieceTokenizer

            tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=bool(said.get("do_lower_case", True)))
        else:
            raise ConfigError(f"text_encoder: {path}: neither {TOKENIZER_FILE} nor vocab.txt is there")
        return str(tokenizer.to_str()).encode()
    except BundleError as cause:
        raise ConfigError(f"text_encoder: {cause}") from cause
    except (OSError, ValueError, AttributeError, ImportError) as cause:
        raise ConfigError(f"text_encoder: {path}: its tokenizer cannot be read: {cause!s:.200}") from cause


def write_encoder_directory(path: Path, encoder: TextEncoder, tokenizer: bytes) -> None:
    """Writes an encoder in Hugging Face layout, the weights last, each file atomically.

    Raises:
        RunError: It cannot be written.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as cause:
        raise RunError(f"cannot write {path}: {cause.strerror or cause}") from cause
    write_json(path / CONFIG_FILE, encoder.config(), RunError)
    write_bytes(path / TOKENIZER_FILE, tokenizer, RunError)
    write_bytes(path / WEIGHTS_FILE, model_bytes(encoder.weights()), RunError)


def encoder_sha256(encoder: TextEncoder) -> str:
    """SHA-256 of the encoder's weights as a run stores them."""
    return sha256_of_bytes(model_bytes(encoder.weights()))


def with_tokens(dataset: Dataset, tokenizer: SentenceTokenizer, tokens_from: TokensFrom) -> Dataset:
    """``dataset`` with the tokens of every sample, and a note where sentences were cut.

    Raises:
        DataError: It has no text the encoder can read.
    """
    splits, notes = {}, list(dataset.notes)
    for name, split in dataset.splits.items():
        found = tokenised(split, tokenizer, dataset.source, tokens_from)
        splits[name] = found.split
        if found.truncated:
            steps = tokenizer.layout.max_tokens
            notes.append(f"{name}: {found.truncated} of {len(split)} sentences are longer than {steps} tokens and were cut")
    return replace(dataset, splits=splits, notes=tuple(notes))


def encoded_split(split: Split, encoder: nn.Module, device: torch.device | str = "cpu") -> Split:
    """``split`` with ``text`` as a :class:`TextEncoder`, bare or wrapped, makes it from its tokens, float32 (N, T, D)."""
    assert split.tokens is not None, "tokens come first"
    training = encoder.training
    encoder.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(split), _BATCH):
            tokens = torch.from_numpy(split.tokens[start : start + _BATCH]).to(device)
            parts.append(encoder(tokens[:, 0], tokens[:, 1]).float().cpu())
    encoder.train(training)
    return replace(split, text=torch.cat(parts).numpy())


def encoded(dataset: Dataset, encoder: TextEncoder, device: torch.device | str = "cpu", *, keep: bool = False) -> Dataset:
    """``dataset``, which has tokens, with the encoder's features as its text.

    Args:
        dataset: With tokens.
        encoder: The text encoder.
        device: Where it computes.
        keep: Whether features computed on a CPU are kept on disk, and read again by the next command.
    """
    from dmdkit.training.encoded_features import kept_or_encoded

    side: PaddingSide = "left" if encoder.padded_steps == "zero" else "none"
    cached = keep and torch.device(device).type == "cpu"
    splits = {
        name: kept_or_encoded(split, encoder) if cached else encoded_split(split, encoder, device)
        for name, split in dataset.splits.items()
    }
    return replace(dataset, splits=splits, padding_side={**dataset.padding_side, "text": side})


def text_facts(config: TextEncoderConfig) -> TextFacts:
    """What a run keeps of the encoder's settings."""
    return TextFacts(
        max_tokens=config.max_tokens,
        padded_steps=config.padded_steps,
        fine_tuned=config.fine_tune,
        tokens_from=config.tokens_from,
        source=Path(config.path).name,
    )


def run_encoder(run: Run, device: torch.device | str = "cpu") -> tuple[TextEncoder, SentenceTokenizer]:
    """The text encoder of a run that has one, with its tokenizer.

    Raises:
        RunError: Its directory is damaged.
    """
    facts = run.facts.text
    assert facts is not None, "only a run with an encoder is asked for it"
    try:
        directory = read_encoder_directory(run.path / TEXT_DIR)
        tokenizer = directory.sentence_tokenizer(facts.max_tokens, facts.padded_steps)
        encoder = directory.encoder(facts.padded_steps)
    except (ConfigError, WeightsError, BundleError) as cause:
        raise RunError(f"{run.path}: damaged: {cause}") from cause
    return encoder.to(device), tokenizer


def run_dataset(run: Run, dataset: Dataset, device: torch.device | str = "cpu") -> Dataset:
    """``dataset`` as the model of ``run`` takes it: with its encoder's features, or as it is where it has no encoder.

    Raises:
        DataError: The dataset has no text the encoder can read.
        RunError: The encoder is damaged.
    """
    if run.facts.text is None:
        return dataset
    encoder, tokenizer = run_encoder(run, device)
    return encoded(
        with_tokens(dataset, tokenizer, run.facts.text.tokens_from), encoder, device, keep=not run.facts.text.fine_tuned
    )


@dataclass(frozen=True)
class TrainingEncoder:
    """A recipe's text encoder while it trains.

    Attributes:
        settings: The recipe's section.
        directory: Where it came from.
        encoder: The text encoder, with the weights it came with until training changes them.
    """

    settings: TextEncoderConfig
    directory: EncoderDirectory
    encoder: TextEncoder

    @classmethod
    def of(cls, config: RunConfig) -> TrainingEncoder | None:
        """The encoder of a recipe that has one."""
        if config.text_encoder is None:
            return None
        directory = read_encoder_directory(Path(config.text_encoder.path))
        return cls(config.text_encoder, directory, directory.encoder(config.text_encoder.padded_steps))

    def prepare(self, config: RunConfig, dataset: Dataset, *, resume: bool) -> tuple[RunConfig, Dataset]:
        """The config as the run records it, and the dataset with tokens and the encoder's features as they begin."""
        sha256 = encoder_sha256(self.encoder)
        if resume and self.settings.sha256 not in (None, sha256):
            raise RunError(f"{self.directory.path} is not the text encoder the run began with (its SHA-256 differs)")
        recorded = self.settings.model_copy(update={"sha256": sha256, "path": str(self.directory.path.resolve())})
        tokenizer = self.directory.sentence_tokenizer(self.settings.max_tokens, self.settings.padded_steps)
        with_text = with_tokens(dataset, tokenizer, self.settings.tokens_from)
        return config.model_copy(update={"text_encoder": recorded}), encoded(
            with_text, self.encoder, keep=not self.settings.fine_tune
        )
