"""Plans of a bundle and their sidecars: what each was built from and for, and whether it may be opened here.

A plan is code for one GPU and one TensorRT version. The sidecar says which, and carries the hashes of the plan and of the
graph it came from, so that the reason not to open it is known before TensorRT sees it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from dmdkit.errors import EngineError, MissingDependencyError
from dmdkit.files import locked_directory, sha256_of_bytes, stays_inside, write_bytes, write_json, write_text
from dmdkit.records import Record
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.gpu import Gpu, find_gpu
from dmdkit.runtime.engines.identity import machine
from dmdkit.runtime.engines.tensorrt_api import Flavour, version_of
from dmdkit.runtime.manifest import TEXT_INPUTS, Manifest

__all__ = [
    "ENGINES",
    "Engine",
    "EngineRecord",
    "engines_folder",
    "engines_of",
    "preflight",
    "read_engine",
    "text_lengths",
    "write_engine",
    "write_engine_alone",
]

ENGINES = "engines"
MAX_SIDECAR_BYTES = 16 << 20
MAX_AXIS, MAX_BATCH = 1 << 20, 1024
TYPICAL_TOKENS = 16
"""Length that engines of a text encoder are tuned for: the median sentence of CMU-MOSI has 9 words."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class TensorRecord(Record):
    """One input or output; the batch is -1."""

    name: str
    shape: Annotated[list[int], Field(min_length=1, max_length=8)]
    dtype: str

    @field_validator("shape")
    @classmethod
    def _is_a_batch_of_something(cls, shape: list[int]) -> list[int]:
        if shape[0] != -1 or not all(1 <= size <= MAX_AXIS for size in shape[1:]):
            raise ValueError(f"expected -1 for the batch and sizes from 1 to {MAX_AXIS}, found {shape}")
        return shape


class ProductRecord(Record):
    """A matrix product or convolution of the graph as TensorRT parsed it."""

    name: str
    multiply_adds: Annotated[int, Field(ge=0)] = Field(description="for one sample")
    int8: bool = Field(description="whether both operands come out of a DequantizeLinear")


class PrecisionRecord(Record):
    """What the engine inspector said of the finished plan."""

    layout: Literal["tensorrt-10", "tensorrt-11"]
    layers: dict[str, str] = Field(description="layer name -> type of its inputs")
    expected_int8: Annotated[float, Field(ge=0, le=1)]
    found_int8: Annotated[float, Field(ge=0, le=1)]
    status: Literal["passed", "failed"]
    reason: str


class CheckRecord(Record):
    """Golden samples replayed through the plan and compared with the graph's own recorded outputs."""

    passed: bool
    samples: Annotated[int, Field(ge=0)]
    max_error: float | None
    tolerance: float
    worst_output: str


