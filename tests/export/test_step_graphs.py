"""The step graph answers at every step what the model answers for the steps up to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from dmdkit.cli import main
from dmdkit.errors import ExportError
from dmdkit.export.graphs import ExportedGraph
from dmdkit.export.native_plan import plan_of
from dmdkit.export.step import StepModule
from dmdkit.export.step_graphs import step_graphs, stream_record_of
from dmdkit.model.dmd import Dmd
from dmdkit.model.system import DmdSystem
from dmdkit.records import MODALITIES, PerModality
from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner
from dmdkit.runtime.streams.state import StepState
from tests.stream_builders import STEPS, WIDTHS, stream_shape, stream_system


def random_system() -> DmdSystem:
    system = stream_system(levels=2, standardised=True)
    for m in MODALITIES:
        system.dmd.standardise[m].mean += 0.3
        system.dmd.standardise[m].scale *= 1.7
    return system


def window_of(dmd: Dmd, features: dict[str, np.ndarray], steps: int) -> np.ndarray:
    """What the model answers for the first steps alone: (3 + 1,), the score and the three heterogeneous logits."""
    sizes = dmd.shape.model_copy(update={"lengths": PerModality(**dict.fromkeys(MODALITIES, steps))})
    alone = Dmd(sizes, standardised=True).eval()
    own = alone.state_dict()
    alone.load_state_dict(
        {name: value if value.shape == own[name].shape else own[name] for name, value in dmd.state_dict().items()}
    )
    with torch.inference_mode():
        out = alone(**{name: torch.from_numpy(array[None, :steps]) for name, array in features.items()})
    return np.concatenate([out.output[0].numpy(), *(out.logit_hetero[m][0].numpy() for m in ("text", "vision", "audio"))])


@dataclass(frozen=True)
class Made:
    system: DmdSystem
    graphs: list[ExportedGraph]
    features: dict[str, np.ndarray]

    def answers(self, graph: ExportedGraph, pushes: list[int]) -> np.ndarray:
        """The score and the heterogeneous logits of every step that has an answer, after pushes of these sizes."""
        record = stream_record_of(self.system.dmd.shape, self.graphs)
        inputs = {name: SimpleNamespace(features=width) for name, width in WIDTHS.items()}
        state = StepState(SimpleNamespace(stream=record, inputs=inputs))  # type: ignore[arg-type]
        found, at = [], 0
        with OnnxRuntimeRunner(graph.name, graph.model.SerializeToString(), graph.session_options) as runner:
            for count in pushes:
                out = state.advance(runner, {name: array[at : at + count] for name, array in self.features.items()})
                at += count
                if out:
                    found.append(np.concatenate([out["score"], out["logit_hetero"][:, :, 0]], axis=1))
        return np.concatenate(found)


@pytest.fixture(scope="module")
def made() -> Made:
    system = random_system()
    generator = np.random.default_rng(1)
    features = {name: generator.normal(size=(STEPS, width)).astype(np.float32) for name, width in WIDTHS.items()}
    features["text"][3:7] = 0.0  # a silence longer than the kernel: its positions are none
    return Made(system, step_graphs(system, int8=True, on_step=lambda _: None), features)


@pytest.mark.parametrize("pushes", [[1] * STEPS, [STEPS], [2] * 4 + [1], [4, 1, 3, 1], [1, 8]])
def test_a_stream_answers_what_the_model_answers_for_every_prefix(made: Made, pushes: list[int]) -> None:
    expected = np.stack([window_of(made.system.dmd, made.features, steps) for steps in range(3, STEPS + 1)])
    np.testing.assert_allclose(made.answers(made.graphs[0], pushes), expected, atol=1e-5)
    assert expected[:, 0].std() > 1e-3


def test_int8_weights_change_the_answers_little(made: Made) -> None:
    exact, stored = (made.answers(graph, [1] * STEPS) for graph in made.graphs)
    assert 0 < np.abs(exact - stored).max() < 0.1


def test_a_step_graph_names_its_heads_for_the_native_kernels_in_every_precision(made: Made) -> None:
    head = made.system.dmd.hetero_head["vision"]
    for graph in made.graphs:
        plan = plan_of(graph.model)
        assert plan is not None
        lines = plan.splitlines()
        assert lines[0] == "dmdkit plan of steps 1"
        assert f"unit {made.system.dmd.shape.gd_hetero_width}" in lines
        words = {line.split()[0]: dict(word.split("=") for word in line.split()[1:] if "=" in word) for line in lines[1:]}
        assert len(words) == 3 * 5 + 4
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.model.graph.initializer}
        named = words["hetero.vision.first"]
        found = constants[named["weight"]].astype(np.float32)
        if "scale" in named:
            found = found * constants[named["scale"]][:, None]
        exact = head.proj1.weight.detach().numpy()  # type: ignore[union-attr]
        np.testing.assert_allclose(found, exact, atol=np.abs(exact).max() / 200)
        np.testing.assert_array_equal(constants[named["bias"]], head.proj1.bias.detach().numpy())  # type: ignore[union-attr]


def test_a_model_whose_kernels_differ_is_refused_with_the_recipe_that_streams() -> None:
    with pytest.raises(ExportError, match=r"kernels differ \(text 3, audio 1, vision 3\).*--set model.kernels.audio=3"):
        StepModule(DmdSystem(stream_shape((3, 1, 3), levels=2)))


@pytest.mark.slow
def test_a_model_that_cannot_stream_is_refused_before_anything_is_exported(
    text_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(text_run), "--stream", "--out", str(tmp_path / "words.dmd")]) == 1
    said = capsys.readouterr().err
    assert "--stream: this model cannot stream: its modalities have different numbers of steps (text 8, audio 6" in said
    assert "exporting" not in said
    assert not (tmp_path / "words.dmd").exists()
