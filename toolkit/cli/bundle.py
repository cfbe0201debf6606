"""``dmdkit check`` and ``dmdkit predict``: what one does with a bundle; neither needs PyTorch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from dmdkit.cli.backends import BackendChoice, backends_to_check
from dmdkit.cli.console import finish, note, out, parity_table, print_json, print_table, steps, verdict_text
from dmdkit.cli.feature_files import NanPolicy, dataset_for_bundle, note_changes, split_for_bundle
from dmdkit.cli.int8 import verdict_sentences
from dmdkit.cli.judged_on import note_earlier_failures, note_judged_on
from dmdkit.cli.requirements import require
from dmdkit.cli.score_rows import known_label, score_heads, write_rows
from dmdkit.errors import BundleError, DataError, ExitCode, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dmdkit.data import Dataset, Split
    from dmdkit.parity.int8_report import Int8Report
    from dmdkit.parity.ledger import Ledger
    from dmdkit.runtime import Runtime
    from dmdkit.runtime.bundle import Bundle
    from dmdkit.runtime.manifest import Manifest
    from dmdkit.training.run import Run

__all__ = ["check", "predict"]


def _run_of(run: Path, manifest: Manifest) -> Run:
    """The run a bundle was exported from."""
    require("the PyTorch hop of `check --run`", "train", "torch")
    from dmdkit.errors import RunError
    from dmdkit.files import sha256_of_file
    from dmdkit.training.run import TEXT_DIR, Run

    opened = Run.open(run)
    if opened.model_sha256 != manifest.source.model_sha256:
        raise RunError(f"{run} is not the run this bundle was exported from (its model.safetensors differs)")
    encoder = run / TEXT_DIR / "model.safetensors"
    if manifest.text is not None and (not encoder.is_file() or sha256_of_file(encoder) != manifest.text.encoder_sha256):
        raise RunError(f"{run} is not the run this bundle was exported from (its text encoder differs)")
    return opened


def _reference(run: Run) -> Callable[[Split], dict[str, Any]]:
    from dmdkit.export.reference import reference_outputs
    from dmdkit.training.evaluation import load_system

    system = load_system(run)
    return lambda split: reference_outputs(system, split)


def _keep(bundle: Bundle, ledger: Ledger, report: Int8Report | None) -> Path | BundleError:
    """Writes what was measured into the bundle; returns the report for people, or why the bundle cannot be written."""
    from dmdkit.parity.int8_report import write_int8_report
    from dmdkit.parity.ledger import keep
    from dmdkit.report import write_report

    try:
        keep(bundle, ledger)
        if report is not None:
            write_int8_report(bundle.path, report)
        return write_report(bundle.path)
    except BundleError as cause:
        return cause


def _say_where(page: Path | BundleError, bundle: Path, data: Path | None, status: str) -> None:
    """Says where the verdict is kept, or that it is not; a verdict that passed and is lost is an error of its own."""
    if isinstance(page, Path):
        features = shlex.quote(str(data)) if data is not None else "FEATURES"
        finish(str(page), f"dmdkit predict {shlex.quote(str(bundle))} --data {features}")
        return
    said = f"the verdict is not kept in the bundle: {page}, or check a copy of it"
    if status == "passed":
        raise BundleError(said) from page
    note(said)


def _subsets_table(ledger: Ledger) -> None:
    """Prints the usual metrics with only some modalities there, the others all zero."""
    if not ledger.subsets:
        return
    known = next(iter(ledger.subsets.values()))
    names = [
        name for name in ("mae", "corr", "acc2_non_zero", "acc2_midpoint", "accuracy", "f1") if known.get(name) is not None
    ]
    rows = [
        [there, *("-" if found.get(name) is None else f"{found[name]:.3f}" for name in names)]
        for there, found in ledger.subsets.items()
    ]
    print_table(["modalities there", *names], rows, title="fusion.fp32, the other modalities all zero", right=names)


def _lengths_table(ledger: Ledger) -> None:
    """Prints the error of every text graph on sentences of each length, with the limit, where it was measured."""
    tokens = sorted({record.tokens for record in ledger.lengths})
    rows: dict[str, list[str]] = {}
    for record in ledger.lengths:
        row = rows.setdefault(record.target, [record.target, f"{record.limit:.2g}"])
        row.append(("" if record.status == "passed" else "failed: ") + ("-" if record.error is None else f"{record.error:.2g}"))
    heads = ["graph, tokens of a sentence", "limit", *map(str, tokens)]
    if rows:
        print_table(heads, list(rows.values()), title="error of the score at single lengths", right=heads[1:])


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
    sample_values: Annotated[
        bool | None,
        typer.Option(
            "--sample-values/--no-sample-values",
            help="Keep scores and labels of single samples in the report; without it, where the golden samples are real.",
        ),
    ] = None,
    runner: Annotated[
        Path | None, typer.Option(help="A dmdkit-run, to measure C++ against Python: build/native/bin/dmdkit-run.")
    ] = None,
    runner_timeout: Annotated[float, typer.Option(min=1.0, help="Seconds --runner may take for one graph.")] = 600.0,
    json: Annotated[bool, typer.Option("--json", help="Print the ledger as JSON.")] = False,
) -> None:
    """Measure parity: every hop from PyTorch to INT8, on held-out samples, with a verdict per graph.

    Exit code 0 when everything passed, 2 when something failed or could not be verified. Samples that trained the model, chose
    something or calibrated INT8 are left out. Writes report/parity.json, report/report.html, and the verdicts in the manifest.

    Example: dmdkit check face.dmd --data mosi.pkl --split test --run runs/mosi
    """
    from dmdkit.parity.cpp_runner import CppRunner
    from dmdkit.parity.int8_report import int8_report_or_why
    from dmdkit.parity.int8_verdict import judged_again
    from dmdkit.parity.ledger import measure
    from dmdkit.parity.verdicts import judged, outcome
    from dmdkit.runtime.bundle import Bundle

    native = CppRunner(runner, timeout_s=runner_timeout) if runner is not None else None
    if run is not None and data is None:
        raise DataError("--run needs --data: the PyTorch hop is recomputed on held-out samples")
    opened = Bundle.open(bundle)
    opened.verify()
    opened_run = _run_of(run, opened.manifest) if run is not None else None
    reference = _reference(opened_run) if opened_run is not None else None
    dataset = None
    if data is not None:
        dataset = dataset_for_bundle(data, opened, split, nan_policy=nan_policy, encode_with=opened_run)
        note_changes(dataset, "replaced by 0", "set to 0", "were cut")
    held_out = split_for_bundle(dataset, split, opened.manifest) if dataset is not None else None
    with steps("checking") as on_step:
        on_step(f"{len(opened.manifest.graphs)} graphs")
        ledger = measure(
            opened,
            split=held_out,
            split_name=split if dataset is not None else "golden",
            source=data.name if data is not None else "golden samples",
            data_sha256=dataset.sha256 if dataset is not None else None,
            reference=reference,
            backends=backends_to_check(backend),
            sample_values=sample_values,
            native=native,
        )
    report, damage = int8_report_or_why(bundle)
    if damage:
        note(f"{damage} (it only says whether INT8 is worth it; the verdicts do not rest on it)")
    manifest = judged(opened.manifest, ledger)
    if report is not None:
        report = judged_again(report, manifest, ledger)
    status = outcome(ledger, manifest)
    page = _keep(opened, ledger, report)
    note_judged_on(ledger, data or bundle, split)
    note_earlier_failures(ledger, manifest)
    if json:
        int8 = [target.model_dump(mode="json") for target in report.targets] if report is not None else []
        print_json({"status": status, **ledger.model_dump(mode="json"), "int8": int8})
    else:
        parity_table(ledger, manifest)
        _subsets_table(ledger)
        _lengths_table(ledger)
        if ledger.stream_cost:
            mae = {name: values.get("mae") for name, values in ledger.stream_cost.items()}
            said = ", ".join(f"{name} {value:.3f}" for name, value in mae.items() if value is not None)
            note(f"streaming a model that was trained padded: MAE {said}" if said else "streaming: see report/parity.json")
        if report is not None:
            verdict_sentences(report)
        out.print(Text.assemble("verdict: ", verdict_text(status)))
    _say_where(page, bundle, data, status)
    if status != "passed":
        raise typer.Exit(int(ExitCode.NOT_PASSED))


def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
    data: Annotated[Path, typer.Option(help="MMSA .pkl, .npz or .safetensors with the bundle's widths and lengths.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    graph: Annotated[str | None, typer.Option(help="fp32, int8-cpu, ...; without it, the preferred one that passed.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many samples.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Add unimodal scores and GD-Unit edges (JSON only).")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Push each sample step by step: the score at every step.")] = False,
    nan_policy: Annotated[
        NanPolicy, typer.Option(help="Refuse NaN and infinite features, or replace them by zero, as training may have.")
    ] = NanPolicy.refuse,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write a .csv or .json instead of printing.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --out.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a feature file with a bundle, without PyTorch; labels are shown where it has them.

    Example: dmdkit predict face.dmd --data mosi.pkl --limit 5
    """
    from dmdkit.runtime import Runtime
    from dmdkit.runtime.bundle import Bundle

    _check_out_file(out_file, force=force, explain=explain)
    with Runtime.open(bundle, graph=graph) as runtime:
        opened = Bundle.open(bundle)
        # A window's words are encoded one by one, as an application's; a stream hears the steps that the encoder makes of them.
        dataset = dataset_for_bundle(data, opened, split, nan_policy=nan_policy, for_verdict=False, encode=stream)
        part = split_for_bundle(dataset, split, runtime.manifest)
        note_changes(dataset, "replaced by 0", "set to 0", "warning: ")
        if stream:
            _predict_stream(runtime, dataset, split, limit, data, out_file, json=json, explain=explain)
            return
        rows = []
        for index in range(min(len(part), limit or len(part))):
            sample: dict[str, Any] = {name: array[index] for name, array in part.features().items()}
            if part.tokens is not None:
                sample["text"] = _words(part, index)
            try:
                found = runtime.predict(**sample)
            except InputError as cause:
                raise InputError(f"{data}: sample {part.ids[index]!r}: {cause}") from cause
            row: dict[str, Any] = {"id": part.ids[index]}
            if runtime.manifest.task == "classification":
                row["class"] = int(found.score.argmax())
            row["score"] = [float(value) for value in found.score]
            row["label"] = known_label(part.labels[index])
            row["latency_ms"] = round(found.latency_ms, 4)
            if explain:
                row["explanation"] = _explanation(runtime.explain(**sample))
            rows.append(row)
        graph_name, strange, cut = runtime.graph, runtime.out_of_range_count, runtime.truncated_count
        graph_name += f" after {runtime.text_graph}" if runtime.text_graph is not None else ""
    note(f"{len(rows)} samples of the {split} split with {graph_name}")
    if cut:
        note(f"{cut} sentences are longer than the text encoder reads and were cut")
    _note_strange(strange)
    if out_file is not None:
        _write_rows(out_file, rows)
        finish(str(out_file))
    elif json or explain:
        print_json({"bundle": str(bundle), "graph": graph_name, "samples": rows})
    else:
        _print_rows(rows)


