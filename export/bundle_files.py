"""The files of a bundle on disk: graphs, golden samples and manifest, for a new bundle and for precisions added to one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from dmdkit.errors import BundleError
from dmdkit.export.graphs import ExportedGraph
from dmdkit.export.text_lengths import with_dynamic_length
from dmdkit.files import foreign_entries, sha256_of_bytes
from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner
from dmdkit.runtime.bundle import Golden
from dmdkit.runtime.engines.record import ENGINES
from dmdkit.runtime.manifest import FileRecord, Manifest, TextRecord, write_manifest

__all__ = ["check_replaceable", "file_records", "golden_bytes", "graph_files", "record_outputs", "write_bundle"]


_FOLDERS = r"(graphs/|golden/|calibration/|report/)?"
_OURS = re.compile(
    r"manifest\.json|tokenizer\.json|golden/golden\.safetensors|(calibration|provenance)/samples\.json"
    r"|graphs/(fusion|explain|text|stream|gd_homo|gd_hetero)(\.[a-z0-9-]+)?\.onnx"
    r"|report/(parity\.json|int8\.json|fp16\.json|report\.html)"
    rf"|{_FOLDERS}\.[a-z0-9]+-\w{{8}}\.tmp\.(json|html)"  # of a check that was killed
    rf"|{ENGINES}/.*",  # stays whole, so whatever is in it is not in the way
    re.DOTALL,
)


def check_replaceable(out: Path, *, force: bool) -> None:
    """Checks that a bundle may be written to ``out``: nothing is there, or with ``force`` nothing but a bundle.

    ``engines/`` may hold anything: it moves into the new bundle, whose runtime opens only what was built from its graphs.

    Raises:
        BundleError: It exists without ``force``, is no bundle, or holds anything that is not a bundle's.
    """
    if not out.exists():
        return
    if not force:
        raise BundleError(f"{out} exists; choose another --out, or pass --force to replace it")
    if not (out / "manifest.json").is_file():
        raise BundleError(f"{out} is not a bundle, so --force does not replace it; choose another --out")
    foreign = foreign_entries(out, lambda name: _OURS.fullmatch(name) is not None)
    if foreign:
        shown = ", ".join(foreign[:5])
        raise BundleError(
            f"{out} holds what is not a bundle's ({shown}), so it is left alone; move that, or choose another --out"
        )


def graph_files(graphs: Sequence[ExportedGraph], text: TextRecord | None) -> dict[str, bytes]:
    """Path in the bundle -> ONNX file of each graph, the same bytes for the same graph.

    Args:
        graphs: Graphs to write; those of a text encoder at their full length.
        text: The manifest's record of the text encoder, which says whether they are written so.
    """
    any_length = text is not None and text.lengths == "dynamic"
    models = {
        graph.file: with_dynamic_length(graph.model, text.max_tokens)
        if text is not None and any_length and graph.kind == "text"
        else graph.model
        for graph in graphs
    }
    return {file: model.SerializeToString(deterministic=True) for file, model in models.items()}


def record_outputs(golden: Golden, graphs: Sequence[ExportedGraph], files: Mapping[str, bytes]) -> None:
    """Puts into ``golden`` what each of ``graphs`` gives on its samples in ONNX Runtime here."""
    for graph in graphs:
        with OnnxRuntimeRunner(graph.name, files[graph.file], graph.session_options) as runner:
            golden.recorded[graph.name] = runner.infer(golden.inputs_of(graph.kind))


def golden_bytes(golden: Golden) -> bytes:
    """The file of golden samples."""
    return safetensors_bytes({name: np.ascontiguousarray(array) for name, array in golden.tensors().items()})


def file_records(files: Mapping[str, bytes]) -> dict[str, FileRecord]:
    """Path -> hash and size, as the manifest lists them."""
    return {name: FileRecord(sha256=sha256_of_bytes(data), size_bytes=len(data)) for name, data in files.items()}


def write_bundle(directory: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Writes ``files``, then the manifest that lists them, into ``directory``."""
    for name, data in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(data)
    write_manifest(directory, manifest)
