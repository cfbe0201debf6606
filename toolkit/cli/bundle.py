"""``dmdkit check``, ``dmdkit predict`` and ``dmdkit inspect``: what one does with a bundle; none needs PyTorch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dmdkit.cli.backends import BackendChoice, backends_to_check
from dmdkit.cli.console import err, finish, note, parity_table, print_json, steps, verdict_text
from dmdkit.cli.console import out as console_out
from dmdkit.cli.run import NanPolicy
from dmdkit.errors import DataError, ExitCode, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dmdkit.data import Dataset, Split
    from dmdkit.runtime.manifest import Manifest

__all__ = ["check", "inspect", "predict"]


def _load(path: Path, manifest: Manifest, *, nan_policy: Literal["refuse", "zero"] = "refuse") -> Dataset:
    from dmdkit.data import load_dataset

    dataset = load_dataset(path, task=manifest.task, label_range=manifest.label_range, nan_policy=nan_policy)
    for name, record in manifest.inputs.items():
        found = (dataset.lengths[name], dataset.feature_dims[name])
        if found != (record.steps, record.features):
            raise DataError(
                f"{path}: {name} has {found[0]} steps of {found[1]} features, "
                f"the bundle takes {record.steps} of {record.features}"
            )
    return dataset


def _split(dataset: Dataset, name: str) -> Split:
    from dmdkit.cli.run import split_of

    split: Split = split_of(dataset, name)
    return split


def _reference(run: Path, manifest: Manifest) -> Callable[[Split], dict[str, Any]]:
    from dmdkit.cli.run import require_torch

    require_torch("the PyTorch hop of `check --run`")
    from dmdkit.errors import RunError
    from dmdkit.export.reference import reference_outputs
    from dmdkit.training.evaluation import load_system
    from dmdkit.training.run import Run

    opened = Run.open(run)
    if opened.model_sha256 != manifest.source.model_sha256:
        raise RunError(f"{run} is not the run this bundle was exported from (its model.safetensors differs)")
    system = load_system(opened)
    return lambda split: reference_outputs(system, split)


def check(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
    data: Annotated[Path | None, typer.Option(help="Held-out features; without it, only the golden samples.")] = None,
    split: Annotated[str, typer.Option(help="Which split of --data.")] = "test",
    run: Annotated[Path | None, typer.Option(help="The run, to recompute the first hop with PyTorch.")] = None,
    nan_policy: Annotated[
        NanPolicy, typer.Option(help="Refuse NaN and infinite features, or replace them by zero, as training may have.")
    ] = NanPolicy.refuse,
    backend: Annotated[
        BackendChoice, typer.Option(help="Measure the graphs in other backends too; auto: in those that are installed.")
    ] = BackendChoice.auto,
    json: Annotated[bool, typer.Option("--json", help="Print the ledger as JSON.")] = False,
) -> None:
    """Measure parity: every hop from PyTorch to INT8, on held-out samples, with a verdict per graph.

    Exit code 0 when everything passed, 2 when something failed or could not be verified. Writes report/parity.json and
    the verdicts in the manifest.

    Example: dmdkit check face.dmd --data mosi.pkl --split test --run runs/mosi
    """
    from dmdkit.runtime.bundle import Bundle
    from dmdkit.runtime.ledger import measure, outcome, record

    opened = Bundle.open(bundle)
    opened.verify()
    if run is not None and data is None:
        raise DataError("--run needs --data: the PyTorch hop is recomputed on held-out samples")
    reference = _reference(run, opened.manifest) if run is not None else None
    dataset = _load(data, opened.manifest, nan_policy=nan_policy.value) if data is not None else None
    with steps("checking") as advance:
        advance(f"{len(opened.manifest.graphs)} graphs")
        ledger = measure(
            opened,
            split=_split(dataset, split) if dataset is not None else None,
            split_name=split if dataset is not None else "golden",
            source=str(data) if data is not None else "golden samples",
            data_sha256=dataset.sha256 if dataset is not None else None,
            reference=reference,
            backends=backends_to_check(backend),
        )
    manifest = record(bundle, opened.manifest, ledger)
    status = outcome(ledger, manifest)
    if json:
        print_json({"status": status, **ledger.model_dump(mode="json")})
    else:
        parity_table(ledger, manifest)
        console_out.print(f"verdict: {verdict_text(status)}")
    finish(f"{bundle}/report/parity.json", f"dmdkit predict {shlex.quote(str(bundle))} --data FEATURES")
    if status != "passed":
        raise typer.Exit(int(ExitCode.NOT_PASSED))


def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
    data: Annotated[Path, typer.Option(help="MMSA .pkl, .npz or .safetensors with the bundle's widths and lengths.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    graph: Annotated[str | None, typer.Option(help="fp32, int8-cpu, ...; without it, the preferred one that passed.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many samples.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Add unimodal scores and GD-Unit edges (JSON only).")] = False,
    nan_policy: Annotated[
        NanPolicy, typer.Option(help="Refuse NaN and infinite features, or replace them by zero, as training may have.")
    ] = NanPolicy.refuse,
    out: Annotated[Path | None, typer.Option(help="Write a .csv or .json instead of printing.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --out.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a feature file with a bundle.

    Example: dmdkit predict face.dmd --data mosi.pkl --limit 5
    """
    from dmdkit.runtime import Runtime

    if out is not None and out.suffix not in (".csv", ".json"):
        raise InputError(f"--out {out}: expected a name ending in .csv or .json")
    if out is not None and out.exists() and not force:
        raise InputError(f"{out} exists; choose another --out or pass --force")
    with Runtime.open(bundle, graph=graph) as runtime:
        dataset = _load(data, runtime.manifest, nan_policy=nan_policy.value)
        part = _split(dataset, split)
        rows = []
        for index in range(min(len(part), limit or len(part))):
            sample = {name: array[index] for name, array in part.features().items()}
            found = runtime.predict(**sample)
            row: dict[str, Any] = {
                "id": part.ids[index],
                "score": [float(value) for value in found.score],
                "label": part.labels[index].item(),
                "latency_ms": round(found.latency_ms, 4),
            }
            if runtime.manifest.task == "classification":
                row["class"] = int(found.score.argmax())
            if explain:
                row["explanation"] = _explanation(runtime.explain(**sample))
            rows.append(row)
        graph_name, strange = runtime.graph, runtime.out_of_range_count
    note(f"{len(rows)} samples of the {split} split with {graph_name}")
    if strange:
        note(f"warning: {strange} samples lie outside the training range; were the features made the same way?")
    if out is not None:
        _write_rows(out, rows)
        finish(str(out))
    elif json or explain:
        print_json({"bundle": str(bundle), "graph": graph_name, "samples": rows})
    else:
        from rich.table import Table

        table = Table(pad_edge=False)
        for head in ("id", "score", "label", "ms"):
            table.add_column(head, justify="left" if head == "id" else "right")
        for row in rows:
            scores = " ".join(f"{value:+.3f}" for value in row["score"])
            table.add_row(row["id"], scores, f"{row['label']:g}", f"{row['latency_ms']:.2f}")
        console_out.print(table)


