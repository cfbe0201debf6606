"""An opened bundle: its manifest, and files that are read only after their hash was checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmdkit.errors import BundleError
from dmdkit.files import sha256_of_bytes, stays_inside
from dmdkit.runtime.manifest import TEXT_INPUTS, GraphRecord, Manifest, read_manifest

__all__ = ["Bundle", "Golden"]

Array = npt.NDArray[np.float32]
Feed = dict[str, npt.NDArray[Any]]

_EXTERNAL = b"location"
"""The key under which ONNX says where a tensor's external data lies. No other part of our graphs is called so, and there is no
other way to write it: looking for the word refuses every graph that has any."""


@dataclass(frozen=True)
class Golden:
    """Golden samples and what was recorded on them.

    Attributes:
        inputs: Modality -> float32 (N, T, D).
        unit_inputs: Kind of a graph that takes something else -> its inputs: for a GD-Unit alone ``logits`` (N, 3, C) and
            ``representations`` (N, 3, r), for ``text`` int64 ``input_ids`` and ``attention_mask`` (N, T).
        reference: Output name -> the PyTorch model's output.
        recorded: Graph name -> output name -> that graph's own output at export time.
    """

    inputs: dict[str, Array]
    unit_inputs: dict[str, Feed]
    reference: dict[str, Array]
    recorded: dict[str, dict[str, Array]]

    def inputs_of(self, kind: str) -> Feed:
        """What a graph of this kind is fed: features, a GD-Unit's logits and representations, or tokens."""
        return self.inputs if kind in ("fusion", "explain") else self.unit_inputs[kind]

    def tensors(self) -> Feed:
        """All arrays under the flat names of ``golden/golden.safetensors``."""
        flat: Feed = {f"input/{name}": array for name, array in self.inputs.items()}
        flat |= {f"input/{kind}/{name}": a for kind, arrays in self.unit_inputs.items() for name, a in arrays.items()}
        flat |= {f"reference/{name}": array for name, array in self.reference.items()}
        flat |= {f"recorded/{graph}/{name}": a for graph, arrays in self.recorded.items() for name, a in arrays.items()}
        return flat

    @classmethod
    def from_tensors(cls, flat: Feed) -> Golden:
        """The inverse of :meth:`tensors`.

        Raises:
            ValueError: A name that does not belong.
        """
        golden = cls({}, {}, {}, {})
        for key, array in flat.items():
            match key.split("/"):
                case ["input", name]:
                    golden.inputs[name] = array
                case ["input", kind, name]:
                    golden.unit_inputs.setdefault(kind, {})[name] = array
                case ["reference", name]:
                    golden.reference[name] = array
                case ["recorded", graph, name]:
                    golden.recorded.setdefault(graph, {})[name] = array
                case _:
                    raise ValueError(f"unexpected tensor {key!r:.100}")
        return golden


@dataclass(frozen=True)
class Bundle:
    """A bundle directory whose manifest was read and checked."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Reads the manifest and checks that every listed file is there with its size.

        Raises:
            BundleError: Missing, damaged, or of another version.
        """
        bundle = cls(path, read_manifest(path))
        for name, record in bundle.manifest.files.items():
            file = path / name
            try:
                if not file.exists():
                    raise BundleError(f"{path}: {name} is missing; copy the whole directory, or export it again")
                if not stays_inside(file, path):
                    raise BundleError(
                        f"{path}: {name} is not a file of the bundle itself, or a link that leaves it; copy the file"
                    )
                size = file.stat().st_size
            except OSError as cause:
                raise BundleError(f"{path}: {name} cannot be read: {cause.strerror or cause}") from cause
            if size != record.size_bytes:
                raise BundleError(
                    f"{path}: {name} has {size} bytes, the manifest says {record.size_bytes}; "
                    "it was truncated or edited: copy it again, or export it again"
                )
        return bundle

    def graph(self, name: str) -> GraphRecord:
        """The record of graph ``name`` (``fusion.fp32``).

        Raises:
            BundleError: There is none.
        """
        try:
            return self.manifest.graphs[name]
        except KeyError:
            raise BundleError(f"{self.path}: no graph {name!r}; it has {', '.join(self.manifest.graphs)}") from None

    def read(self, name: str) -> bytes:
        """The content of a listed file, after its hash was checked.

        Raises:
            BundleError: Unreadable, its content is not what was exported, or a graph with weights in another file.
        """
        try:
            data = (self.path / name).read_bytes()
        except OSError as cause:
            raise BundleError(f"{self.path}: {name} cannot be read: {cause.strerror or cause}") from cause
        if sha256_of_bytes(data) != self.manifest.files[name].sha256:
            raise BundleError(
                f"{self.path}: {name} is not the file that was exported (its SHA-256 differs); copy or export it again"
            )
        if _EXTERNAL in data and name in self._graph_files():
            raise BundleError(
                f"{self.path}: {name} reads weights from a file outside itself, which no hash covers; export the bundle again"
            )
        return data

    def _graph_files(self) -> set[str]:
        steps = self.manifest.stream.graphs if self.manifest.stream is not None else {}
        return {record.file for record in (*self.manifest.graphs.values(), *steps.values())}

    def verify(self) -> None:
        """Checks the hash of every listed file.

        Raises:
            BundleError: As :meth:`read`.
        """
        for name in self.manifest.files:
            self.read(name)

    def golden(self) -> Golden:
        """The golden samples, as large and as complete as the manifest says.

        Raises:
            BundleError: Damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        name = self.manifest.golden.file
        data = self.read(name)
        try:
            golden = Golden.from_tensors(load(data))
            _check_golden(golden, self.manifest)
        except (
            SafetensorError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as cause:  # a dtype numpy lacks is no ValueError
            raise BundleError(f"{self.path}: {name}: damaged: {cause}; export the bundle again") from cause
        return golden


def _check_golden(golden: Golden, manifest: Manifest) -> None:
    """Raises ValueError unless every array that a self-check or a parity check will use is there and fits."""
    count = manifest.golden.samples
    for name, array in golden.tensors().items():
        dtype = np.int64 if name.startswith("input/text/") else np.float32
        if array.dtype != dtype or array.ndim < 2 or array.shape[0] != count or not np.isfinite(array).all():
            raise ValueError(f"{name} is {array.dtype} {array.shape}; expected finite {np.dtype(dtype)} of {count} samples")
    for name, record in manifest.inputs.items():
        array = golden.inputs.get(name, np.zeros(0, np.float32))
        if array.shape != (count, record.steps, record.features):
            raise ValueError(f"input/{name} has shape {array.shape}, expected {(count, record.steps, record.features)}")
    if "score" not in golden.reference:
        raise ValueError("reference/score is missing")
    for name, graph in manifest.graphs.items():
        if name not in golden.recorded:
            raise ValueError(f"nothing is recorded of {name}")
        if graph.kind not in ("fusion", "explain") and graph.kind not in golden.unit_inputs:
            raise ValueError(f"the inputs of {name} are missing")
    if manifest.text is not None:
        expected = (count, manifest.text.max_tokens)
        tokens = golden.unit_inputs["text"]
        for name in TEXT_INPUTS:
            if name not in tokens or tokens[name].shape != expected:
                raise ValueError(f"input/text/{name} is missing or does not have shape {expected}")
