"""The files of a bundle on disk: graphs, golden samples and manifest, for a new bundle and for precisions added to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from dmdkit.export.graphs import ExportedGraph
from dmdkit.files import sha256_of_bytes
from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner
from dmdkit.runtime.bundle import Golden
from dmdkit.runtime.manifest import FileRecord, Manifest, write_manifest

__all__ = ["file_records", "golden_bytes", "graph_files", "record_outputs", "write_bundle"]


def graph_files(graphs: Sequence[ExportedGraph]) -> dict[str, bytes]:
    """Path in the bundle -> ONNX file of each graph, the same bytes for the same graph."""
    return {graph.file: graph.model.SerializeToString(deterministic=True) for graph in graphs}


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
