"""What a search has measured so far, kept in the user's cache, so that an interrupted or repeated export goes on from there.

Whatever cannot be read or believed is ignored and measured again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmdkit.calibration.search.sensitivity import LayerError
from dmdkit.errors import DmdkitError
from dmdkit.files import write_json
from dmdkit.parity.int8_report import ErrorFigures
from dmdkit.runtime.latency import cache_directory, machine_facts

__all__ = ["SearchState"]

Array = npt.NDArray[np.float32]
_MAX_BYTES = 4 << 20
_SAVE_EVERY_S = 2.0
Ratio = Annotated[float, Field(ge=0)]


class _Error(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    score: ErrorFigures
    edges: ErrorFigures | None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal[1] = 1
    key: str
    seconds: Ratio
    errors: dict[str, _Error]
    latencies: dict[str, dict[str, Ratio]]


def _digest(model: ModelProto, samples: Mapping[str, Mapping[str, Array]], method: str) -> str:
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    for role, arrays in samples.items():
        for name, array in sorted(arrays.items()):
            digest.update(f"{role}/{name}{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    versions = {}
    for package in ("onnxruntime", "nvidia-modelopt", "dmdkit"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    digest.update(json.dumps([method, versions, machine_facts()], sort_keys=True).encode())
    return digest.hexdigest()


class SearchState:
    """Results so far of one search: the same graph, samples, method, versions and machine.

    Attributes:
        errors: Layer -> error when it alone is INT8.
        latencies: Layer -> form of integer arithmetic -> its latency over float, alone.
        earlier_s: Seconds that earlier attempts spent on them.
    """

    def __init__(self, model: ModelProto, samples: Mapping[str, Mapping[str, Array]], method: str) -> None:
        self.key = _digest(model, samples, method)
        directory = cache_directory()
        self.path: Path | None = directory / "int8-search" / f"{self.key[:32]}.json" if directory is not None else None
        self.errors: dict[str, LayerError] = {}
        self.latencies: dict[str, dict[str, float]] = {}
        self.earlier_s = 0.0
        self._begin = self._saved = time.monotonic()
        self._read()

    def _read(self) -> None:
        try:
            if self.path is None or not self.path.is_file():
                return
            with self.path.open("rb") as stream:
                data = stream.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                return
            found = _File.model_validate_json(data)
        except (OSError, ValidationError, RecursionError):
            return
        if found.key != self.key:
            return
        self.errors = {name: LayerError(error.score, error.edges) for name, error in found.errors.items()}
        self.latencies = {name: dict(ratios) for name, ratios in found.latencies.items()}
        self.earlier_s = found.seconds

    @property
    def seconds(self) -> float:
        """Spent in all, this attempt and earlier ones."""
        return self.earlier_s + time.monotonic() - self._begin

    def save(self, *, now: bool = False) -> None:
        """Writes what is known, every few seconds or ``now``; a cache that cannot be written is no error."""
        if self.path is None or (not now and time.monotonic() - self._saved < _SAVE_EVERY_S):
            return
        self._saved = time.monotonic()
        value = _File(
            key=self.key,
            seconds=self.seconds,
            errors={name: _Error(score=error.score, edges=error.edges) for name, error in self.errors.items()},
            latencies=self.latencies,
        )
        try:
            write_json(self.path, value.model_dump(mode="json"))
        except DmdkitError:
            self.path = None
