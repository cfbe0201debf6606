"""Strings that a tokenizer may meet, from what people write to what nobody does; and BERT tokenizers to read them with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

PICKED = [
    "",
    " ",
    "\t\n\r\x0b\x0c\x1c\x85\u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000",
    "this movie is wonderful, I loved it",
    "I'm not sure... (maybe?) it's 50% OK!",
    "Ünïcödé àccénts Åström ångström NAÏVE Éclair",
    "e\u0301e\u0301 o\u0308 a\u030a\u0323 a\u0323\u030a q\u0307\u0323 \u1e9b\u0323 \u0345\u0301",
    "\u0130stanbul ISTANBUL ıstanbul ﬀ ß ẞ ΣΊΣΥΦΟΣ ς",
    "中文分词 漢字かな交じり文 カタカナ 한국어 \uac01 \ud7a3 \u1112\u1161\u11ab",
    "\U00020000\U0002a6df\U0002f800\U0002b740 \ufa0e \u3400\u4dbf\u9fff\uf900",
    "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ☺️ e\u200dx a\u200bb\u200cc \ufeffd",
    "\x00a\x00b \ufffd c\ufffdd \x07\x08\x1b[0m \x7f \x9f \u00ad soft\u00adhyphen",
    "مرحبا بالعالم \u0644\u064e\u0627 שלום \u05e9\u05c1 हिन्दी क्ष்  ไทย ภาษา \u0e33",
    "[CLS] [SEP] [MASK] [PAD] [UNK] [cls] [ MASK ] a[SEP]b[MASK]c  [MASK]  d",
    "ａｂｃ Ｆｕｌｌｗｉｄｔｈ ① ² ½ ℃ ㎏ ﷺ ﬁ",
    "$€£¥ ^`~|<>+=_ «quoted» “curly” – — … ¡¿ \u3001\u3002 \u2e42 \u061f",
    "\ue000\uf8ff\U000f0000\U0010ffff\ufdd0\ufffe\U0001ffff",
    "x" * 100 + " " + "x" * 101 + " " + "y" * 10_240,
    "ab" * 5_120 + "!" + "\u0301" * 10_240,
    "superb superbly the film. the,plot;very good",
    "\u1100\u1161\u11a8 \u0958 \u0f43 \u2adc \ufb1d \U0001d15e \U0001d1c0 \U00011131\U00011127",
]

_BLOCKS = [
    (0x20, 0x7F, 30),
    (0xA0, 0x250, 10),
    (0x250, 0x600, 8),
    (0x300, 0x370, 8),
    (0x600, 0x1100, 6),
    (0x1100, 0x2000, 5),
    (0x2000, 0x2E80, 8),
    (0x2E80, 0xA000, 6),
    (0xA000, 0xD800, 5),
    (0xE000, 0x10000, 4),
    (0x10000, 0x1F000, 4),
    (0x1F000, 0x20000, 5),
    (0x20000, 0x110000, 3),
    (0, 0x20, 3),
]

_WORDS = [
    "the",
    "film",
    "Great",
    "superbly",
    "veryly",
    "don't",
    "[MASK]",
    "[SEP]",
    "éclair",
    "Film",
    "a",
    ".",
    "...",
    "中",
    "good",
]


def _piece(random_: random.Random, words: Sequence[str]) -> str:
    kind = random_.random()
    if kind < 0.4:
        return random_.choice(words)
    low, high, _ = random_.choices(_BLOCKS, [weight for _, _, weight in _BLOCKS])[0]
    chars = [chr(random_.randrange(low, high)) for _ in range(random_.randint(1, 8))]
    if kind < 0.5:
        chars += [chr(random_.randrange(0x300, 0x370)) for _ in range(random_.randint(1, 4))]
    return "".join(char for char in chars if not "\ud800" <= char < "\ue000")


def generated(count: int, seed: int, words: Sequence[str] = ()) -> Iterator[str]:
    """So many strings, the same for the same seed; ``words`` are mixed in."""
    random_ = random.Random(seed)
    known = [*_WORDS, *words]
    for _ in range(count):
        separators = random_.choice([" ", " ", "", "  ", "\t", "\u00a0", "\n"])
        yield separators.join(_piece(random_, known) for _ in range(random_.randint(0, 12)))


def vocabulary(words: Sequence[str]) -> dict[str, int]:
    """A vocabulary in which words fall apart in many ways: whole ones, letters, and letters that continue a word."""
    letters = [
        chr(code) for code in (*range(0x21, 0x7F), *range(0xDF, 0x100), *range(0x3B1, 0x3CA), 0x4E2D, 0x6587, 0x1100, 0x1161)
    ]
    pairs = ["th", "he", "in", "er", "##ly", "##er", "##ing", "##s", "su", "##perb", "fi", "##lm"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{letter}" for letter in letters), *pairs]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def tokenizer_json(**changes: object) -> str:
    """A BERT tokenizer's file as the tokenizers library writes it, with top-level entries replaced."""
    from tokenizers import BertWordPieceTokenizer

    whole = ["the", "film", "superb", "very", "good", "don", "t", "a", ".", "...", "bert", "\u00e9clair", "eclair"]
    tokenizer = BertWordPieceTokenizer(vocabulary(whole), lowercase=True)
    values = json.loads(tokenizer.to_str())
    return json.dumps(values | changes)


def _bert(*, clean: bool, chinese: bool, accents: bool | None, lower: bool) -> dict[str, object]:
    return {
        "type": "BertNormalizer",
        "clean_text": clean,
        "handle_chinese_chars": chinese,
        "strip_accents": accents,
        "lowercase": lower,
    }


def _added(first_free: int) -> list[dict[str, object]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ids = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    own = [{"id": index, "content": content, **plain} for content, index in ids.items()]
    return [
        *own,
        {"id": 4, "content": "[MASK]", **plain, "lstrip": True},
        {"id": first_free, "content": "Great Éclair", **plain, "normalized": True, "special": False},
        {"id": first_free + 1, "content": "....", **plain, "rstrip": True, "normalized": True},
        {"id": first_free + 2, "content": "..", **plain, "lstrip": True, "rstrip": True},
        {"id": 6, "content": "film", **plain},  # the vocabulary's own
    ]


def tokenizers_to_compare() -> dict[str, str]:
    """Name -> file of tokenizers that differ in everything that C++ reads."""
    free = len(json.loads(tokenizer_json())["model"]["vocab"])
    return {
        "uncased": tokenizer_json(),
        "cased": tokenizer_json(normalizer=_bert(clean=True, chinese=True, accents=None, lower=False)),
        "accents stay": tokenizer_json(normalizer=_bert(clean=True, chinese=True, accents=False, lower=True)),
        "nothing cleaned": tokenizer_json(normalizer=_bert(clean=False, chinese=False, accents=True, lower=False)),
        "no normaliser": tokenizer_json(normalizer=None, post_processor=None),
        "added tokens": tokenizer_json(added_tokens=_added(free)),
        "pairs": tokenizer_json(post_processor={"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}),
    }
