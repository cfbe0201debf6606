"""``dmdkit export``: a run becomes a bundle."""

from __future__ import annotations

import shlex
import tempfile
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmdkit.cli.console import counted_steps, finish, graphs_table, note, parity_table, print_json
from dmdkit.cli.feature_files import dataset_for_run, own_dataset_of_run, split_of
from dmdkit.cli.int8 import layers_table, tried_table, verdict_sentences
from dmdkit.cli.judged_on import note_judged_on
from dmdkit.cli.requirements import require
from dmdkit.cli.run import RUNS_DIR
from dmdkit.errors import BundleError, ConfigError, DataError, ExitCode

if TYPE_CHECKING:
    from dmdkit.data import Dataset
    from dmdkit.export import ParityData
    from dmdkit.parity.ledger import Ledger
    from dmdkit.runtime.manifest import Manifest
    from dmdkit.training.run import Run

__all__ = ["export", "export_run"]


class Method(str, Enum):
    """How observed activations become ranges."""

    auto = "auto"
    max = "max"
    entropy = "entropy"
    percentile = "percentile"
    mse = "mse"


class Int8Search(str, Enum):
    """Whether layers are ranked and searched."""

    auto = "auto"
    none = "none"


class GoldenChoice(str, Enum):
    """What the golden samples are."""

    auto = "auto"
    real = "real"
    synthetic = "synthetic"


def _parity_data(dataset: Dataset, split: str) -> ParityData:
    from dmdkit.data import refuse_trained_samples
    from dmdkit.export import ParityData

    refuse_trained_samples(dataset, split)
    return ParityData(split_of(dataset, split, "--parity-split"), split, dataset.source, dataset.sha256)


def export_run(
    run: Run,
    out: Path,
    *,
    int8: bool,
    fp16: bool = False,
    stream: bool = False,
    calib: Path | None = None,
    parity_data: Path | None = None,
    parity_split: str = "test",
    calib_samples: int | None = None,
    method: str = "auto",
    int8_search: str = "auto",
    int8_search_seconds: float | None = None,
    golden: str = "auto",
    force: bool = False,
) -> tuple[Manifest, Ledger | None]:
    """Exports, choosing data that was not named and saying what was chosen; see :func:`export`."""
    require("export", "export", "torch", "onnx", "onnxscript")
    if int8:
        require("INT8 quantisation", "quantize", "modelopt", "onnx_graphsurgeon")
    from dmdkit.calibration.samples import DEFAULT_CALIBRATION_SAMPLES
    from dmdkit.calibration.search.planning import DEFAULT_SEARCH_SECONDS, SearchOptions
    from dmdkit.export import ExportOptions, export_bundle

    own: Dataset | None = None
    calibration: Dataset | None = None
    if calib is not None:
        calibration = dataset_for_run(calib, run)
    elif int8:
        own = calibration = own_dataset_of_run(run, needed_for="--calib")
        note(f"calibrating on the training split of {own.source}, the run's own data; choose another with --calib")
    parity: ParityData | None = None
    if parity_data is not None:
        parity = _parity_data(dataset_for_run(parity_data, run), parity_split)
    elif run.config.data.path is None:
        note("parity is not measured: the run does not know its data; name held-out samples with --parity-data")
    else:
        try:
            own = own or own_dataset_of_run(run, needed_for="--parity-data")
            parity = _parity_data(own, parity_split)
            note(f"checking parity on the {parity_split} split of {own.source}; choose another with --parity-data")
        except DataError as cause:
            note(f"parity is not measured: {cause}")
    options = ExportOptions(
        int8=int8,
        fp16=fp16,
        stream=stream,
        calibration=calibration,
        calibration_samples=calib_samples or DEFAULT_CALIBRATION_SAMPLES,
        search=SearchOptions(
            mode=int8_search,  # type: ignore[arg-type]
            seconds=int8_search_seconds or DEFAULT_SEARCH_SECONDS,
            method=None if method == "auto" else method,  # type: ignore[arg-type]
        ),
        parity=parity,
        golden=golden,  # type: ignore[arg-type]
        force=force,
    )
    with counted_steps("exporting") as (on_step, on_progress):
        return export_bundle(run, out, options, on_step, on_progress)


def _named(out: Path) -> Path:
    """``out`` with the name that ``.`` and ``..`` stand for: a bundle is called after its directory.

    Raises:
        BundleError: It has none.
    """
    target = out.resolve() if out.name in ("", "..") else out
    if not target.name:
        raise BundleError(
            f"--out {out} has no name to call the bundle by; name a directory in it, such as {target / 'face.dmd'}"
        )
    return target


def _check_writable(target: Path) -> None:
    """Finds out before minutes of work whether ``target`` can be made; nothing stays behind.

    Raises:
        BundleError: It cannot.
    """
    place = next(folder for folder in target.absolute().parents if folder.exists())
    try:
        tempfile.TemporaryDirectory(prefix=".dmdkit-", dir=place).cleanup()
    except OSError as cause:
        raise BundleError(f"cannot write {target}: {cause.strerror or cause}; choose a writable --out") from cause


