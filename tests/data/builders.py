"""Small valid files, to be broken one way at a time."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

WIDTHS = {"text": 5, "audio": 3, "vision": 4}
STEPS = {"text": 4, "audio": 6, "vision": 5}
SIZES = {"train": 6, "valid": 3, "test": 4}


def mmsa_content(seed: int = 0) -> dict[str, dict[str, Any]]:
    generator = np.random.default_rng(seed)
    content: dict[str, dict[str, Any]] = {}
    for name, size in SIZES.items():
        split: dict[str, Any] = {
            modality: generator.standard_normal((size, STEPS[modality], WIDTHS[modality])).astype(np.float32)
            for modality in WIDTHS
        }
        split["id"] = [f"{name}_{index}" for index in range(size)]
        split["regression_labels"] = np.linspace(-2.5, 2, size).astype(np.float32)
        split["classification_labels"] = (np.arange(size) % 3).astype(np.float32)
        split["raw_text"] = ["so it goes"] * size
        content[name] = split
    return content


def write_pickle(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def flat_content(seed: int = 0) -> dict[str, Any]:
    splits = mmsa_content(seed)
    flat = {modality: np.concatenate([split[modality] for split in splits.values()]) for modality in WIDTHS}
    flat["labels"] = np.concatenate([split["regression_labels"] for split in splits.values()])
    flat["split"] = np.array([name for name, size in SIZES.items() for _ in range(size)])
    flat["ids"] = np.array([text for split in splits.values() for text in split["id"]])
    return flat


def write_npz(path: Path, content: dict[str, Any]) -> Path:
    np.savez(path, **content)
    return path
