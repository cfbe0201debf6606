"""``dmdkit inspect``: what a bundle or a run holds."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from dmdkit.cli.console import note, print_json, print_table, say, verdict_text
from dmdkit.errors import ExitCode

if TYPE_CHECKING:
    from dmdkit.runtime.manifest import Manifest

__all__ = ["inspect"]


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle or a run directory.")],
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON, without the replay.")] = False,
) -> None:
    """Show what a bundle or a run holds; of a bundle, check every hash and replay the golden samples.

    Exit code 2 when a graph no longer gives what was recorded.

    Example: dmdkit inspect face.dmd
    """
    if (path / "facts.json").is_file():
        _inspect_run(path, json=json)
        return
    from dmdkit.runtime.bundle import Bundle

    opened = Bundle.open(path)
    opened.verify()
    if json:
        print_json(opened.manifest.model_dump(mode="json"))
        return
    _print_manifest(opened.manifest)
    from dmdkit.runtime import Runtime

    with Runtime.open(path, graph="fp32") as runtime:
        replayed = runtime.self_check(every_graph=True)
    for graph in replayed.graphs:
        if not graph.passed:
            say(f"{graph.graph}: {graph.worst_output} is off by {graph.max_error:.2e}, {graph.tolerance:.2e} is allowed")
    answer = "the same answers as when they were exported" if replayed.passed else "OTHER answers than when they were exported"
    say(f"every hash matches; {len(replayed.graphs)} graphs give {answer} on {replayed.samples} samples")
    note(f"next: dmdkit predict {shlex.quote(str(path))} --data FEATURES")
    if not replayed.passed:
        raise typer.Exit(int(ExitCode.NOT_PASSED))


def _print_manifest(manifest: Manifest) -> None:
    shape, source = manifest.model, manifest.source
    say(f"{manifest.name}: {manifest.task}, made {manifest.created} from {source.run} ({source.origin})")
    if manifest.label_range is not None:
        labels = f"labels from {manifest.label_range[0]:g} to {manifest.label_range[1]:g}"
    else:
        labels = f"{shape.num_outputs} classes"
    say(f"width {shape.width}, {shape.heads} heads, {shape.levels} levels; {labels}; output sd {manifest.output_sd:.3f}")
    inputs = [
        [
            name,
            str(record.steps),
            str(record.features),
            record.padding_side,
            record.normalisation,
            "yes" if record.trained_absent else "no",
            "yes" if record.minimum is not None else "no",
        ]
        for name, record in manifest.inputs.items()
    ]
    heads = ["input", "steps", "features", "padding", "normalisation", "optional", "range known"]
    print_table(heads, inputs, title="inputs, float32, batch first", right=["steps", "features"])
    graphs: list[list[str | Text]] = [
        [
            key,
            f"{manifest.files[graph.file].size_bytes / 1e6:.2f} MB",
            f"{graph.weights_stored_int8:.0%}",
            f"{graph.multiply_adds_int8:.0%}",
            f"{graph.multiply_adds / 1e6:.2f} M",
            verdict_text(graph.verdict.status),
            str(graph.verdict.samples),
        ]
        for key, graph in manifest.graphs.items()
    ]
    if manifest.text is not None:
        text = manifest.text
        trained = "fine-tuned" if text.fine_tuned else "as it came"
        say(
            f"text encoder ({trained}): {text.vocabulary_size} tokens, at most {text.max_tokens} a sentence, padded on the "
            f"{text.padding_side}, padded steps {text.padded_steps}, {text.lengths} length"
        )
    numbers = ["size", "stored", "computed", "mult-adds", "samples"]
    heads = ["graph", *numbers[:4], "verdict", "samples"]
    print_table(heads, graphs, title="graphs; the share of weights stored and of multiply-adds computed in INT8", right=numbers)
    if manifest.calibration is not None:
        say(f"calibrated on {len(manifest.calibration.sample_ids)} training samples, method {manifest.calibration.method}")
    say(f"golden: {manifest.golden.samples} {manifest.golden.kind} samples")


def _inspect_run(path: Path, *, json: bool) -> None:
    from dmdkit.cli.run import print_metrics
    from dmdkit.training.run import Run, metrics_of

    run = Run.open(path)
    metrics = metrics_of(path)
    if json:
        print_json({"facts": run.facts.model_dump(mode="json"), "metrics": metrics})
        return
    shape = run.facts.shape
    say(f"{path}: {run.facts.origin}, {run.facts.task}, width {shape.width}, {shape.heads} heads, {shape.levels} levels")
    print_metrics(metrics)
    note(f"next: dmdkit export {shlex.quote(str(path))} --int8")