def _check_unused(*, int8: bool, samples: int | None, method: Method, search: Int8Search, seconds: float | None) -> None:
    """Refuses options that only say how to quantise, where nothing is quantised: ``--int8`` was forgotten."""
    asked = {
        "--calib-samples": samples is not None,
        "--method": method is not Method.auto,
        "--int8-search": search is not Int8Search.auto,
        "--int8-search-seconds": seconds is not None,
    }
    unused = [option for option, given in asked.items() if given]
    if unused and not int8:
        raise ConfigError(f"{', '.join(unused)}: without --int8 there is nothing to calibrate; add --int8, or leave it out")


def export(
    run: Annotated[Path | None, typer.Argument(help="A run directory; without it, the newest run under runs/.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Add the INT8 forms, for TensorRT and for the CPU.")] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Add the fp16 forms, for engines; with --int8, the rest of int8-trt is fp16 too.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Add the step graphs, which answer at every step of a stream.")
    ] = False,
    calib: Annotated[
        Path | None, typer.Option(help="Feature file whose training split calibrates; without it, the run's own data.")
    ] = None,
    calib_samples: Annotated[int | None, typer.Option(min=1, help="How many samples to calibrate on at most.")] = None,
    method: Annotated[
        Method, typer.Option(help="How activation ranges are chosen; auto: the one with the best parity, tried here.")
    ] = Method.auto,
    int8_search: Annotated[
        Int8Search, typer.Option(help="auto: rank the layers, keep in float what INT8 harms or slows down; none: take all.")
    ] = Int8Search.auto,
    int8_search_seconds: Annotated[
        float | None, typer.Option(min=1.0, help="No step of that search begins after so long; it can be resumed.")
    ] = None,
    parity_data: Annotated[
        Path | None, typer.Option(help="Feature file to measure parity on; without it, the run's own data.")
    ] = None,
    parity_split: Annotated[str, typer.Option(help="Its split.")] = "test",
    golden: Annotated[
        GoldenChoice, typer.Option(help="Golden samples: real held-out ones, or synthetic ones for privacy.")
    ] = GoldenChoice.auto,
    out: Annotated[Path | None, typer.Option(help="The bundle; without it, the run's name with .dmd.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle; its engines/ stays.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest's graphs and the ledger as JSON.")] = False,
) -> None:
    """Export the student path, the explanation and the GD-Units of a run to a bundle, and prove it.

    Exit code 0 when every graph passed parity, 2 when one failed or could not be verified.

    Examples: dmdkit export --int8

    dmdkit export runs/mosi --int8 --calib mosi.pkl --parity-data mosi.pkl --out face.dmd
    """
    _check_unused(int8=int8, samples=calib_samples, method=method, search=int8_search, seconds=int8_search_seconds)
    require("export", "export", "torch", "onnx", "onnxscript")
    from dmdkit.parity.int8_report import read_int8_report
    from dmdkit.parity.verdicts import outcome
    from dmdkit.training.run import Run, newest_run

    if run is None:
        opened = newest_run(RUNS_DIR)
        note(f"no run given: exporting the newest, {opened.path}; name another as the first argument")
    else:
        opened = Run.open(run)
    target = _named(out) if out is not None else Path(f"{opened.path.resolve().name}.dmd")
    _check_writable(target)
    manifest, ledger = export_run(
        opened,
        target,
        int8=int8,
        fp16=fp16,
        stream=stream,
        calib=calib,
        parity_data=parity_data,
        parity_split=parity_split,
        calib_samples=calib_samples,
        method=method.value,
        int8_search=int8_search.value,
        int8_search_seconds=int8_search_seconds,
        golden=golden.value,
        force=force,
    )
    report = read_int8_report(target)
    measured_on = str(parity_data or opened.config.data.path)
    if ledger is not None:
        note_judged_on(ledger, measured_on, parity_split)
    if json:
        print_json(
            {
                "bundle": str(target),
                "graphs": {name: graph.model_dump(mode="json") for name, graph in manifest.graphs.items()},
                "parity": ledger.model_dump(mode="json") if ledger else None,
                "int8": report.model_dump(mode="json") if report else None,
            }
        )
    else:
        graphs_table(manifest)
        if ledger is not None:
            parity_table(ledger, manifest)
        if report is not None:
            tried_table(report)
            layers_table(report)
            verdict_sentences(report)
    quoted = shlex.quote(str(target))
    note(f"to read and to send on: {target}/report/report.html")
    if ledger is None:
        finish(f"{target}/, not yet proven", f"dmdkit check {quoted} --data FEATURES --run {shlex.quote(str(opened.path))}")
        raise typer.Exit(int(ExitCode.NOT_PASSED))
    finish(f"{target}/", f"dmdkit predict {quoted} --data {shlex.quote(measured_on)}")
    if outcome(ledger, manifest) != "passed":
        raise typer.Exit(int(ExitCode.NOT_PASSED))
