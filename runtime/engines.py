"""Plans of a bundle and their sidecars: what each was built from and for, and whether it may be opened here.

A plan is code for one GPU and one TensorRT version. The sidecar says which, and carries the hashes of the plan and of the
graph it came from, so that the reason not to open it is known before TensorRT sees it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmdkit.errors import EngineError, MissingDependencyError
from dmdkit.files import sha256_of_bytes, write_bytes, write_json, write_text
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.gpu import Gpu, find_gpu
from dmdkit.runtime.tensorrt_api import Flavour, version_of

__all__ = ["ENGINES", "Engine", "EngineRecord", "engines_of", "machine", "preflight", "read_engine", "write_engine"]

ENGINES = "engines"
MAX_SIDECAR_BYTES = 16 << 20
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TensorRecord(_Record):
    """One input or output; the batch is -1."""

    name: str
    shape: list[int]
    dtype: str


class ProductRecord(_Record):
    """A matrix product or convolution of the graph as TensorRT parsed it."""

    name: str
    multiply_adds: Annotated[int, Field(ge=0)] = Field(description="for one sample")
    int8: bool = Field(description="whether both operands come out of a DequantizeLinear")


class PrecisionRecord(_Record):
    """What the engine inspector said of the finished plan."""

    layout: Literal["tensorrt-10", "tensorrt-11"]
    layers: dict[str, str] = Field(description="layer name -> type of its inputs")
    expected_int8: Annotated[float, Field(ge=0, le=1)]
    found_int8: Annotated[float, Field(ge=0, le=1)]
    status: Literal["passed", "failed"]
    reason: str


class CheckRecord(_Record):
    """Golden samples replayed through the plan and compared with the graph's own recorded outputs."""

    passed: bool
    samples: int
    max_error: float | None
    tolerance: float
    worst_output: str


class EngineRecord(_Record):
    """The sidecar, ``engines/NAME.json``."""

    schema_version: Literal[1] = 1
    target: PlainName
    graph: str = Field(description="key in the manifest's graphs")
    graph_sha256: Sha256
    model_sha256: Sha256
    flavour: Flavour
    version: str = Field(description="exact version of the package that built")
    compute_capabilities: list[str]
    platform: str
    gpu: str | None = Field(description="GPU that built; None: built without one")
    driver: str | None
    plan: PlainName
    plan_sha256: Sha256
    plan_bytes: Annotated[int, Field(ge=1)]
    batch: tuple[int, int, int]
    flags: dict[str, str | int | bool]
    inputs: list[TensorRecord]
    outputs: list[TensorRecord]
    products: list[ProductRecord]
    cache_key: Sha256
    built: str
    build_seconds: float
    precision: PrecisionRecord | None = None
    check: CheckRecord | None = None
    latency_ms: dict[str, float] | None = Field(None, description="percentiles, measured on the device")
    notes: list[str] = Field(default_factory=list)


class Engine(_Record):
    """A sidecar and where it lies."""

    path: Path
    record: EngineRecord

    @property
    def name(self) -> str:
        """``TARGET.KIND.PRECISION``."""
        return self.path.stem

    def plan(self) -> bytes:
        """The plan, after its hash was checked.

        Raises:
            EngineError: Missing, unreadable or damaged.
        """
        path = self.path.with_name(self.record.plan)
        try:
            data = path.read_bytes()
        except OSError as cause:
            raise EngineError(f"{path}: cannot be read: {cause.strerror or cause}; build it again") from cause
        if sha256_of_bytes(data) != self.record.plan_sha256:
            raise EngineError(f"{path}: damaged (its SHA-256 is not the sidecar's); build it again")
        return data


def machine() -> str:
    """Operating system and processor, which a plan depends on."""
    return f"{platform.system()}-{platform.machine()}".lower()


def read_engine(path: Path) -> Engine:
    """Reads a sidecar.

    Raises:
        EngineError: Missing, damaged, or of another version.
    """
    try:
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            raise EngineError(f"{path}: larger than {MAX_SIDECAR_BYTES} bytes, so it is no sidecar")
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise EngineError(f"{path}: cannot be read: {cause.strerror or cause}; build the engine again") from cause
    except (ValueError, RecursionError) as cause:
        raise EngineError(f"{path}: not JSON: {cause!s:.100}; build the engine again") from cause
    found = values.get("schema_version") if isinstance(values, dict) else None
    if found != 1:
        raise EngineError(f"{path}: schema version {found!r:.20}, this dmdkit reads version 1; build the engine again")
    try:
        return Engine(path=path, record=EngineRecord.model_validate(values))
    except ValidationError as cause:
        first = cause.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EngineError(f"{path}: {where}: {first['msg']:.200}; build the engine again") from cause


def engines_of(bundle: Bundle, on_damage: Callable[[str], None] = lambda _: None) -> Iterator[Engine]:
    """The sidecars of a bundle; a damaged one is reported and left out."""
    for path in sorted((bundle.path / ENGINES).glob("*.json")):
        try:
            yield read_engine(path)
        except EngineError as cause:
            on_damage(str(cause))


def write_engine(folder: Path, record: EngineRecord, plan: bytes, log: str) -> Engine:
    """Writes plan, log and, last, the sidecar that makes them count."""
    name = record.plan.removesuffix(".plan")
    write_bytes(folder / record.plan, plan, EngineError)
    write_text(folder / f"{name}.log", log, EngineError)
    write_json(folder / f"{name}.json", record.model_dump(mode="json"), EngineError)
    return Engine(path=folder / f"{name}.json", record=record)


def preflight(engine: Engine, bundle: Bundle, gpu: Callable[[], Gpu] = find_gpu) -> Gpu:
    """Checks that a plan belongs to this bundle and this machine, before TensorRT sees it.

    Returns:
        The GPU it will run on.

    Raises:
        EngineError: With the first thing that does not fit.
        NoGpuError: There is no driver or GPU.
    """
    record, name = engine.record, engine.name
    graph = bundle.manifest.graphs.get(record.graph)
    if graph is None or bundle.manifest.files[graph.file].sha256 != record.graph_sha256:
        raise EngineError(f"engine {name} was built from another {record.graph} than this bundle's; build it again")
    if record.precision is not None and record.precision.status == "failed":
        raise EngineError(f"engine {name} failed its precision proof: {record.precision.reason}")
    if record.check is not None and not record.check.passed:
        raise EngineError(f"engine {name} failed its check on the golden samples ({record.check.worst_output} is off)")
    if record.platform != machine():
        raise EngineError(f"engine {name} is for {record.platform}, this is {machine()}; build it here")
    found = gpu()
    if found.capability not in record.compute_capabilities:
        raise EngineError(
            f"engine {name} is compiled for compute capability {', '.join(record.compute_capabilities)}, "
            f"{found.name} has {found.capability}; build it for this GPU"
        )
    if record.flavour == "tensorrt" and record.gpu is not None and record.gpu != found.name:
        raise EngineError(f"engine {name} was built on {record.gpu}, this is {found.name}; build it here")
    try:
        version = version_of(record.flavour)
    except MissingDependencyError as cause:
        raise EngineError(f"engine {name} needs {record.flavour} {record.version}: {cause}") from cause
    if version != record.version:
        raise EngineError(f"engine {name} was built by {record.flavour} {record.version}, here is {version}; build it again")
    return found
