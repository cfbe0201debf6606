"""What a sentence costs by its length, and from its string to its score in Python and in C++.

    python -m benchmarks.words mosi-text.dmd mosi.pkl build/native/bin/dmdkit-run

Lengths are timed in one process, interleaved; the two languages in turns, each in a process of its own, so that whatever else
the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from benchmarks.timing import rows as rows_of
from dmdkit.data import load_dataset
from dmdkit.data.dataset import Split
from dmdkit.parity.cpp_runner import CppRunner
from dmdkit.parity.timing import timed_rounds
from dmdkit.runtime import Runtime
from dmdkit.runtime.backends import huge_pages
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.open_graph import open_runner

LENGTHS = (3, 8, 15, 30, 50)
PRECISIONS = ("fp32", "int8-cpu")


def _feeds(bundle: Bundle, lengths: Sequence[int]) -> dict[str, dict[str, npt.NDArray[np.int64]]]:
    """A sentence of each length, or of the longest there may be, by its name."""
    assert bundle.manifest.text is not None
    longest, size = bundle.manifest.text.max_tokens, bundle.manifest.text.vocabulary_size
    generator = np.random.default_rng(0)
    return {
        f"{length} tokens": {
            "input_ids": generator.integers(1, size, (1, length)),
            "attention_mask": np.ones((1, length), np.int64),
        }
        for length in sorted({min(length, longest) for length in lengths})
    }


def by_pages(path: Path, precision: str, rounds: int) -> list[dict[str, object]]:
    """Two sessions of the encoder in turns, one with its weights on small pages, against the longest sentence there.

    For a process of its own: what was opened before leaves huge pages behind, which the next session is given.
    """
    bundle = Bundle.open(path)
    with ExitStack() as stack:
        with patch.object(huge_pages, "MIN_BYTES", sys.maxsize):
            runners = {", small pages": stack.enter_context(open_runner(bundle, f"text.{precision}"))}
        runners[""] = stack.enter_context(open_runner(bundle, f"text.{precision}"))
        feeds = _feeds(bundle, (15, LENGTHS[-1]))
        calls = {
            f"{name}{pages}": lambda r=runner, f=feed: r.infer(f)  # type: ignore[misc]
            for pages, runner in runners.items()
            for name, feed in feeds.items()
        }
        return rows_of(timed_rounds(calls, rounds), [*feeds][-1] + ", small pages")


def by_length(bundle: Bundle, precision: str, rounds: int) -> list[dict[str, object]]:
    """The encoder alone on sentences of each length, against the longest."""
    assert bundle.manifest.text is not None
    longest = bundle.manifest.text.max_tokens
    feeds = _feeds(bundle, LENGTHS)
    with open_runner(bundle, f"text.{precision}") as runner:
        times = timed_rounds({name: lambda f=feed: runner.infer(f) for name, feed in feeds.items()}, rounds)  # type: ignore[misc]
    return rows_of(times, f"{longest} tokens")


def difference(bundle: Bundle, test: Split, program: Path, precision: str) -> float:
    """The largest difference between the scores of the two languages, one sentence at a time."""
    assert test.raw_text is not None
    others = {"audio": test.audio, "vision": test.vision}
    there = CppRunner(program).run_words(bundle, precision, test.raw_text, others).outputs["score"]
    with Runtime.open(bundle.path, graph=precision) as runtime:
        here = [
            runtime.predict(text=text, audio=a, vision=v).score
            for text, a, v in zip(test.raw_text, *others.values(), strict=True)
        ]
    return float(np.abs(there - np.stack(here)).max())


def _python_ms(runtime: Runtime, test: Split, chosen: Sequence[int]) -> float:
    assert test.raw_text is not None
    times = []
    for index in chosen:
        start = time.perf_counter()
        runtime.predict(text=test.raw_text[index], audio=test.audio[index], vision=test.vision[index])
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def from_string_to_score(
    bundle: Bundle, test: Split, program: Path, precision: str, turns: int, each: int
) -> tuple[float, float]:
    """Median latency in Python and in C++, in ms: the medians over turns of each turn's median, on the same sentences."""
    assert test.raw_text is not None
    found: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as name, Runtime.open(bundle.path, graph=precision) as runtime:
        words, rest = Path(name) / "words.json", Path(name) / "rest.safetensors"
        words.write_text(json.dumps(list(test.raw_text)))
        save_file({"audio": test.audio, "vision": test.vision}, rest)
        options = ["--words", words, "--input", rest, "--graph", precision, "--bench", "--rounds", each]
        _python_ms(runtime, test, range(10))
        for _ in range(turns):
            found[0].append(_python_ms(runtime, test, [index % len(test) for index in range(each)]))
            done = subprocess.run([*map(str, [program, bundle.path, *options])], capture_output=True, check=True)
            found[1].append(json.loads(done.stdout)["p50_ms"])
    return float(np.median(found[0])), float(np.median(found[1]))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path, help="a feature file with transcripts")
    parser.add_argument("program", type=Path, help="dmdkit-run")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    bundle, test = Bundle.open(options.bundle), load_dataset(options.data).splits["test"]
    for precision in PRECISIONS:
        print(f"text.{precision}\n\n| tokens | median ms | ratio | CPU ratio |\n|---|---|---|---|")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            pages = alone.submit(by_pages, options.bundle, precision, options.rounds).result()
        for row in (*by_length(bundle, precision, options.rounds), *pages):
            print(f"| {row['name']} | {row['p50_ms']:.2f} | {row['ratio']:.3f} | {row['cpu_ratio']:.3f} |")
        print(f"\nC++ against Python, {len(test)} sentences: {difference(bundle, test, options.program, precision):.2g}")
        python, cpp = from_string_to_score(bundle, test, options.program, precision, options.turns, options.rounds)
        print(f"string to score: Python {python:.2f} ms, C++ {cpp:.2f} ms, {cpp / python:.3f} of it\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
