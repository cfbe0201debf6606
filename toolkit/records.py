"""What every floor shares about data: the modalities, array types, and the base of validated records."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

__all__ = ["MODALITIES", "FloatArray", "LabelArray", "Record", "TokenArray"]

MODALITIES = ("text", "audio", "vision")

FloatArray = npt.NDArray[np.float32]
TokenArray = npt.NDArray[np.int64]
LabelArray = npt.NDArray[np.float32] | npt.NDArray[np.int64]


class Record(BaseModel):
    """A record of a file of ours: immutable, no field that is not declared, no number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
