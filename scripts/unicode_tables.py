"""Writes the Unicode tables of the C++ tokenizer (runtime/cpp/src/text/*.inc) from Python's unicodedata.

python scripts/unicode_tables.py

The tokenizers library, whose answers the C++ tokenizer repeats, was built with tables of its own, older ones for some questions
and newer ones for others. So every code point is also put to that library, and where it answers otherwise, its answer stands.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "runtime/cpp/src/text"
CODE_POINTS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
CHUNK = 4096
BAR = ord("|")
HANGUL = range(0xAC00, 0xD7A4)
"""Decomposed by arithmetic (Unicode 3.12), so they need no table."""

_LINE = 124


def _chunks() -> Iterator[list[int]]:
    rest = [code for code in CODE_POINTS if code != BAR]
    for start in range(0, len(rest), CHUNK):
        yield rest[start : start + CHUNK]


def _each(change: Callable[[str], str]) -> dict[int, str]:
    """What a normaliser makes of every character by itself; bars keep them apart."""
    found = {BAR: change("|")}
    for codes in _chunks():
        parts = change("|".join(map(chr, codes))).split("|")
        found.update(zip(codes, parts, strict=True))
    return found


def _is_whitespace(code: int) -> bool:
    return chr(code).isspace() and not 0x1C <= code <= 0x1F  # Python counts separators of files and records


def _is_punctuation(code: int) -> bool:
    symbol = code < 128 and chr(code).isprintable() and not chr(code).isalnum() and code != 32
    return symbol or unicodedata.category(chr(code)).startswith("P")


def own() -> dict[str, dict[int, object]]:
    """The tables by Python's unicodedata."""
    removed, space, punctuation, mark, lower, decomposed, ordered = ({} for _ in range(7))
    for code in CODE_POINTS:
        char = chr(code)
        category = unicodedata.category(char)
        removed[code] = code in (0, 0xFFFD) or (category in ("Cc", "Cf", "Co") and char not in "\t\n\r")
        space[code] = _is_whitespace(code)
        punctuation[code] = _is_punctuation(code)
        mark[code] = category == "Mn" and unicodedata.normalize("NFD", char) == char
        lower[code] = char.lower()
        decomposed[code] = unicodedata.normalize("NFD", char)
        ordered[code] = unicodedata.combining(char)
    return {
        "removed": removed,
        "whitespace": space,
        "punctuation": punctuation,
        "mark": mark,
        "lowercase": lower,
        "decomposition": decomposed,
        "combining_class": ordered,
    }


def library() -> dict[str, dict[int, object]]:
    """The same by the tokenizers library."""
    from tokenizers import normalizers, pre_tokenizers

    def bert(**options: bool) -> Callable[[str], str]:
        everything = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
        return normalizers.BertNormalizer(**(everything | options)).normalize_str

    cleaned, decomposed = _each(bert(clean_text=True)), _each(normalizers.NFD().normalize_str)
    kept = _each(bert(strip_accents=True))
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    space, punctuation = {BAR: False}, {BAR: True}
    for codes in _chunks():
        pieces = {begin: piece for piece, (begin, _) in split("".join(f"a{chr(code)}a|" for code in codes))}
        for index, code in enumerate(codes):
            punctuation[code] = pieces.get(4 * index + 1) == chr(code)
            space[code] = not punctuation[code] and 4 * index + 2 in pieces
    nfd = normalizers.NFD().normalize_str
    classes: dict[int, object] = {}
    for code in CODE_POINTS:
        known = unicodedata.combining(chr(code))
        if decomposed[code] != chr(code):
            classes[code] = known  # what it becomes is ordered, not it
        elif code == 0x345:
            classes[code] = 240  # the highest there is
        else:  # moved in front of the highest class: it has one, and classes never change
            classes[code] = known if nfd("\u0345" + chr(code)) == chr(code) + "\u0345" else 0
    return {
        "removed": {code: text == "" for code, text in cleaned.items()},
        "whitespace": space,
        "punctuation": punctuation,
        # Of what falls apart, only the parts are ever asked about.
        "mark": {code: text == "" and decomposed[code] == chr(code) for code, text in kept.items()},
        "lowercase": dict(_each(bert(lowercase=True))),
        "decomposition": dict(decomposed),
        "combining_class": classes,
    }


