"""The C++ tokenizer gives the token ids of the tokenizers library, and refuses what it cannot read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from dmdkit.export.tokenizer_check import inexpressible
from tests.cpp.tokenizers import MAX_TOKENS, first_difference
from tests.sentences import PICKED, generated, tokenizer_json, tokenizers_to_compare

pytest.importorskip("tokenizers", reason="the extra tokens is not installed")

NOT_UTF8 = [
    b"\xff",
    b"a\xc3",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"ok \x80",
    b"\xf8\x88\x80\x80\x80",
]
FEW = 400


@pytest.fixture(scope="module")
def program(native_bin: Path) -> Path:
    return native_bin / "dmdkit_tokenize"


@pytest.mark.parametrize("name", list(tokenizers_to_compare()))
def test_tokens_are_the_librarys(program: Path, tmp_path: Path, name: str):
    sentences = [text.encode() for text in (*PICKED, *generated(FEW, 7))] + NOT_UTF8
    assert first_difference(program, tmp_path, tokenizers_to_compare()[name], sentences) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uncased", "cased", "nothing cleaned"])
def test_every_character_is_read_as_the_library_does(program: Path, tmp_path: Path, name: str):
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    sentences = ["".join(f"a{chr(code)}e " for code in codes[at : at + 4]).encode() for at in range(0, len(codes), 4)]
    assert first_difference(program, tmp_path, tokenizers_to_compare()[name], sentences) is None


def damaged(**model: object) -> dict[str, object]:
    return json.loads(tokenizer_json())["model"] | model


REFUSED: dict[str, tuple[str, str]] = {
    "another model": (tokenizer_json(model={"type": "BPE", "vocab": {}, "merges": []}), "'BPE', expected WordPiece"),
    "another normaliser": (tokenizer_json(normalizer={"type": "NFKC"}), "'NFKC', expected BertNormalizer"),
    "another pre-tokeniser": (tokenizer_json(pre_tokenizer={"type": "Whitespace"}), "'Whitespace', expected BertPreTokenizer"),
    "no pre-tokeniser": (tokenizer_json(pre_tokenizer=None), "'none', expected BertPreTokenizer"),
    "another template": (
        tokenizer_json(
            post_processor={
                "type": "RobertaProcessing",
                "sep": ["[SEP]", 3],
                "cls": ["[CLS]", 2],
                "trim_offsets": True,
                "add_prefix_space": True,
            }
        ),
        "'RobertaProcessing', expected TemplateProcessing or BertProcessing",
    ),
    "no unknown token": (tokenizer_json(model=damaged(unk_token="[NO]")), "unk_token '[NO]' is not in its vocabulary"),
    "whole words": (
        tokenizer_json(
            added_tokens=[
                {
                    "id": 3,
                    "content": "[SEP]",
                    "single_word": True,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
            ]
        ),
        "'[SEP]' is for whole words only",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cpp_cannot_read_is_refused_by_it_and_by_export(program: Path, tmp_path: Path, name: str):
    content, reason = REFUSED[name]
    assert reason in str(inexpressible(content.encode()))
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    done = subprocess.run([program, path, "100000", str(MAX_TOKENS)], input=b"", capture_output=True, check=False)
    assert done.returncode == 2
    assert reason in done.stderr.decode()
    assert "words need a tokenizer that C++ knows" in done.stderr.decode()


@pytest.mark.parametrize("name", list(tokenizers_to_compare()))
def test_what_cpp_reads_is_exported(name: str):
    assert inexpressible(tokenizers_to_compare()[name].encode()) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a tokenizer"),
        ("{}", "model: missing"),
        (tokenizer_json()[:-200], "not a tokenizer"),
        (tokenizer_json(model=damaged(vocab={"[UNK]": -1})), "'[UNK]' has no id"),
        (tokenizer_json(added_tokens=3), "added_tokens: expected a list"),
        ('{"model": {"type": "WordPiece"}, "model": 1}', "a key occurs twice"),
    ],
)
def test_a_damaged_file_is_one_clear_refusal(program: Path, tmp_path: Path, content: str, reason: str):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    done = subprocess.run([program, path, "100000", str(MAX_TOKENS)], input=b"", capture_output=True, check=False)
    assert done.returncode == 2
    assert reason in done.stderr.decode()
    assert "C++ knows" not in done.stderr.decode()


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(program: Path, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer_json())
    done = subprocess.run([program, path, "12", str(MAX_TOKENS)], input=b"", capture_output=True, check=False)
    assert done.returncode == 2
    assert "they do not belong together" in done.stderr.decode()
