"""Features of a text encoder that is not trained, kept on disk: the same sentences are encoded once on a machine.

The cache holds at most :data:`CACHE_BYTES`; what was not used for longest goes first. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import os
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

CACHE_BYTES = 4 << 30
"""What the cache may hold; 16,000 sentences of 50 tokens, 768 wide, are 2.5 GB."""

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
    """The features in ``file``, which counts as used now; None where there are none, or not so many, or damaged ones."""
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    with suppress(OSError):
        os.utime(file)
    usable = isinstance(found, np.ndarray) and found.dtype == np.float32 and found.ndim == 3 and len(found) == samples
    return found if usable and bool(np.isfinite(found).all()) else None


def _room_for(size: int, directory: Path) -> bool:
    """Whether ``size`` bytes more may be kept; what was not used for longest is deleted until they fit."""
    if size > CACHE_BYTES:
        return False
    kept = []
    for entry in directory.glob("*.npy"):
        with suppress(OSError):  # another training may be deleting, too
            found = entry.stat()
            kept.append((found.st_mtime_ns, found.st_size, entry))
    held = sum(length for _, length, _ in kept)
    for _, length, entry in sorted(kept):
        if held + size <= CACHE_BYTES:
            break
        entry.unlink(missing_ok=True)
        held -= length
    return True


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
            if _room_for(content.getbuffer().nbytes, file.parent):
                write_bytes(file, content.getvalue(), RunError)
    return computed
