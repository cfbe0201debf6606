"""Blocks run together against the same blocks one by one, and dropout against its definition."""

from __future__ import annotations

import pytest
import torch

from dmdkit.config import DropoutConfig
from dmdkit.model import DmdSystem, loss_terms, total_loss
from dmdkit.model.dropout import draws_of, dropout, kept
from dmdkit.model.siblings import _Attention, _FeedForward, run_siblings
from dmdkit.model.transformer import BlockDropout, EncoderBlock
from tests.model.test_dmd import inputs_of, shape_of


@pytest.mark.parametrize("lengths", [(6, 6, 6), (6, 9, 6), (5, 4, 3), (1, 1, 1)])
def test_training_computes_the_outputs_and_gradients_of_the_plain_blocks(lengths: tuple[int, int, int]) -> None:
    system, labels = DmdSystem(shape_of(lengths=lengths, levels=2)), torch.tensor([1.0, 1.0, 2.0])
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    found = []
    for training in (False, True):  # without dropout the mode decides nothing but the path
        system.train(training).zero_grad()
        out = system(**inputs_of(system.dmd.shape))
        total_loss(loss_terms(out, labels, "released"), "released").backward()
        found.append((out.model.output, [parameter.grad for parameter in system.parameters()]))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)
    for together, alone in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("width", [1, 5])
def test_gradients_of_the_attention_with_dropout_are_exact(width: int) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(4, width, steps, dtype=torch.float64, requires_grad=True) for steps in (3, 5, 5))
    mask = torch.zeros(3, 5, dtype=torch.float64).masked_fill_(torch.ones(3, 5, dtype=torch.bool).triu(3), -torch.inf)

    def attention(*inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)  # the same weights are dropped at every call
        return _Attention.apply(*inputs, mask, (0.0, 0.5))

    assert torch.autograd.gradcheck(attention, (query, key, value))


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_gradients_of_the_feed_forward_with_dropout_are_exact(probability: float) -> None:
    torch.manual_seed(0)
    shapes = [(2, 5, 3), (2, 7, 3), (2, 7), (2, 3, 7), (2, 3)]

    def feed_forward(*inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return _FeedForward.apply(*inputs, probability)

    assert torch.autograd.gradcheck(
        feed_forward, [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    )


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 1001)
    for p in (0.1, 0.5, 0.9):
        found = dropout(x, p, training=True)
        assert float((found == 0).double().mean()) == pytest.approx(p, abs=0.005)
        assert float(found.mean()) == pytest.approx(1, abs=0.02)
        assert found[found != 0].unique().numel() == 1
    assert dropout(x, 0.5, training=False) is x
    draws = draws_of(7, x.device)
    assert torch.equal(kept(draws, 0.0, x.dtype), torch.ones(7))


def test_each_sibling_is_dropped_with_its_own_chance_and_apart_from_the_others() -> None:
    """Queries of zeros attend evenly, so values of ones count what was kept."""
    torch.manual_seed(0)
    query, key, value = torch.zeros(3, 1, 200), torch.zeros(3, 1, 300), torch.ones(3, 1, 300)
    found = _Attention.apply(query, key, value, torch.zeros(200, 300), (0.0, 0.3, 0.3))
    assert torch.allclose(found[0], torch.ones(1, 200))
    assert float(found[1].mean()) == pytest.approx(1, abs=0.02)
    assert float(found[1].std()) == pytest.approx((0.3 / 0.7 / 300) ** 0.5, rel=0.3)
    assert not torch.equal(found[1], found[2])


def test_keys_and_values_of_a_source_are_dropped_apart() -> None:
    """With values that are all alike, attention gives that value back, unless values lack what keys have."""
    torch.manual_seed(0)
    block = EncoderBlock(8, 2, 1, 6, 6, BlockDropout(embed=0.5)).train()
    seen = []
    embed = block.embed
    block.embed = lambda x: seen.append(embed(x)) or seen[-1]  # type: ignore[method-assign,func-returns-value]
    x, source = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    for run in (lambda: run_siblings([block], x[None], source[None]), lambda: block(x, source)):
        seen.clear()
        run()
        assert len(seen) == 3
        assert not torch.equal(seen[1], seen[2])
    block.eval()
    seen.clear()
    block(x, source)
    assert len(seen) == 2


def test_the_seed_alone_decides_what_is_dropped() -> None:
    system = DmdSystem(shape_of(), DropoutConfig(text=0.5, attention_text=0.2, embed=0.1, output=0.5, residual=0.1)).train()
    outputs = []
    for seed in (1, 1, 2):
        inputs = inputs_of(system.dmd.shape)
        torch.manual_seed(seed)
        outputs.append(system(**inputs).model.output)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
