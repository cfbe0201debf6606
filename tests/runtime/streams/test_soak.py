"""A stream that never ends keeps its memory and its exactness; ``make soak`` pushes a million steps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dmdkit.runtime import Runtime
from tests.stream_builders import STEPS, WIDTHS

PUSHES = int(os.environ.get("DMDKIT_SOAK", "2000"))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_pushes_and_resets_keep_memory_flat_and_answers_exact(real_bundle: Path) -> None:
    generator = np.random.default_rng(0)
    rows = {name: generator.normal(size=(1000 + STEPS, width)).astype(np.float32) for name, width in WIDTHS.items()}
    with Runtime.open(real_bundle, graph="fp32") as runtime:
        stream = runtime.stream(past_limit="window")
        worst, early, resets, compared, begin = 0.0, 0, 0, 0, 0
        for count in range(PUSHES):
            at = count % 1000
            if at == 0 or count % 97 == 0:
                stream.reset()
                resets, begin = resets + 1, at
            answer = stream.push(**{name: array[at] for name, array in rows.items()})
            if answer is not None and count % 251 == 250:
                assert answer.heard == at + 1 - begin
                part = {name: array[at + 1 - answer.steps : at + 1] for name, array in rows.items()}
                worst = max(worst, float(np.abs(runtime.predict(**part).score - answer.score).max()))
                compared += 1
            if count == PUSHES // 10:
                early = resident_bytes()
        grown = resident_bytes() - early
        print(f"{PUSHES} pushes, {resets} resets: {grown / 1024:.0f} KiB more than after a tenth of them; {compared} answers")
        print(f"compared with their windows, largest difference {worst:.1e}")
        assert compared > 0
        assert worst < 1e-5
        assert grown < 4 << 20
