"""Features of a text encoder that is not trained, kept on disk: the same sentences are encoded once on a machine."""

from __future__ import annotations

import hashlib
import io
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dmdkit.data.dataset import Split
from dmdkit.errors import RunError
from dmdkit.files import write_bytes
from dmdkit.model.text_encoder import TextEncoder
from dmdkit.runtime.latency import cache_directory
from dmdkit.training.encoder_directory import encoded_split, encoder_sha256

__all__ = ["kept_or_encoded"]

_FOLDER = "text-features"


def _file(split: Split, encoder: TextEncoder) -> Path | None:
    """Where the features of these tokens are kept; every thing that decides their bits has a part in the name."""
    directory = cache_directory()
    if directory is None:
        return None
    assert split.tokens is not None, "tokens come first"
    decides = (
        encoder_sha256(encoder),
        encoder.padded_steps,
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        str(torch.get_num_threads()),
        str((split.tokens.shape, split.tokens.dtype)),
    )
    digest = hashlib.sha256("\n".join(decides).encode() + np.ascontiguousarray(split.tokens).tobytes()).hexdigest()
    return directory / _FOLDER / f"{digest}.npy"


def _read(file: Path, samples: int) -> npt.NDArray[np.float32] | None:
    """The features in ``file``; None where there are none, or not of so many samples, or damaged ones."""
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    usable = isinstance(found, np.ndarray) and found.dtype == np.float32 and found.ndim == 3 and len(found) == samples
    return found if usable and bool(np.isfinite(found).all()) else None


def kept_or_encoded(split: Split, encoder: TextEncoder) -> Split:
    """``split`` with the encoder's features as its text, computed on a CPU once and read from the cache afterwards.

    A cache that cannot be read or written costs time and nothing else.
    """
    file = _file(split, encoder)
    found = None if file is None else _read(file, len(split))
    if found is not None:
        return replace(split, text=found)
    computed = encoded_split(split, encoder)
    if file is not None:
        content = io.BytesIO()
        np.save(content, computed.text, allow_pickle=False)
        with suppress(OSError, RunError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, content.getvalue(), RunError)
    return computed
