"""``dmdkit add-precision``: graphs in a further precision for a bundle that was exported without them."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dmdkit.cli.console import finish, graphs_table, note, parity_table, print_json, say, steps
from dmdkit.cli.feature_files import NanPolicy, dataset_for_bundle, split_for_bundle
from dmdkit.cli.judged_on import note_earlier_failures, note_judged_on
from dmdkit.cli.requirements import require
from dmdkit.errors import ExitCode

__all__ = ["AddedPrecision", "add_precision"]


class AddedPrecision(str, Enum):
    """Precisions whose graphs can be made from those a bundle holds; INT8 needs the run and calibration data."""

    fp16 = "fp16"


def add_precision(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory; its graphs are added to, as a whole or not at all.")],
    precision: Annotated[AddedPrecision, typer.Argument(help="fp16; INT8 is added by exporting the run again with --int8.")],
    parity_data: Annotated[
        Path | None, typer.Option(help="Held-out features to prove the new graphs; without them they stay unverified.")
    ] = None,
    parity_split: Annotated[str, typer.Option(help="Its split.")] = "test",
    json: Annotated[bool, typer.Option("--json", help="Print the manifest's graphs and the ledger as JSON.")] = False,
) -> None:
    """Add the fp16 graphs that a bundle lacks, and prove them.

    `dmdkit export --fp16` makes them at once; this is for a bundle that is there already. The rest of an int8-trt graph
    becomes fp16 too, unless the graph is proven and there is no --parity-data to prove it again. Exit code 0 when every
    graph passed parity, 2 when one failed or could not be verified.

    Example: dmdkit add-precision face.dmd fp16 --parity-data mosi.pkl
    """
    require("making fp16 graphs", "quantize", "torch", "onnx", "onnxscript", "modelopt")
    from dmdkit.export.fp16_forms import add_fp16_graphs, proven_int8_trt
    from dmdkit.parity.ledger import read_ledger
    from dmdkit.parity.verdicts import outcome
    from dmdkit.runtime.bundle import Bundle

    opened = Bundle.open(bundle)
    proven = proven_int8_trt(opened)
    parity = None
    if parity_data is not None:
        dataset = dataset_for_bundle(parity_data, opened, parity_split, nan_policy=NanPolicy.refuse)
        split_for_bundle(dataset, parity_split, opened.manifest, "--parity-split")
        parity = (dataset, parity_split)
    with steps(precision.value) as on_step:
        manifest, report = add_fp16_graphs(bundle, parity=parity, on_step=on_step)
    for name in proven:
        if name in report.graphs:
            note(f"{name} was proven and is replaced: its float layers are fp16 now; its new verdict is below")
        elif parity is None:
            note(f"{name} is proven and stays as it is; with --parity-data its float layers become fp16, and are proven again")
    if not report.graphs:
        if json:
            print_json({"bundle": str(bundle), "added": []})
        else:
            say(f"{bundle} has every {precision.value} graph already")
        return
    ledger = read_ledger(bundle)
    assert ledger is not None, "adding graphs measures them"
    note_judged_on(ledger, parity_data or bundle, parity_split)
    note_earlier_failures(ledger, manifest)
    if json:
        print_json(
            {
                "bundle": str(bundle),
                "added": sorted(report.graphs),
                "graphs": {name: graph.model_dump(mode="json") for name, graph in manifest.graphs.items()},
                "parity": ledger.model_dump(mode="json"),
            }
        )
    else:
        graphs_table(manifest)
        parity_table(ledger, manifest)
    quoted = shlex.quote(str(bundle))
    if parity is None:
        note(f"the new graphs stay unverified without held-out samples; prove them: dmdkit check {quoted} --data FEATURES")
    finish(f"{bundle}/ with {', '.join(sorted(report.graphs))}", f"dmdkit build {quoted} --precision {precision.value}")
    if outcome(ledger, manifest) != "passed":
        raise typer.Exit(int(ExitCode.NOT_PASSED))
