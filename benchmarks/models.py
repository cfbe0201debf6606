"""What is measured: our graphs, and the naive export of the published model, all from the same random weights."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from dmdkit.config import ModelConfig, ModelShape, RunConfig
from dmdkit.export import ExportOptions, export_bundle
from dmdkit.export.graphs import fp32_graphs
from dmdkit.model.dmd import Dmd
from dmdkit.model.system import DmdSystem
from dmdkit.runtime.bundle import Bundle
from dmdkit.training.run import MODEL_FILE, InputFacts, Run, RunFacts
from dmdkit.training.run_directory import write_beginning

Array = npt.NDArray[np.float32]
MODALITIES = ("text", "audio", "vision")

MOSI_DIMS = {"text": 768, "audio": 5, "vision": 20}
TINY_DIMS = {"text": 12, "audio": 5, "vision": 6}
PADDED = {"text": 0.06, "audio": 0.26, "vision": 0.14}
"""Share of the steps that is left padding, as an utterance of medium length has."""


def mosi_shape(lengths: tuple[int, int, int] = (50, 50, 50), *, tiny: bool = False) -> ModelShape:
    """The published sizes for word-aligned CMU-MOSI, at these lengths (text, audio, vision)."""
    return ModelShape(
        feature_dims=TINY_DIMS if tiny else MOSI_DIMS,
        lengths=dict(zip(MODALITIES, lengths, strict=True)),
        kernels=dict.fromkeys(MODALITIES, 5),
        width=8 if tiny else 50,
        heads=2 if tiny else 10,
        levels=1 if tiny else 4,
        num_outputs=1,
    )


class FullModel(nn.Module):
    """The model as published, called with positional inputs; every head is an output, so nothing can be left out."""

    def __init__(self, dmd: Dmd) -> None:
        super().__init__()
        self.dmd = dmd

    def forward(self, text: Tensor, audio: Tensor, vision: Tensor) -> tuple[Tensor, ...]:
        found = self.dmd(text, audio, vision)
        tensors: list[Tensor] = []
        for value in found:
            tensors += list(value.values()) if isinstance(value, dict) else [value]
        return tuple(tensors)


@dataclass(frozen=True)
class Graph:
    """An ONNX graph and the name of its score."""

    data: bytes
    score: str
    nodes: int


class Models:
    """Everything of one size, each made when first asked for."""

    def __init__(self, shape: ModelShape, work: Path, seed: int = 0) -> None:
        self.shape, self.work = shape, work
        torch.manual_seed(seed)
        self.system = DmdSystem(shape).eval()
        with torch.no_grad():
            for name, value in self.system.named_parameters():  # as after training: no bias and no scale is trivial
                if value.ndim == 1:
                    value.add_(torch.randn_like(value) * 0.05)
                assert name

    def sample(self, batch: int = 1, seed: int = 1) -> dict[str, Array]:
        """Random features with left padding."""
        generator = np.random.default_rng(seed)
        dims, feed = self.shape.feature_dims.as_dict(), {}
        for name, steps in self.shape.lengths.as_dict().items():
            feed[name] = generator.normal(size=(batch, steps, dims[name])).astype(np.float32)
            feed[name][:, : int(PADDED[name] * steps)] = 0.0
        return feed

    def tensors(self, batch: int = 1) -> tuple[Tensor, ...]:
        feed = self.sample(batch)
        return tuple(torch.from_numpy(feed[name]) for name in MODALITIES)

    @cached_property
    def naive(self) -> Graph:
        """``torch.onnx.export`` of the full model as it is, by the exporter that writes it node by node."""
        stream = io.BytesIO()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                FullModel(self.system.dmd).eval(),
                self.tensors(2),
                stream,
                dynamo=False,
                opset_version=20,
                input_names=list(MODALITIES),
                dynamic_axes={name: {0: "batch"} for name in MODALITIES},
            )
        model = onnx.load_from_string(stream.getvalue())
        return Graph(stream.getvalue(), model.graph.output[0].name, len(model.graph.node))

    @cached_property
    def student(self) -> Graph:
        """Our fusion graph, fp32."""
        model = fp32_graphs(self.system, lambda _: None)[0].model
        return Graph(model.SerializeToString(), "score", len(model.graph.node))

    @cached_property
    def bundle(self) -> Bundle:
        """A bundle of this system, as ``dmdkit export`` writes it, without data and so without verdicts."""
        return self.exported("bench.dmd", ExportOptions(force=True))

    def exported(self, name: str, options: ExportOptions) -> Bundle:
        """Such a bundle in the work folder, exported with these options."""
        from safetensors.torch import save_file

        run = self.work / "run"
        inputs = {
            name: InputFacts(
                padding_side="left", empty_share=0.0, minimum=[-6.0] * dim, maximum=[6.0] * dim, trained_absent=False
            )
            for name, dim in self.shape.feature_dims.as_dict().items()
        }
        facts = RunFacts(
            origin="train",
            shape=self.shape,
            task="regression",
            label_range=(-3.0, 3.0),
            standardised=False,
            gd_units=True,
            inputs=inputs,
        )
        run.mkdir(parents=True, exist_ok=True)
        write_beginning(run, RunConfig(model=ModelConfig(**self.shape.chosen)), facts)
        save_file(self.system.state_dict(), run / MODEL_FILE)
        export_bundle(Run.open(run), self.work / name, options)
        return Bundle.open(self.work / name)
