"""An opened bundle: its manifest, and files that are read only after their hash was checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dmdkit.errors import BundleError
from dmdkit.files import sha256_of_bytes
from dmdkit.runtime.manifest import GraphRecord, Manifest, read_manifest

__all__ = ["Bundle", "Golden"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    """Golden samples and what was recorded on them.

    Attributes:
        inputs: Modality -> float32 (N, T, D).
        unit_inputs: GD graph kind -> its inputs, logits (N, 3, C) and representations (N, 3, r).
        reference: Output name -> the PyTorch model's output.
        recorded: Graph name -> output name -> that graph's own output at export time.
    """

    inputs: dict[str, Array]
    unit_inputs: dict[str, dict[str, Array]]
    reference: dict[str, Array]
    recorded: dict[str, dict[str, Array]]

    def inputs_of(self, kind: str) -> dict[str, Array]:
        """What a graph of this kind is fed."""
        return self.unit_inputs.get(kind, self.inputs)

    def tensors(self) -> dict[str, Array]:
        """All arrays under the flat names of ``golden/golden.safetensors``."""
        flat = {f"input/{name}": array for name, array in self.inputs.items()}
        flat |= {f"input/{kind}/{name}": a for kind, arrays in self.unit_inputs.items() for name, a in arrays.items()}
        flat |= {f"reference/{name}": array for name, array in self.reference.items()}
        flat |= {f"recorded/{graph}/{name}": a for graph, arrays in self.recorded.items() for name, a in arrays.items()}
        return flat

    @classmethod
    def from_tensors(cls, flat: dict[str, Array]) -> Golden:
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
            if not file.is_file():
                raise BundleError(f"{path}: {name} is missing; copy the whole directory, or export it again")
            if file.stat().st_size != record.size_bytes:
                raise BundleError(
                    f"{path}: {name} has {file.stat().st_size} bytes, the manifest says {record.size_bytes}; "
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
            BundleError: Unreadable, or its content is not what was exported.
        """
        try:
            data = (self.path / name).read_bytes()
        except OSError as cause:
            raise BundleError(f"{self.path}: {name} cannot be read: {cause.strerror or cause}") from cause
        if sha256_of_bytes(data) != self.manifest.files[name].sha256:
            raise BundleError(
                f"{self.path}: {name} is not the file that was exported (its SHA-256 differs); copy or export it again"
            )
        return data

    def verify(self) -> None:
        """Checks the hash of every listed file."""
        for name in self.manifest.files:
            self.read(name)

    def golden(self) -> Golden:
        """The golden samples.

        Raises:
            BundleError: Damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        name = self.manifest.golden.file
        try:
            return Golden.from_tensors(load(self.read(name)))
        except (SafetensorError, ValueError, KeyError) as cause:
            raise BundleError(f"{self.path}: {name}: damaged: {cause}") from cause
