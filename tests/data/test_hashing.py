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


def test_the_same_values_in_another_shape_are_another_sample():
    split = sample_dataset().splits["test"].take(np.arange(1))
    count, steps, width = split.audio.shape
    wider = replace(split, audio=split.audio.reshape(count, steps // 2, width * 2))
    assert sample_hashes(wider) != sample_hashes(split)
    # Nor may values move from the end of one modality to the beginning of the next.
    first, second = split.audio.ravel(), split.vision.ravel()
    one = replace(split, audio=first.reshape(1, 1, -1), vision=second.reshape(1, 1, -1))
    moved = replace(split, audio=first[:-1].reshape(1, 1, -1), vision=np.concatenate([first[-1:], second]).reshape(1, 1, -1))
    assert sample_hashes(one) != sample_hashes(moved)
