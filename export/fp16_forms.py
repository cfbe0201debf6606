"""fp16 graphs of a bundle: made at export, or added later to a bundle that lacks them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto
from pydantic import BaseModel, ConfigDict, ValidationError

from dmdkit.calibration.fp16 import lower_to_fp16
from dmdkit.data import Dataset
from dmdkit.errors import BundleError
from dmdkit.export.bundle_files import file_records, golden_bytes, graph_files, record_outputs, write_bundle
from dmdkit.export.fp16_check import probed
from dmdkit.export.graphs import ExportedGraph
from dmdkit.export.int8_export import with_fp16_rest
from dmdkit.export.onnx_writer import check_contract
from dmdkit.export.text_lengths import with_fixed_length
from dmdkit.files import atomic_directory, locked_directory, write_json
from dmdkit.parity.int8_report import read_int8_report, write_int8_report
from dmdkit.parity.int8_verdict import judged_again
from dmdkit.parity.ledger import CHANGING, REPORT_FILE, measure, record
from dmdkit.report import write_report
from dmdkit.runtime.backends.base import Feed
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.record import ENGINES
from dmdkit.runtime.manifest import MANIFEST_FILE, GraphRecord, Manifest

__all__ = ["FP16_REPORT", "Fp16Graph", "Fp16Report", "add_fp16_graphs", "fp16_graphs", "has_fp16_rest", "proven_int8_trt"]

Array = npt.NDArray[np.float32]
FP16_REPORT = "report/fp16.json"
_RANGE_SAMPLES = 32  # every intermediate value of every sample is looked at; more samples found no further node


class Fp16Graph(BaseModel):
    """What became of one graph.

    Attributes:
        nodes: Nodes that compute with floats.
        kept_fp32: Those that stayed in fp32, by name.
        output_sd: Standard deviation of what is compared: the score, or a text encoder's features.
        golden_error: Its largest error against the graph this one was made from.
        hostile_error: The same on what fp16 holds worst: half of every sequence at 1e-9 for features, and all but a
            few tokens of every sentence masked for a text encoder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    nodes: int
    kept_fp32: list[str]
    output_sd: float
    golden_error: float
    hostile_error: float


