"""``dmdkit bench``: how fast the graphs of a bundle are here, kept for ``Runtime.open`` to choose by."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmdkit.cli.console import COMFORTABLE, err, note, out, print_json, print_table, say, verdict_text

if TYPE_CHECKING:
    from rich.text import Text

    from dmdkit.parity.timing import Target
    from dmdkit.runtime.bundle import Bundle

__all__ = ["bench"]


@contextmanager
def _progress(rounds: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line every quarter elsewhere."""
    if not err.is_terminal:
        marks = {max(1, rounds * part // 4) for part in (1, 2, 3, 4)}
        yield lambda done: note(f"measuring: round {done} of {rounds}") if done in marks else None
        return
    from rich.progress import Progress

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("measuring", total=rounds)
        yield lambda done: bar.update(task, completed=done)


def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
    rounds: Annotated[int, typer.Option(min=3, help="Interleaved rounds; each runs every graph once.")] = 200,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads inside one prediction.")] = 1,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Samples a call; only 1 is kept for `auto`.")] = 1,
    seconds: Annotated[float, typer.Option(min=1.0, help="Begin no further round after so long.")] = 120.0,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Peak memory, each in a process of its own.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure every graph on every backend here: latency, throughput, size and peak memory.

    The medians are kept in your cache directory, for this machine and these versions, unless more rounds are kept there
    already; Runtime.open then takes the graph that is surely fastest of those that passed parity.

    Example: dmdkit bench face.dmd --threads 2
    """
    from dmdkit.parity.timing import footprint, measure_latency, targets
    from dmdkit.runtime.bundle import Bundle
    from dmdkit.runtime.latency import MedianLatency, fewest_rounds, machine_facts, read_latencies, write_latencies

    opened = Bundle.open(bundle)
    opened.verify()
    wanted = targets(opened)
    with _progress(rounds) as on_step:
        measured, failed = measure_latency(
            opened, wanted, rounds=rounds, threads=threads, batch=batch, seconds=seconds, on_round=on_step
        )
    cache = None
    if batch == 1:
        cache = write_latencies(
            opened.manifest,
            threads,
            {
                (target.graph, target.backend): MedianLatency(found.p50_ms, found.rounds, found.p50_interval_ms)
                for target, found in measured.items()
                if target.device == "cpu"
            },
        )
    rows = []
    for target, latency in measured.items():
        if memory:
            note(f"memory: {target}")
        needed = footprint(bundle, target, threads=threads) if memory else None
        if memory and needed is None:
            note(f"memory: {target}: the process that measures it failed, so there is no figure")
        rows.append(
            _facts(opened, target)
            | asdict(latency)
            | {"throughput_per_s": batch * 1e3 / latency.mean_ms}
            | {"open_ms": needed.open_ms if needed else None, "peak_bytes": needed.peak_bytes if needed else None}
        )
    result: dict[str, Any] = {
        "bundle": str(bundle),
        "machine": machine_facts(),
        "threads": threads,
        "batch": batch,
        "graphs": rows,
        "failed": [{**asdict(target), "reason": reason} for target, reason in failed.items()],
        "auto": _auto(opened, threads),
        "cache": str(cache) if cache is not None else None,
        "cache_rounds": fewest_rounds(read_latencies(opened.manifest, threads)) if cache is not None else None,
    }
    if json:
        print_json(result)
    else:
        _print(result)
        if result["auto"] is not None:
            say(f"auto takes {result['auto']['graph']} on {result['auto']['backend']}")
    _say_what_next(opened, result)


def _facts(bundle: Bundle, target: Target) -> dict[str, Any]:
    from dmdkit.runtime.backends.registry import backend_version, proof_name

    record = bundle.graph(target.graph)
    if target.device != "cpu":
        verdict = "unverified"  # parity is measured on the CPU
    elif target.backend == "onnxruntime":
        verdict = record.verdict.status
    else:
        found = next((v for k, v in record.backends.items() if k == proof_name(target.backend, record.precision)), None)
        verdict = found.status if found is not None else "unverified"
    return asdict(target) | {
        "version": backend_version(target.backend),
        "verdict": verdict,
        "simulated": record.simulated_on_cpu,
        "size_bytes": bundle.manifest.files[record.file].size_bytes,
    }


def _auto(bundle: Bundle, threads: int) -> dict[str, str] | None:
    """What automatic choice takes now; None where nothing has passed parity."""
    from dmdkit.errors import BundleError
    from dmdkit.runtime.choice import choose

    try:
        choice = choose(bundle.manifest, "fusion", None, backend="auto", device="cpu", threads=threads)
    except BundleError:
        return None
    return {"graph": choice.graph, "backend": choice.backend}


def _print(result: dict[str, Any]) -> None:
    """Every figure where there is room, else those one compares by: no name is folded."""
    wide = out.width >= COMFORTABLE
    times = ("p50", "p90", "p99", "max") if wide else ("p50", "p99")
    rows: list[list[str | Text]] = []
    for row in result["graphs"]:
        simulated = row["simulated"] and row["device"] == "cpu"
        where = row["backend"] + ("" if row["device"] == "cpu" else f" {row['device']}")
        cells: list[str | Text] = [
            row["graph"] + ((" (simulated)" if wide else " *") if simulated else ""),
            f"{where} {row['version'] or ''}".strip() if wide else where,
            *(f"{row[f'{name}_ms']:.3f}" for name in times),
        ]
        cells += [f"{row['throughput_per_s']:.0f}"] if wide else []
        cells.append(f"{row['size_bytes'] / 1e6:.2f} MB")
        if wide:
            cells.append("-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f} MB")
            cells.append("-" if row["open_ms"] is None else f"{row['open_ms']:.0f} ms")
        rows.append([*cells, verdict_text(row["verdict"])])
    machine = result["machine"]
    numbers = [*times, "per s", "size", "memory", "open"] if wide else [*times, "size"]
    done = min((row["rounds"] for row in result["graphs"]), default=0)
    print_table(
        ["graph", "backend", *numbers, "verdict"],
        rows,
        title=f"{machine['cpu']}, {machine['cores']} cores; threads {result['threads']}, batch {result['batch']}; "
        f"milliseconds over {done} rounds",
        right=numbers,
    )
    if not wide and any(row["simulated"] for row in result["graphs"]):
        say("* simulated: made for TensorRT")


def _say_what_next(bundle: Bundle, result: dict[str, Any]) -> None:
    for row in result["failed"]:
        note(f"{row['graph']} on {row['backend']} cannot be measured: {row['reason']}")
    name = shlex.quote(result["bundle"])
    auto = result["auto"]
    if auto is None:
        note(f"no graph has passed parity, so `auto` has nothing to choose; next: dmdkit check {name} --data FEATURES")
    else:
        open_question = any(r["backend"] != "onnxruntime" and r["verdict"] == "unverified" for r in result["graphs"])
        if open_question:
            note(f"only graphs that passed parity on a backend are chosen there; next: dmdkit check {name} --data FEATURES")
    kept, done = result["cache_rounds"], max((row["rounds"] for row in result["graphs"]), default=0)
    if kept is not None and kept > done:
        note(
            f"{result['cache']} keeps medians of {kept} rounds, which {done} do not replace; measure with --rounds {kept} "
            "(and --seconds, where the time runs out) or delete it"
        )
    elif result["cache"] is not None:
        note(f"kept in {result['cache']}; dmdkit report {name} draws it")
    elif result["batch"] == 1:
        note("the cache directory cannot be written, so nothing is kept (set XDG_CACHE_HOME to a place that can)")
