"""Runs the fuzz targets, two at a time, from a seed corpus made here, and prints executions, coverage and findings of each."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from seeds import WORDLESS, seeds, words

JOBS = 2


class Outcome(NamedTuple):
    """What one target did: inputs executed, edges of the code reached, whether something was found."""

    executions: int
    coverage: int
    found: bool


def _quoted(word: str) -> str:
    """A line of libFuzzer's dictionary."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"\n'


def fuzz(build: Path, target: str, first: Sequence[bytes], seconds: int) -> Outcome:
    """Runs one target for ``seconds`` on what earlier runs kept and on ``first``."""
    corpus = build / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(first):
        (corpus / f"seed-{index}").write_bytes(seed)
    binary = str((build / "bin" / f"fuzz_{target}").resolve())
    taken = [binary, *sorted(str(path) for path in corpus.glob("seed-*"))]
    once = subprocess.run(taken, capture_output=True, text=True, check=False, env={**os.environ, "DMDKIT_FUZZ_SEEDS": "1"})  # noqa: S603
    if once.returncode:
        raise SystemExit(f"{target}: {once.stderr[-2000:]}")
    dictionary = build / f"{target}.dict"
    known = [] if target in WORDLESS else words(list(first))
    dictionary.write_text("".join(map(_quoted, known)))
    limits = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=65536", f"-max_total_time={seconds}", "-print_final_stats=1"]
    command = [binary, *limits, *([f"-dict={dictionary}"] if known else []), f"-artifact_prefix={build}/{target}-", str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    reached = re.findall(r"\bcov: (\d+)", done.stderr)
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
    return Outcome(int(executed[1]) if executed else 0, int(reached[-1]) if reached else 0, done.returncode != 0)


def main() -> int:
    """The command line."""
    given = seeds()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, required=True, help="build folder of the fuzz preset")
    parser.add_argument("--seconds", type=int, default=60, help="of waiting, for all targets together")
    parser.add_argument("--target", choices=given, nargs="*", default=list(given), help="only these")
    options = parser.parse_args()
    each = max(1, options.seconds * JOBS // max(JOBS, len(options.target)))
    bad = False
    with ThreadPoolExecutor(JOBS) as pool:
        running = {target: pool.submit(fuzz, options.build, target, given[target], each) for target in options.target}
        for target, run in running.items():
            executions, coverage, found = run.result()
            verdict = "A FINDING" if found else "no finding"
            print(f"{target}: {executions} executions in {each} s, {coverage} edges, {verdict}", flush=True)
            bad = bad or found or executions == 0
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
