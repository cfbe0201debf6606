"""``python -m benchmarks``: runs the sections, writes results as JSON and tables. ``make bench`` is this with its defaults."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    from benchmarks.sections import SECTIONS

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="directory for results.json and tables.md")
    parser.add_argument("--rounds", type=int, default=200, help="interleaved rounds of the headline and the overhead")
    parser.add_argument("--growth-rounds", type=int, default=30, help="interleaved rounds of the growth tables")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the benchmark itself")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out; it compiles for minutes")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="only these sections")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = _arguments(arguments)
    for name in THREAD_VARIABLES:  # read when the libraries load, so before any of them is imported
        os.environ[name] = str(options.threads)
    from benchmarks.machine import machine
    from benchmarks.report import markdown
    from benchmarks.sections import SECTIONS, Context

    context = Context(options)
    result = {"format": 1, "machine": machine(), "threads": options.threads, "tiny": options.tiny, "sections": {}}
    for name, section in SECTIONS.items():
        if options.only and name not in options.only:
            continue
        begin = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        result["sections"][name] = section(context)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    text = markdown(result)
    (options.out / "tables.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"wrote {options.out}/results.json and {options.out}/tables.md", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