class Fp16Report(BaseModel):
    """``report/fp16.json``: graph name -> what became of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    graphs: dict[str, Fp16Graph]

    def beside_int8(self) -> dict[str, list[str]]:
        """Kind of the graphs whose ``int8-trt`` form has its rest in fp16 -> nodes that stayed in fp32."""
        found = {kind: self.graphs.get(f"{kind}.int8-trt") for kind in ("explain", "text")}
        return {kind: graph.kept_fp32 for kind, graph in found.items() if graph is not None}


def has_fp16_rest(model: onnx.ModelProto) -> bool:
    """Whether a graph holds fp16 constants, as every graph with fp16 layers does."""
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)


def _converted(graph: ExportedGraph, samples: Feed) -> tuple[ExportedGraph, Fp16Graph]:
    lowering = lower_to_fp16(graph.model, samples)
    check_contract(lowering.model)
    precision = "fp16" if graph.precision == "fp32" else graph.precision
    made = ExportedGraph(
        graph.kind, precision, lowering.model, lowering.session_options, lowering.simulated_on_cpu, graph.calibrated
    )
    errors = probed(made, graph, samples)
    return made, Fp16Graph(
        nodes=lowering.nodes,
        kept_fp32=list(lowering.kept_fp32),
        output_sd=errors.output_sd,
        golden_error=errors.ordinary,
        hostile_error=errors.hostile,
    )


def _spread(samples: Feed) -> dict[str, npt.NDArray[Any]]:
    count = len(next(iter(samples.values())))
    chosen = np.unique(np.linspace(0, count - 1, min(count, _RANGE_SAMPLES)).round().astype(np.int64))
    return {name: np.ascontiguousarray(array[chosen]) for name, array in samples.items()}


def fp16_graphs(
    graphs: list[ExportedGraph],
    samples: Mapping[str, Array],
    on_step: Callable[[str], None],
    tokens: Mapping[str, npt.NDArray[np.int64]] | None = None,
    leave: Collection[str] = (),
) -> tuple[list[ExportedGraph], Fp16Report]:
    """``graphs`` with the fp16 forms they lack, and ``int8-trt`` with fp16 in place of its fp32 layers.

    Strong typing would otherwise leave those layers in fp32 on a device. Fusion, explain and the text encoder get them;
    GD-Units alone stay fp32.

    Args:
        graphs: As exported; none is changed.
        samples: float32 (N, T, D) per modality, to see the ranges.
        on_step: Called with each graph name before its work.
        tokens: int64 (N, T) per input of the text encoder; None only where there is none.
        leave: Names of ``int8-trt`` graphs that stay as they are.
    """
    features = _spread(samples)
    words = _spread(tokens) if tokens is not None else {}
    held = {graph.name for graph in graphs}
    found: list[ExportedGraph] = []
    report: dict[str, Fp16Graph] = {}
    for graph in graphs:
        whole = not graph.kind.startswith("gd_")
        again = graph.precision == "int8-trt" and whole and graph.name not in leave and not has_fp16_rest(graph.model)
        if not again:
            found.append(graph)
        if again or (whole and graph.precision == "fp32" and f"{graph.kind}.fp16" not in held):
            on_step(f"{graph.kind}.fp16" if graph.precision == "fp32" else f"{graph.name} with fp16 layers")
            made, facts = _converted(graph, words if graph.kind == "text" else features)
            found.append(made)
            report[made.name] = facts
    return found, Fp16Report(graphs=report)


def _earlier(path: Path) -> dict[str, Fp16Graph]:
    """What an earlier report says of graphs that are not made again; nothing where it is absent or not readable."""
    try:
        return Fp16Report.model_validate_json((path / FP16_REPORT).read_bytes()).graphs
    except (OSError, ValidationError):
        return {}


def _load(bundle: Bundle) -> list[ExportedGraph]:
    return [
        ExportedGraph(
            graph.kind,
            graph.precision,
            _at_full_length(bundle, graph),
            dict[str, str](graph.session_options.items()),
            graph.simulated_on_cpu,
            bundle.manifest.calibration is not None and name in bundle.manifest.calibration.used_by,
        )
        for name, graph in bundle.manifest.graphs.items()
    ]


def _at_full_length(bundle: Bundle, graph: GraphRecord) -> ModelProto:
    """The model of a graph; of a text graph that takes any length, as it was before that."""
    model, text = onnx.load_from_string(bundle.read(graph.file)), bundle.manifest.text
    return with_fixed_length(model, text.max_tokens) if text is not None and graph.kind == "text" else model


def _state(path: Path) -> list[bytes | None]:
    """What a check or another precision added to a bundle would change."""
    files = (path / MANIFEST_FILE, path / REPORT_FILE)
    return [file.read_bytes() if file.is_file() else None for file in files]


def proven_int8_trt(bundle: Bundle) -> list[str]:
    """Names of the ``int8-trt`` graphs that passed parity and whose float layers are fp32."""
    return [
        name
        for name, graph in bundle.manifest.graphs.items()
        if graph.precision == "int8-trt"
        and graph.verdict.status == "passed"
        and not has_fp16_rest(onnx.load_from_string(bundle.read(graph.file)))
    ]


def add_fp16_graphs(
    path: Path,
    *,
    parity: tuple[Dataset, str] | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> tuple[Manifest, Fp16Report]:
    """Adds the fp16 forms that are missing to the bundle at ``path``; the bundle is replaced as a whole, or not at all.

    Where none is missing, nothing is written or measured, and the report is empty. An ``int8-trt`` graph that passed parity
    is replaced, by one with fp16 in place of its fp32 layers, only where ``parity`` proves the new one.

    Args:
        path: The bundle's directory.
        parity: Held-out features and the split to measure the new verdicts on; None: the golden samples, which leave
            the new graphs ``unverified``.
        on_step: Called with the name of each step before its work.

    Raises:
        DmdkitError: One readable message; the bundle is then as it was, or as whoever else changed it left it.
    """
    Bundle.open(path)  # before the lock, which makes a directory that is not there
    with locked_directory(path, BundleError, busy=CHANGING):
        return _add_fp16_graphs(path, parity, on_step)


def _add_fp16_graphs(
    path: Path, parity: tuple[Dataset, str] | None, on_step: Callable[[str], None]
) -> tuple[Manifest, Fp16Report]:
    before = _state(path)
    bundle = Bundle.open(path)
    leave = proven_int8_trt(bundle) if parity is None else ()
    manifest, golden = bundle.manifest, bundle.golden()
    graphs, report = fp16_graphs(_load(bundle), golden.inputs, on_step, golden.unit_inputs.get("text"), leave)
    if not report.graphs:
        return manifest, report
    changed = [graph for graph in graphs if graph.name in report.graphs]
    on_step("golden samples")
    files = graph_files(changed, manifest.text)
    record_outputs(golden, changed, files)
    files[manifest.golden.file] = golden_bytes(golden)
    updated = manifest.model_copy(
        update={
            "graphs": manifest.graphs | {graph.name: graph.record() for graph in changed},
            "files": manifest.files | file_records(files),
        }
    )
    with atomic_directory(path, BundleError, replace=True, keep=(ENGINES,)) as directory:
        for entry in path.iterdir():
            if entry.is_dir() and entry.name != ENGINES:
                shutil.copytree(entry, directory / entry.name)
            elif entry.name != ENGINES:
                shutil.copy2(entry, directory / entry.name)
        write_bundle(directory, updated, files)
        complete_report = Fp16Report(graphs=_earlier(path) | report.graphs)
        write_json(directory / FP16_REPORT, complete_report.model_dump(mode="json"), BundleError)
        on_step("parity")
        dataset, split = parity if parity is not None else (None, "golden")
        ledger = measure(
            Bundle.open(directory),
            split=dataset.splits[split] if dataset is not None else None,
            split_name=split,
            source=Path(dataset.source).name if dataset is not None else "golden samples",
            data_sha256=dataset.sha256 if dataset is not None else None,
        )
        judged = record(directory, updated, ledger)
        int8 = read_int8_report(directory)
        if int8 is not None:
            layers = with_fp16_rest(int8.layers, report.beside_int8())
            write_int8_report(directory, judged_again(int8.model_copy(update={"layers": layers}), judged, ledger))
        write_report(directory)
        if _state(path) != before:
            raise BundleError(f"{path} was changed while graphs were added, so nothing was added; run this again")
    return judged, report
