"""A bundle that streams, of random weights: nothing is trained, because only that its graphs agree is looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from dmdkit.calibration.search.planning import SearchOptions
from dmdkit.config import DataConfig, ModelConfig, ModelShape, RunConfig
from dmdkit.data import Dataset, Split
from dmdkit.data.real_steps import with_real_steps
from dmdkit.export import ExportOptions, ParityData, export_bundle
from dmdkit.model.system import DmdSystem
from dmdkit.records import MODALITIES
from dmdkit.training.run import MODEL_FILE, InputFacts, Run, RunFacts
from dmdkit.training.run_directory import write_beginning

WIDTHS = {"text": 7, "audio": 4, "vision": 5}
STEPS, KERNEL = 9, 3
SAMPLES = 50


def stream_shape(kernels: tuple[int, int, int] = (KERNEL, KERNEL, KERNEL), *, levels: int = 1) -> ModelShape:
    return ModelShape(
        feature_dims=WIDTHS,
        lengths=dict.fromkeys(MODALITIES, STEPS),
        kernels=dict(zip(MODALITIES, kernels, strict=True)),
        width=8,
        heads=2,
        levels=levels,
        num_outputs=1,
    )


def stream_system(seed: int = 3, *, levels: int = 1, standardised: bool = False) -> DmdSystem:
    torch.manual_seed(seed)
    system = DmdSystem(stream_shape(levels=levels), standardised=standardised).eval()
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return system


def stream_split(seed: int = 5) -> Split:
    generator = np.random.default_rng(seed)
    arrays = {name: generator.normal(size=(SAMPLES, STEPS, width)).astype(np.float32) for name, width in WIDTHS.items()}
    arrays["text"][: SAMPLES // 4, 2:6] = 0.0
    labels = generator.uniform(-3, 3, SAMPLES).astype(np.float32)
    return Split(tuple(f"s{i}" for i in range(SAMPLES)), **arrays, labels=labels)


def write_run(path: Path, system: DmdSystem, *, real: bool = False) -> Run:
    inputs = {
        name: InputFacts(
            padding_side="none", empty_share=0.0, minimum=[-6.0] * width, maximum=[6.0] * width, trained_absent=name == "audio"
        )
        for name, width in WIDTHS.items()
    }
    facts = RunFacts(
        origin="train",
        shape=system.dmd.shape,
        task="regression",
        label_range=(-3.0, 3.0),
        standardised=False,
        gd_units=True,
        inputs=inputs,
        steps="real" if real else "padded",
    )
    path.mkdir()
    config = RunConfig(model=ModelConfig(**system.dmd.shape.chosen), data=DataConfig(steps=facts.steps))
    write_beginning(path, config, facts)
    save_file(system.state_dict(), path / MODEL_FILE)
    return Run.open(path)


def stream_dataset(split: Split | None = None) -> Dataset:
    """Some samples to prove with and as many others, right padded where they are shorter."""
    train = stream_split(6)
    return Dataset(
        source="random",
        sha256="0" * 64,
        task="regression",
        label_range=(-3.0, 3.0),
        num_classes=None,
        padding_side=dict.fromkeys(WIDTHS, "right"),
        splits={"train": replace(train, ids=tuple(f"t{i}" for i in range(SAMPLES))), "test": split or stream_split()},
    )


def write_stream_bundle(folder: Path) -> Path:
    run, out = write_run(folder / "run", stream_system()), folder / "stream.dmd"
    export_bundle(run, out, ExportOptions(stream=True, parity=ParityData(stream_split(), "test", "random", "0" * 64)))
    return out


def real_dataset() -> Dataset:
    """Samples of 4 to 9 steps, read as a model of real steps reads them."""
    split = stream_split()
    for array in split.features().values():
        array[np.arange(STEPS) >= 4 + np.arange(SAMPLES)[:, None] % 6] = 0.0
    return with_real_steps(stream_dataset(split), stream_shape().kernels)


def write_real_bundle(folder: Path) -> Path:
    """The same of a model that was trained on real steps, with INT8, proven on samples of 4 to 9 steps."""
    dataset = real_dataset()
    run, out = write_run(folder / "run", stream_system(), real=True), folder / "real.dmd"
    options = ExportOptions(
        stream=True,
        int8=True,
        calibration=dataset,
        search=SearchOptions(mode="none"),
        parity=ParityData(dataset.splits["test"], "test", "random", "0" * 64),
    )
    export_bundle(run, out, options)
    return out
