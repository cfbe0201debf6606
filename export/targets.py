"""Devices that engines are built for: what each can compute, what it is allowed to use, and where that is written.

A target is a small file in ``targets/``; this module is its schema. Needs neither torch nor onnx, so that it works on
the device too.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dmdkit.errors import ConfigError

__all__ = ["BatchProfile", "EnginePrecision", "Target", "load_target", "target_names"]

_FOLDER = Path(__file__).with_name("targets")
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT-RTX 1.7 can be told to compile for (its ``ComputeCapability`` names)."""

EnginePrecision = Literal["fp32", "fp16", "int8"]
Capability = Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]
GRAPH_PRECISION: dict[str, Literal["fp32", "fp16", "int8-trt"]] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-trt"}
"""Which graph of the bundle an engine of a precision is built from."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BatchProfile(_Record):
    """Batch sizes a plan accepts and is tuned for; sequence lengths are fixed in the graphs."""

    min: Annotated[int, Field(ge=1)]
    opt: Annotated[int, Field(ge=1)]
    max: Annotated[int, Field(ge=1, le=1024)]

    @model_validator(mode="after")
    def _is_ordered(self) -> BatchProfile:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"batch: expected min <= opt <= max, found {self.min}, {self.opt}, {self.max}")
        return self


class Target(_Record):
    """One file of ``targets/``."""

    name: str
    title: str
    flavour: Literal["tensorrt", "tensorrt_rtx", "auto"] = Field(description="package that builds; auto: what is installed")
    tensorrt: str = Field(description="versions this device meets, in words")
    tensorrt_from: str = Field(pattern=r"^\d+\.\d+$", description="oldest version that knows the device")
    compute_capabilities: list[Capability] = Field(description="what a plan is compiled for; empty: this machine's GPU")
    build: Literal["anywhere", "on-device"]
    device_model: str | None = Field(None, description="part of the board's name in /proc/device-tree/model")
    integrated: bool = Field(description="CPU and GPU share memory, so buffers are mapped and not copied")
    precisions: dict[EnginePrecision, str] = Field(min_length=1, description="allowed, each with the reason")
    refused: dict[str, str] = Field(description="not allowed, each with the reason")
    preferred: EnginePrecision
    preferred_why: str
    workspace_mib: Annotated[int, Field(ge=16)]
    workspace_why: str
    batch: BatchProfile
    power: list[str] = Field(min_length=1)
    sources: list[Annotated[str, Field(pattern=r"^https://")]] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> Target:
        if self.preferred not in self.precisions:
            raise ValueError(f"preferred: {self.preferred} is not among precisions ({', '.join(self.precisions)})")
        both = set(self.precisions) & set(self.refused)
        if both:
            raise ValueError(f"refused: {', '.join(sorted(both))} is also among precisions")
        if self.flavour == "tensorrt_rtx" and set(self.compute_capabilities) - set(RTX_CAPABILITIES):
            raise ValueError(f"compute_capabilities: TensorRT-RTX compiles for {', '.join(RTX_CAPABILITIES)} only")
        if (self.flavour == "auto") != (not self.compute_capabilities):
            raise ValueError("compute_capabilities: empty for flavour auto, and only for it")
        if self.flavour == "tensorrt" and self.build == "anywhere":
            raise ValueError("build: TensorRT builds on the device only; a plan is for the GPU that built it")
        return self

    def precision(self, asked: str | None) -> EnginePrecision:
        """The precision to build in: the one asked for, or the preferred one.

        Raises:
            ConfigError: The target does not allow it; says why.
        """
        if asked is None:
            return self.preferred
        for name in self.precisions:
            if name == asked:
                return name
        why = self.refused.get(asked)
        raise ConfigError(
            f"--precision {asked}: target {self.name} allows {', '.join(self.precisions)}" + (f"; {why}" if why else "")
        )

    def check_kit(self) -> None:
        """Lets only a device that builds for itself have a kit.

        Raises:
            ConfigError: It needs none, or is not named.
        """
        if self.flavour == "auto":
            raise ConfigError("--kit: a kit is for one device; name it with --target (`dmdkit targets` shows them)")
        if self.build == "anywhere":
            raise ConfigError(f"--kit: engines for {self.name} are built without the device; leave --kit out")


def target_names() -> list[str]:
    """Names of all targets."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_target(name: str, folder: Path = _FOLDER) -> Target:
    """The target called ``name``.

    Raises:
        ConfigError: There is none, or its file does not follow the schema.
    """
    path = folder / f"{name}.yaml"
    if Path(name).name != name or not path.is_file():
        near = get_close_matches(name.lower().replace("_", "-"), target_names(), n=1, cutoff=0.8)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"--target {name}: no such target{meant or ';'} choose one of {', '.join(target_names())}")
    try:
        target = Target.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(cause).split()):.200}") from cause
    except ValidationError as cause:
        first = cause.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from cause
    if target.name != name:
        raise ConfigError(f"{path}: name is {target.name!r}, expected {name!r} as the file is called")
    return target