def _note_strange(count: int) -> None:
    if count:
        note(f"warning: {count} samples lie outside the training range; were the features made the same way?")


def _predict_stream(
    runtime: Runtime,
    dataset: Dataset,
    split: str,
    limit: int | None,
    data: Path,
    out_file: Path | None,
    *,
    json: bool,
    explain: bool,
) -> None:
    """``predict --stream`` on an opened bundle."""
    from dmdkit.cli.stream import print_stream, stream_rows, streamed_split, write_stream

    stream, part = runtime.stream(past_limit="window"), streamed_split(dataset, split, runtime)
    rows = stream_rows(stream, part, limit, data, runtime.manifest, explain=explain)
    for text in runtime.notes:
        note(text)
    note(f"{len(rows)} samples of the {split} split, step by step with {stream.graph}")
    _note_strange(sum(bool(row["out_of_range"]) for row in rows))
    if out_file is not None:
        write_stream(out_file, rows)
        finish(str(out_file))
    elif json or explain:
        print_json({"graph": stream.graph, "samples": rows})
    else:
        print_stream(rows, classes=runtime.manifest.task == "classification")


def _check_out_file(path: Path | None, *, force: bool, explain: bool) -> None:
    if path is None:
        return
    if path.suffix not in (".csv", ".json"):
        raise InputError(f"--out {path}: expected a name ending in .csv or .json")
    if path.exists() and not force:
        raise InputError(f"{path} exists; choose another --out or pass --force")
    if explain and path.suffix == ".csv":
        raise InputError(f"--out {path}: explanations do not fit a .csv; name a .json, or leave out --explain")


def _words(part: Split, index: int) -> Any:
    """What a sample says: its transcript, or its token ids where the file has only those."""
    assert part.tokens is not None
    return part.raw_text[index] if part.raw_text is not None else part.tokens[index, 0][part.tokens[index, 1] == 1]


def _print_rows(rows: list[dict[str, Any]]) -> None:
    classes = bool(rows) and "class" in rows[0]
    heads = ["id", "class", "logit", "label", "ms"] if classes else ["id", "score", "label", "ms"]
    cells = []
    for row in rows:
        found = [str(row["class"]), f"{max(row['score']):+.3f}"] if classes else [f"{row['score'][0]:+.3f}"]
        label = "-" if row["label"] is None else f"{row['label']:g}"
        cells.append([row["id"], *found, label, f"{row['latency_ms']:.2f}"])
    print_table(heads, cells, right=heads[1:])


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
    classes = ["class"] if rows and "class" in rows[0] else []
    heads = ["id", *classes, *score_heads(len(rows[0]["score"]) if rows else 1), "label", "latency_ms"]
    lines = [[row["id"], *(row[key] for key in classes), *row["score"], row["label"], row["latency_ms"]] for row in rows]
    write_rows(path, rows, heads, lines)
