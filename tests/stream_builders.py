"""A bundle that streams, of random weights: nothing is trained, because only that its graphs agree is looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from dmdkit.config import ModelConfig, ModelShape, RunConfig
from dmdkit.data import Split
from dmdkit.export import ExportOptions, ParityData, export_bundle
from dmdkit.model.system import DmdSystem
from dmdkit.records import MODALITIES
from dmdkit.training.run import MODEL_FILE, InputFacts, Run, RunFacts
from dmdkit.training.run_directory import write_beginning

WIDTHS = {"text": 7, "audio": 4, "vision": 5}
STEPS, KERNEL = 9, 3
SAMPLES = 50


def stream_shape(kernels: tuple[int, int, int] = (KERNEL, KERNEL, KERNEL)) -> ModelShape:
    return ModelShape(
        feature_dims=WIDTHS,
        lengths=dict.fromkeys(MODALITIES, STEPS),
        kernels=dict(zip(MODALITIES, kernels, strict=True)),
        width=8,
        heads=2,
        levels=1,
        num_outputs=1,
    )


def stream_system(seed: int = 3) -> DmdSystem:
    torch.manual_seed(seed)
    system = DmdSystem(stream_shape()).eval()
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


def write_run(path: Path, system: DmdSystem) -> Run:
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
    )
    path.mkdir()
    write_beginning(path, RunConfig(model=ModelConfig(**system.dmd.shape.chosen)), facts)
    save_file(system.state_dict(), path / MODEL_FILE)
    return Run.open(path)


def write_stream_bundle(folder: Path) -> Path:
    run, out = write_run(folder / "run", stream_system()), folder / "stream.dmd"
    export_bundle(run, out, ExportOptions(stream=True, parity=ParityData(stream_split(), "test", "random", "0" * 64)))
    return out
