"""The C++ tokenizer beside the tokenizers library, on the same strings."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from dmdkit.errors import InputError
from dmdkit.runtime.text.tokenizer import Layout, SentenceTokenizer

MAX_TOKENS = 24


def cpp_tokens(
    program: Path, tokenizer: Path, size: int, sentences: Sequence[bytes], max_tokens: int = MAX_TOKENS
) -> list[str]:
    """A line for each sentence: its ids, "+" in front where it was cut, or "!" and why it was refused."""
    given = b"".join(b"%d\n%s" % (len(sentence), sentence) for sentence in sentences)
    command = [str(program), str(tokenizer), str(size), str(max_tokens)]
    done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def python_tokens(content: str, size: int, sentences: Sequence[bytes], max_tokens: int = MAX_TOKENS) -> list[str]:
    """The same by the tokenizers library."""
    tokenizer = SentenceTokenizer(content.encode(), Layout(max_tokens, 0, "left", size), "tokenizer.json")
    lines = []
    for index, sentence in enumerate(sentences):
        try:
            text = sentence.decode()
        except UnicodeDecodeError:
            lines.append(f"!sentence {index} cannot be tokenised: it is not UTF-8")
            continue
        try:
            batch = tokenizer([text])
        except InputError as cause:
            # A tokenizer without special tokens, and nothing to read.
            lines.append("" if "has 0 tokens" in str(cause) else f"!{cause}")
            continue
        ids = batch.input_ids[0][batch.attention_mask[0] == 1].tolist()
        lines.append("+" * batch.truncated + "".join(f"{token} " for token in ids))
    return lines


def first_difference(program: Path, folder: Path, content: str, sentences: Sequence[bytes]) -> str | None:
    """What differs first between the two languages, in words; None where nothing does."""
    path = folder / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    size = 1 << 20
    theirs, ours = python_tokens(content, size, sentences), cpp_tokens(program, path, size, sentences)
    assert len(theirs) == len(ours) == len(sentences)
    for sentence, expected, found in zip(sentences, theirs, ours, strict=True):
        if expected != found:
            return f"{sentence!r:.300}: the tokenizers library gives {expected:.200}, C++ {found:.200}"
    return None
