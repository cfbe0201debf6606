"""Content hashes of samples, to find the same recording under two names or in two files."""

from __future__ import annotations

import hashlib

import numpy as np

from dmdkit.data.dataset import Split

__all__ = ["sample_hashes"]


def sample_hashes(split: Split) -> list[str]:
    """The SHA-256 of each sample's features, in sample order, 64 lower-case hexadecimal digits each.

    The hash covers text, audio and vision in that order: each modality's (T, D) as two little-endian int64, then its
    values as little-endian float32. It covers neither name nor label. Of a sample that passed a text encoder, its tokens, as
    little-endian int64, stand for its text: features made by two builds of a library differ in their last digits.
    """
    hashes = []
    for index in range(len(split)):
        digest = hashlib.sha256()
        for name, array in split.features().items():
            if name == "text" and split.tokens is not None:
                row = np.ascontiguousarray(split.tokens[index], dtype="<i8")
            else:
                row = np.ascontiguousarray(array[index], dtype="<f4")
            digest.update(np.array(row.shape, dtype="<i8").tobytes())
            digest.update(row.tobytes())
        hashes.append(digest.hexdigest())
    return hashes
