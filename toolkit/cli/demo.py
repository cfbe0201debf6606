"""``dmdkit demo``: the whole line on the embedded sample, in a few minutes."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from dmdkit.cli.console import finish, graphs_table, note, parity_table, say
from dmdkit.cli.export import export_run
from dmdkit.cli.requirements import require
from dmdkit.cli.run import train_run
from dmdkit.errors import ExitCode, RunError

__all__ = ["demo"]

_DEMO_SETTINGS = ["training.epochs=8"]
_DEMO_SEARCH_SECONDS = 30.0


def demo(
    out: Annotated[Path, typer.Option(help="Directory to work in.")] = Path("demo"),
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo in --out.")] = False,
) -> None:
    """Generate a sample, train, export to INT8, prove parity and predict: under four minutes on two cores.

    Example: dmdkit demo --out /tmp/demo
    """
    begin = time.monotonic()
    data, run_dir, bundle = out / "sample.npz", out / "run", out / "sample.dmd"
    if not force and (data.exists() or run_dir.exists() or bundle.exists()):
        raise RunError(f"{out} holds an earlier demo; pass --force to replace it, or choose another --out")
    require("the demo", "all", "torch", "lightning_fabric", "onnx", "onnxscript", "modelopt", "onnx_graphsurgeon")
    from dmdkit.data import SAMPLE_DESCRIPTION, sample_dataset, write_dataset

    note("1/5 generate")
    note(SAMPLE_DESCRIPTION)
    write_dataset(sample_dataset(0), data)
    note("2/5 train")
    run = train_run(data, "small", run_dir, _DEMO_SETTINGS, device="cpu", force=force)
    note("3/5 export --int8, and 4/5 parity on the test split")
    manifest, ledger = export_run(run, bundle, int8=True, int8_search_seconds=_DEMO_SEARCH_SECONDS, force=force)
    assert ledger is not None

    note("5/5 predict, without PyTorch")
    from dmdkit.data import load_dataset
    from dmdkit.parity.verdicts import outcome
    from dmdkit.runtime import Runtime

    test = load_dataset(data).splits["test"]
    with Runtime.open(bundle) as runtime:
        for index in range(3):
            sample = {name: array[index] for name, array in test.features().items()}
            found, why = runtime.predict(**sample), runtime.explain(**sample)
            strongest = ""
            if why.edges_homo is not None:
                student, teacher = why.edge_order[int(why.edges_homo.argmax())]
                strongest = f"; strongest common edge {student}<-{teacher} {why.edges_homo.max():.2f}"
            say(
                f"{test.ids[index]}: score {found.score[0]:+.3f}, label {test.labels[index]:+.1f}, "
                f"{found.latency_ms:.2f} ms with {found.graph}{strongest}"
            )
        healthy = runtime.self_check(every_graph=True)
    say(f"self-check of {len(healthy.graphs)} graphs: {'passed' if healthy.passed else 'FAILED'}")
    graphs_table(manifest)
    parity_table(ledger, manifest)
    note(f"{time.monotonic() - begin:.0f} s; open {bundle.resolve()}/report/report.html in a browser")
    finish(f"{bundle}/", f"dmdkit inspect {shlex.quote(str(bundle))}")
    if outcome(ledger, manifest) != "passed" or not healthy.passed:
        raise typer.Exit(int(ExitCode.NOT_PASSED))
