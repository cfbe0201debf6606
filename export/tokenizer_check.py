"""Whether the C++ runtime can read sentences as a tokenizer's file says: asked at export, so that no robot finds out.

The rule is that of ``runtime/cpp/src/text/tokenizer_file.cpp``; ``tests/cpp/test_tokenizer.py`` holds both to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dmdkit.runtime.text.tokenizer import read_tokenizer

__all__ = ["inexpressible"]


def _type(part: Any) -> str:
    return "none" if part is None else str(part.get("type")) if isinstance(part, dict) else "?"


def _model(values: dict[str, Any]) -> Iterator[str]:
    model = values["model"]
    if _type(model) != "WordPiece":
        yield f"model: '{_type(model)}', expected WordPiece"
    elif model.get("unk_token", "[UNK]") not in model["vocab"]:
        yield f"model: its unk_token '{model.get('unk_token', '[UNK]')}' is not in its vocabulary"


def _parts(values: dict[str, Any]) -> Iterator[str]:
    normalizer, pre_tokenizer = values.get("normalizer"), values.get("pre_tokenizer")
    if normalizer is not None and _type(normalizer) != "BertNormalizer":
        yield f"normalizer: '{_type(normalizer)}', expected BertNormalizer"
    if _type(pre_tokenizer) != "BertPreTokenizer":
        yield f"pre_tokenizer: '{_type(pre_tokenizer)}', expected BertPreTokenizer"
    around = values.get("post_processor")
    if around is None or _type(around) == "BertProcessing":
        return
    if _type(around) != "TemplateProcessing":
        yield f"post_processor: '{_type(around)}', expected TemplateProcessing or BertProcessing"
        return
    sequences = [piece["Sequence"]["id"] for piece in around["single"] if "Sequence" in piece]
    if sequences != ["A"]:
        yield "post_processor.single: expected one sequence, A"


def _added(values: dict[str, Any]) -> Iterator[str]:
    normalizer = None
    if values.get("normalizer") is not None:
        from tokenizers import Tokenizer

        normalizer = Tokenizer.from_str(json.dumps(values)).normalizer
    seen: set[tuple[bool, str]] = set()
    vocabulary, beyond = values["model"].get("vocab", {}), 0
    for token in values.get("added_tokens", []):
        content, normalized = token["content"], token["normalized"]
        found = normalizer.normalize_str(content) if normalized and normalizer is not None else content
        expected = vocabulary.get(content, len(vocabulary) + beyond)
        beyond += content not in vocabulary
        if token["single_word"]:
            yield f"added_tokens: '{content}' is for whole words only"
        elif expected != token["id"]:
            yield f"added_tokens: '{content}' has the id {token['id']}, not {expected} as the vocabulary says"
        elif not found:
            yield f"added_tokens: '{content}' has no character"
        elif found != found.strip():
            yield f"added_tokens: '{content}' begins or ends with a space"
        elif (normalized, found) in seen:
            yield f"added_tokens: '{content}' is another one when normalised"
        seen.add((normalized, found))


def inexpressible(data: bytes, source: str = "tokenizer.json") -> str | None:
    """Why the C++ runtime could not read words by this tokenizer; None where it can.

    Args:
        data: A ``tokenizer.json``.
        source: The file, for messages.

    Raises:
        BundleError: ``data`` is no tokenizer.
        MissingDependencyError: The tokenizers library is not installed.
    """
    values = json.loads(read_tokenizer(data, source).to_str())
    return next((reason for part in (_model, _parts, _added) for reason in part(values)), None)