class EngineRecord(Record):
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
    batch: tuple[int, int, int] = Field(description="smallest, tuned and largest")
    lengths: tuple[int, int, int] | None = Field(
        None, description="tokens of a text graph that takes any number: smallest, tuned and largest; absent: one size"
    )
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

    @field_validator("batch")
    @classmethod
    def _is_ordered(cls, batch: tuple[int, int, int]) -> tuple[int, int, int]:
        if not 1 <= batch[0] <= batch[1] <= batch[2] <= MAX_BATCH:
            raise ValueError(f"expected 1 <= smallest <= tuned <= largest <= {MAX_BATCH}, found {list(batch)}")
        return batch

    @field_validator("lengths")
    @classmethod
    def _lengths_are_ordered(cls, lengths: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if lengths is not None and not 1 <= lengths[0] <= lengths[1] <= lengths[2] <= MAX_AXIS:
            raise ValueError(f"expected 1 <= smallest <= tuned <= largest <= {MAX_AXIS}, found {list(lengths)}")
        return lengths


class Engine(Record):
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
            size = path.stat().st_size
            if not stays_inside(path, path.parent):
                raise EngineError(f"{path}: not a file of this folder itself, or a link that leaves it; build it again")
            if size != self.record.plan_bytes:
                raise EngineError(f"{path}: damaged ({size} bytes, the sidecar says {self.record.plan_bytes}); build it again")
            data = path.read_bytes()
        except OSError as cause:
            raise EngineError(f"{path}: cannot be read: {cause.strerror or cause}; build it again") from cause
        if sha256_of_bytes(data) != self.record.plan_sha256:
            raise EngineError(f"{path}: damaged (its SHA-256 is not the sidecar's); build it again")
        return data


def read_engine(path: Path) -> Engine:
    """Reads a sidecar.

    Raises:
        EngineError: Missing, damaged, or of another version.
    """
    try:
        size = path.stat().st_size
        if not stays_inside(path, path.parent):
            raise EngineError(f"{path}: not a file of this folder itself, or a link that leaves it; build the engine again")
        if size > MAX_SIDECAR_BYTES:
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


def engines_folder(bundle: Bundle) -> Path:
    """Where a bundle keeps its engines; it need not exist.

    Raises:
        EngineError: It is a link out of the bundle.
    """
    folder = bundle.path / ENGINES
    if folder.exists() and not folder.resolve().is_relative_to(bundle.path.resolve()):
        raise EngineError(f"{folder} is a link that leaves the bundle; remove it, or copy the folder")
    return folder


def engines_of(bundle: Bundle, on_damage: Callable[[str], None] = lambda _: None) -> Iterator[Engine]:
    """The sidecars of a bundle; a damaged one is reported and left out."""
    try:
        paths = sorted(engines_folder(bundle).glob("*.json"))
    except EngineError as cause:
        on_damage(str(cause))
        return
    for path in paths:
        try:
            yield read_engine(path)
        except EngineError as cause:
            on_damage(str(cause))


def write_engine(folder: Path, record: EngineRecord, plan: bytes, log: str) -> Engine:
    """Writes an engine into a folder that others may write to, one after the other: a sidecar belongs to its plan.

    Raises:
        EngineError: ``folder`` cannot be written.
    """
    with locked_directory(folder, EngineError):
        return write_engine_alone(folder, record, plan, log)


def write_engine_alone(folder: Path, record: EngineRecord, plan: bytes, log: str) -> Engine:
    """Writes plan, log and, last, the sidecar that makes them count; after a failure none of the three is there.

    Raises:
        EngineError: ``folder`` cannot be written.
    """
    name = record.plan.removesuffix(".plan")
    sidecar, beside = folder / f"{name}.json", (folder / record.plan, folder / f"{name}.log")
    try:
        sidecar.unlink(missing_ok=True)  # an old one must not stand beside a new plan
        write_bytes(beside[0], plan, EngineError)
        write_text(beside[1], log, EngineError)
        write_json(sidecar, record.model_dump(mode="json"), EngineError)
    except OSError as cause:
        raise EngineError(f"cannot write {sidecar}: {cause.strerror or cause}; choose a writable place") from cause
    finally:
        if not sidecar.exists():
            for path in beside:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
    return Engine(path=sidecar, record=record)


def text_lengths(manifest: Manifest) -> tuple[int, int, int] | None:
    """The tokens that an engine of a text graph takes, smallest, tuned and largest number; None: one number alone."""
    text = manifest.text
    if text is None or text.lengths == "fixed":
        return None
    return 1, min(TYPICAL_TOKENS, text.max_tokens), text.max_tokens


def _contract(record: EngineRecord, bundle: Bundle) -> str | None:
    """What of a sidecar's inputs and outputs is not the graph's; its buffers are made from them."""
    kind, manifest = bundle.manifest.graphs[record.graph].kind, bundle.manifest
    inputs = {name: [-1, wanted.steps, wanted.features] for name, wanted in manifest.inputs.items()}
    given: dict[str, list[Any]] = {"text": inputs["text"]}
    taken = "FLOAT"
    if kind == "text":
        taken, inputs = "INT64", dict.fromkeys(TEXT_INPUTS, inputs["text"][:2])
        lengths = text_lengths(manifest)
        if record.lengths != lengths:
            return f"takes sentences of {record.lengths} tokens, {record.graph} is for {lengths}"
    elif kind in ("fusion", "explain"):
        names = ["score"] if kind == "fusion" else list(manifest.outputs)
        given = {name: [-1, *manifest.outputs[name].shape[1:]] for name in names}
    else:
        return None
    for found, wanted, dtype in ((record.inputs, inputs, taken), (record.outputs, given, "FLOAT")):
        shapes = {tensor.name: tensor.shape for tensor in found}
        if shapes != wanted or len(found) != len(wanted):
            return f"takes or gives {shapes}, {record.graph} has {wanted}"
        other = next((tensor for tensor in found if tensor.dtype != dtype), None)
        if other is not None:
            return f"says that {other.name} is {other.dtype}, in {record.graph} it is {dtype}"
    return None


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
    wrong = _contract(record, bundle)
    if wrong is not None:
        raise EngineError(f"engine {name}: its sidecar {wrong}; build it again")
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
