from __future__ import annotations

from dataclasses import replace

import numpy as np

from dmdkit.data import sample_dataset, sample_hashes


def test_a_hash_depends_on_every_modality_and_not_on_name_or_label():
    split = sample_dataset().splits["test"].take(np.arange(3))
    hashes = sample_hashes(split)
    assert len(set(hashes)) == 3
    assert all(len(text) == 64 for text in hashes)
    assert sample_hashes(replace(split, ids=("a", "b", "c"), labels=split.labels * 0)) == hashes
    for name, array in split.features().items():
        changed = array.copy()
        changed[1, -1, -1] += 1
        other = sample_hashes(replace(split, **{name: changed}))
        assert [a == b for a, b in zip(hashes, other, strict=True)] == [True, False, True]
    assert sample_hashes(split.take(np.array([2, 0]))) == [hashes[2], hashes[0]]