def _lines(items: Iterable[str]) -> Iterator[str]:
    line = " "
    for item in items:
        if len(line) + len(item) + 2 > _LINE:
            yield line
            line = " "
        line += f" {item},"
    yield line


def _ranges(table: dict[int, object]) -> list[tuple[int, int, object]]:
    """First, last and value of every run of one value that is not false or 0."""
    found: list[tuple[int, int, object]] = []
    for code in CODE_POINTS:
        value = table[code]
        if not value:
            continue
        if found and found[-1][1] == code - 1 and found[-1][2] == value:
            found[-1] = (found[-1][0], code, value)
        else:
            found.append((code, code, value))
    return found


def _array(kind: str, name: str, items: Iterable[str]) -> list[str]:
    return [f"constexpr {kind} {name}[] = {{", *_lines(items), "};"]


def _codes(text: str) -> str:
    return ", ".join(f"0x{ord(char):X}" for char in text)


def _lower_runs(table: dict[int, object]) -> list[tuple[int, int, int, int]]:
    """First, last, step and difference of runs of letters whose lower-case forms lie equally far off."""
    pairs = [
        (code, ord(str(table[code])) - code) for code in CODE_POINTS if len(str(table[code])) == 1 and table[code] != chr(code)
    ]
    found: list[tuple[int, int, int, int]] = []
    for code, difference in pairs:
        if found and found[-1][3] == difference:
            first, last, step, _ = found[-1]
            if code - last in (1, 2) and step in (0, code - last):
                found[-1] = (first, code, code - last, difference)
                continue
        found.append((code, code, 0, difference))
    return found


def files() -> dict[str, str]:
    """Name -> content of the generated files."""
    import tokenizers

    ours, theirs = own(), library()
    notes = []
    for name, table in ours.items():
        differ = sum(table[code] != theirs[name][code] for code in CODE_POINTS)
        notes.append(f"//   {name}: {differ:,}")
    head = [
        "// Written by scripts/unicode_tables.py; do not edit.",
        f"// Unicode {unicodedata.unidata_version} (Python's unicodedata), except for so many code points where the tokenizers",
        f"// library {tokenizers.__version__}, whose answers are repeated here, answers otherwise:",
        *notes,
    ]
    body: list[str] = []
    for name in ("removed", "whitespace", "punctuation", "mark"):
        pairs = (f"{{0x{first:X}, 0x{last:X}}}" for first, last, _ in _ranges(theirs[name]))
        body += _array("Range", f"k{name.title()}", pairs)
    triples = (f"{{0x{first:X}, 0x{last:X}, {value}}}" for first, last, value in _ranges(theirs["combining_class"]))
    body += _array("ClassRange", "kCombiningClass", triples)
    lower = theirs["lowercase"]
    body += _array("LowerRun", "kLowercase", (f"{{0x{a:X}, 0x{b:X}, {step}, {by}}}" for a, b, step, by in _lower_runs(lower)))
    several = [(code, str(lower[code])) for code in CODE_POINTS if len(str(lower[code])) > 1]
    assert [(code, len(text)) for code, text in several] == [(0x130, 2)], "one letter becomes two: i with a dot"
    body += [f"constexpr char32_t kLowerOfDottedI[] = {{{_codes(several[0][1])}}};"]
    pool: list[str] = []
    places = []
    for code in CODE_POINTS:
        text = str(theirs["decomposition"][code])
        if text != chr(code) and code not in HANGUL:
            places.append(f"{{0x{code:X}, {len(pool)}, {len(text)}}}")
            pool += [f"0x{ord(char):X}" for char in text]
    both = {"unicode_tables.inc": [*head, *body], "unicode_decompositions.inc": [*head]}
    both["unicode_decompositions.inc"] += _array("Decomposition", "kDecompositions", places)
    both["unicode_decompositions.inc"] += _array("char32_t", "kDecomposed", pool)
    return {name: "\n".join(lines) + "\n" for name, lines in both.items()}


def main() -> int:
    """The command line."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