def _explanation(found: Any) -> dict[str, Any]:
    names = [f"{student}<-{teacher}" for student, teacher in found.edge_order]
    result: dict[str, Any] = {}
    for space in ("homo", "hetero"):
        logits = getattr(found, f"logit_{space}")
        edges = getattr(found, f"edges_{space}")
        result[f"logit_{space}"] = {m: [float(v) for v in row] for m, row in zip(found.modality_order, logits, strict=True)}
        if edges is not None:
            result[f"edges_{space}"] = {name: float(value) for name, value in zip(names, edges, strict=True)}
    return result


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv
    import io

    from dmdkit.files import write_json, write_text

    if path.suffix == ".json":
        write_json(path, rows, InputError)
        return
    stream = io.StringIO()
    width = len(rows[0]["score"]) if rows else 1
    heads = ["score"] if width == 1 else [f"score_{i}" for i in range(width)]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["id", *heads, "label", "latency_ms"])
    writer.writerows([row["id"], *row["score"], row["label"], row["latency_ms"]] for row in rows)
    write_text(path, stream.getvalue(), InputError)


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle or a run directory.")],
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show what a bundle holds, check every hash, and replay its golden samples.

    Example: dmdkit inspect face.dmd
    """
    if (path / "facts.json").is_file():
        _inspect_run(path, json=json)
        return
    from dmdkit.runtime.bundle import Bundle

    opened = Bundle.open(path)
    opened.verify()
    manifest = opened.manifest
    if json:
        print_json(manifest.model_dump(mode="json"))
        return
    from rich.table import Table

    console_out.print(
        f"{manifest.name}: {manifest.task}, made {manifest.created} from {manifest.source.run} ({manifest.source.origin})"
    )
    console_out.print(
        f"width {manifest.model.width}, {manifest.model.heads} heads, {manifest.model.levels} levels; "
        f"label range {manifest.label_range}; output sd {manifest.output_sd:.3f}"
    )
    table = Table(title="inputs (float32, batch first)", title_justify="left", pad_edge=False)
    for head in ("modality", "steps", "features", "padding", "normalisation", "may be absent", "range known"):
        table.add_column(head)
    for name, record in manifest.inputs.items():
        table.add_row(
            name,
            str(record.steps),
            str(record.features),
            record.padding_side,
            record.normalisation,
            "yes" if record.trained_absent else "no",
            "yes" if record.minimum is not None else "no",
        )
    console_out.print(table)
    table = Table(title="graphs", title_justify="left", pad_edge=False)
    for head in ("graph", "size", "INT8 stored", "INT8 computed", "M multiply-adds", "verdict", "on"):
        table.add_column(head)
    for key, graph in manifest.graphs.items():
        table.add_row(
            key,
            f"{manifest.files[graph.file].size_bytes / 1e6:.2f} MB",
            f"{graph.weights_stored_int8:.0%}",
            f"{graph.multiply_adds_int8:.0%}",
            f"{graph.multiply_adds / 1e6:.2f}",
            verdict_text(graph.verdict.status),
            f"{graph.verdict.samples} samples",
        )
    console_out.print(table)
    if manifest.calibration is not None:
        console_out.print(
            f"calibrated on {len(manifest.calibration.sample_ids)} training samples, method {manifest.calibration.method}"
        )
    console_out.print(f"golden: {manifest.golden.samples} {manifest.golden.kind} samples; every hash matches")
    err.print(f"[dim]next:[/dim] dmdkit predict {shlex.quote(str(path))} --data FEATURES")


def _inspect_run(path: Path, *, json: bool) -> None:
    from dmdkit.training.run import Run, metrics_of

    run = Run.open(path)
    metrics = metrics_of(path)
    if json:
        print_json({"facts": run.facts.model_dump(mode="json"), "metrics": metrics})
        return
    shape = run.facts.shape
    console_out.print(
        f"{path}: {run.facts.origin}, {run.facts.task}, width {shape.width}, {shape.heads} heads, {shape.levels} levels"
    )
    for split, values in metrics["splits"].items():
        shown = "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        console_out.print(f"{split}: {shown}")
