"""Opens one graph in this process, predicts a few times and prints what that took; :func:`benchmark.footprint` starts it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

__all__ = ["main", "peak_memory_bytes"]

_PREDICTIONS = 5


def peak_memory_bytes() -> int:
    """Peak resident memory of this process.

    On Linux from /proc: what getrusage says also covers the parent's memory at the moment it started this process.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(arguments: list[str]) -> None:
    """Runs the probe: bundle, graph, backend, device, threads."""
    path, graph, backend, device, threads = arguments
    from dmdkit.runtime.backends.registry import BACKENDS
    from dmdkit.runtime.bundle import Bundle
    from dmdkit.runtime.open_graph import open_runner

    start = time.perf_counter()
    bundle = Bundle.open(Path(path))
    known = next(name for name in BACKENDS if name == backend)
    with open_runner(bundle, graph, threads=int(threads), device=device, backend=known) as runner:
        opened = time.perf_counter()
        inputs = bundle.golden().inputs_of(bundle.graph(graph).kind)
        feed = {name: array[:1].copy() for name, array in inputs.items()}
        begin = time.perf_counter()
        runner.infer(feed)
        first = time.perf_counter()
        for _ in range(_PREDICTIONS):
            runner.infer(feed)
    value = {"open_ms": (opened - start) * 1e3, "first_ms": (first - begin) * 1e3, "peak_bytes": peak_memory_bytes()}
    sys.stdout.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
