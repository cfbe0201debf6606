"""A model told how many steps are real gives each sample of a mixed batch what it gives it alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmdkit.model import loss_terms
from dmdkit.model.dmd import GRAPH_ORDER, Dmd
from dmdkit.records import MODALITIES, PerModality
from tests.stream_builders import KERNEL, STEPS, WIDTHS, stream_system


def mixed() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(1)
    steps = torch.tensor([KERNEL, STEPS, 5, 7])
    features = {name: torch.randn(4, STEPS, width) for name, width in WIDTHS.items()}
    for array in features.values():
        array[torch.arange(STEPS) >= steps[:, None]] = 0.0
    return features, steps


def test_a_batch_of_mixed_lengths_gives_each_sample_what_it_gets_alone() -> None:
    system = stream_system()
    features, steps = mixed()
    with torch.inference_mode():
        together = system(**features, steps=steps)
        for sample, count in enumerate(steps.tolist()):
            alone = system(
                **{name: array[sample : sample + 1] for name, array in features.items()}, steps=steps[sample : sample + 1]
            )
            torch.testing.assert_close(alone.edges_homo[0], together.edges_homo[sample])
            sizes = system.dmd.shape.model_copy(update={"lengths": PerModality(**dict.fromkeys(MODALITIES, count))})
            window = Dmd(sizes).eval()
            own, learnt = window.state_dict(), system.dmd.state_dict()
            window.load_state_dict({k: learnt[k] if learnt[k].shape == v.shape else v for k, v in own.items()})
            exact = window(**{name: array[sample : sample + 1, :count] for name, array in features.items()})
            torch.testing.assert_close(exact.output[0], together.model.output[sample], atol=1e-5, rtol=0)
            for m in GRAPH_ORDER:
                torch.testing.assert_close(exact.logit_hetero[m][0], together.model.logit_hetero[m][sample], atol=1e-5, rtol=0)
                assert not together.model.common[m][sample, count - KERNEL + 1 :].any()
                assert not together.model.exclusive[m][sample, count - KERNEL + 1 :].any()


@pytest.mark.parametrize("recipe", ["released", "paper"])
def test_losses_see_real_steps_alone(recipe: str) -> None:
    system = stream_system()
    features, _ = mixed()
    labels = torch.tensor([1.0, -1.0, 0.5, 2.0])
    short = torch.full((4,), 5)
    with torch.inference_mode():
        out = system(**features, steps=short)
        terms = loss_terms(out, labels, recipe, present=system.dmd.present_steps(short))  # type: ignore[arg-type]
        for m in GRAPH_ORDER:
            p, r, s, c = (
                getattr(out.model, name)[m][:, : 5 - KERNEL + 1]
                for name in ("projected", "reconstructed", "exclusive", "common")
            )
            expected = (p - r).square().mean() if recipe == "released" else (p - r).square().sum((1, 2)).mean()
            torch.testing.assert_close(terms.reconstruction[m], expected)
            from dmdkit.model.losses import orthogonality

            torch.testing.assert_close(terms.orthogonality[m], orthogonality(s, c, recipe))  # type: ignore[arg-type]


def test_what_stands_behind_the_real_steps_changes_nothing() -> None:
    system = stream_system()
    features, steps = mixed()
    noisy = {name: array.clone() for name, array in features.items()}
    for array in noisy.values():
        array[torch.arange(STEPS) >= steps[:, None]] = 7.0
    with torch.inference_mode():
        np.testing.assert_array_equal(system(**noisy, steps=steps).model.output, system(**features, steps=steps).model.output)
