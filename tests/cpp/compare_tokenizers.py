"""Compares the C++ tokenizer with the tokenizers library on strings drawn anew, until the time is over.

    python -m tests.cpp.compare_tokenizers build/native/bin/dmdkit_tokenize --seconds 1200

A difference is printed with its string and ends the run with 1. ``make words`` builds the program and runs this.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.cpp.tokenizers import first_difference
from tests.sentences import PICKED, generated, tokenizers_to_compare

AT_ONCE = 20_000


def _broken(sentences: list[bytes], seed: int) -> list[bytes]:
    """Every fiftieth string with a byte changed, which may leave it no UTF-8."""
    random_ = random.Random(seed)
    for place in range(0, len(sentences), 50):
        if sentences[place]:
            at = random_.randrange(len(sentences[place]))
            sentences[place] = sentences[place][:at] + bytes([random_.randrange(256)]) + sentences[place][at + 1 :]
    return sentences


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", type=Path)
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--strings", type=int, default=100_000, help="at least so many by each tokenizer, whatever the time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    contents = tokenizers_to_compare()
    counts = dict.fromkeys(contents, 0)
    end, seed = time.monotonic() + options.seconds, options.seed
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end or min(counts.values()) < options.strings:
            seed += 1
            for name, content in contents.items():
                sentences = [text.encode() for text in (*PICKED, *generated(AT_ONCE, seed))]
                difference = first_difference(options.program, Path(folder), content, _broken(sentences, seed))
                if difference is not None:
                    print(f"{name}, seed {seed}: {difference}", file=sys.stderr)
                    return 1
                counts[name] += len(sentences)
    for name, count in counts.items():
        print(f"{name}: {count:,} strings, no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
