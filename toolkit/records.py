"""What every floor shares: modalities, array types, validated records and how they are read, and a model's sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dmdkit.errors import DmdkitError
from dmdkit.files import stays_inside
from dmdkit.printable import one_line

__all__ = [
    "MODALITIES",
    "FloatArray",
    "LabelArray",
    "ModelShape",
    "PerModality",
    "PositiveInt",
    "Record",
    "TokenArray",
    "first_problem",
    "read_bounded",
    "read_record",
    "streams_problem",
]

MODALITIES = ("text", "audio", "vision")

FloatArray = npt.NDArray[np.float32]
TokenArray = npt.NDArray[np.int64]
LabelArray = npt.NDArray[np.float32] | npt.NDArray[np.int64]
PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
R = TypeVar("R", bound=BaseModel)


class Record(BaseModel):
    """A record of a file of ours: immutable, no field that is not declared, no number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_record(
    path: Path,
    record: type[R],
    *,
    inside: Path,
    max_bytes: int,
    advice: str,
    error: type[DmdkitError],
    strict: bool = False,
) -> R:
    """A record from a JSON file that may be damaged or hostile.

    Args:
        path: The file.
        record: Its type.
        inside: The directory that the file must lie in after every link was followed.
        max_bytes: Largest size that is read.
        advice: What the user should do about a damaged file.
        error: Class of the error to raise.
        strict: Whether "5" is no number.

    Raises:
        DmdkitError: As ``error``: unreadable, outside, too large, or not such a record.
    """
    data = read_bounded(path, inside=inside, max_bytes=max_bytes, advice=advice, error=error)
    try:
        return record.model_validate_json(data, strict=strict or None)
    except (ValidationError, RecursionError) as cause:
        raise error(f"{path}: damaged, or written by another dmdkit: {first_problem(cause)}; {advice}") from cause


def read_bounded(path: Path, *, inside: Path, max_bytes: int, advice: str, error: type[DmdkitError]) -> bytes:
    """A file's bytes, of which no more than ``max_bytes`` are ever in memory; the arguments are those of ``read_record``.

    Raises:
        DmdkitError: As ``error``: unreadable, outside, or too large.
    """
    try:
        if not stays_inside(path, inside):
            raise error(f"{path}: not a file of the bundle itself, or a link that leaves it; {advice}")
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as cause:
        raise error(f"{path}: cannot be read: {cause.strerror or cause}") from cause
    if len(data) > max_bytes:
        raise error(f"{path}: larger than {max_bytes} bytes, so it is none of ours; {advice}")
    return data


def first_problem(cause: Exception) -> str:
    """The first thing that is wrong, on one short, printable line."""
    if not isinstance(cause, ValidationError):
        return type(cause).__name__
    problem: Any = cause.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the document"
    return one_line(f"{where}: {problem['msg'].removeprefix('Value error, ')}")


class PerModality(Record):
    """One positive integer for each modality."""

    text: PositiveInt
    audio: PositiveInt
    vision: PositiveInt

    def as_dict(self) -> dict[str, int]:
        """The three values by modality name, in the order text, audio, vision."""
        return {"text": self.text, "audio": self.audio, "vision": self.vision}


def streams_problem(lengths: PerModality, kernels: PerModality) -> str | None:
    """Why a model of these sizes has no exact answer at every step, or None where it has.

    Only with equal lengths and kernels is everything behind the projection causal (docs/streaming.md).
    """
    sizes, widths = lengths.as_dict(), kernels.as_dict()
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} {size}" for name, size in sizes.items())
        return f"its modalities have different numbers of steps ({said}); use word-aligned features, one step of each at a time"
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{name} {width}" for name, width in widths.items())
        same = " ".join(f"--set model.kernels.{name}={widths['text']}" for name in widths if widths[name] != widths["text"])
        return f"its kernels differ ({said}), so the projected steps do too; train with equal ones: {same}"
    return None


class ModelShape(Record):
    """Everything needed to build the modules of a DMD model: what a recipe chooses plus what the data decides."""

    feature_dims: PerModality = Field(description="D_m, input features per step")
    lengths: PerModality = Field(description="T_m, input steps")
    kernels: PerModality
    width: PositiveInt
    heads: PositiveInt
    levels: PositiveInt
    num_outputs: PositiveInt = Field(description="C: 1 for regression, else classes")
    gd_homo_width: PositiveInt = 64
    gd_hetero_width: PositiveInt = 32

    @model_validator(mode="after")
    def _kernels_fit(self) -> ModelShape:
        for name, length in self.lengths.as_dict().items():
            kernel = self.kernels.as_dict()[name]
            if kernel > length:
                raise ValueError(f"kernels.{name}={kernel} is longer than the {length} steps of {name}; use at most {length}")
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        return self

    @property
    def projected_lengths(self) -> dict[str, int]:
        """T'_m = T_m - k_m + 1, steps after the projection."""
        kernels = self.kernels.as_dict()
        return {name: length - kernels[name] + 1 for name, length in self.lengths.as_dict().items()}

    @property
    def memory_levels(self) -> int:
        """Layers of the memory blocks."""
        return max(self.levels, 3)

    @property
    def chosen(self) -> dict[str, Any]:
        """The sizes that a recipe's model section chooses, as plain values."""
        return self.model_dump(exclude={"feature_dims", "lengths", "num_outputs"})
