"""Each rewrite alone: the rewritten weights compute what the trained ones do."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdkit.export.rewrites import (
    centre,
    compose,
    compose_projection,
    fold_layer,
    fold_layer_norm,
    fold_query_scale,
    fold_residual_head,
    fold_value_bias,
    worth_composing,
)
from dmdkit.model.transformer import BlockDropout, EncoderLayer

TOLERANCE = 1e-5
EPS = 1e-5


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def norm_of(width: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(width, eps=EPS)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias, 0.0, 0.3)
    return norm


def unit(x: Tensor) -> Tensor:
    """What the graph computes from steps x (n, e): centred, scaled, of length at most 1."""
    centred = centre(x.T).T
    return centred / torch.sqrt((centred * centred).sum(dim=-1, keepdim=True) + EPS)


def largest(difference: Tensor) -> float:
    return float(difference.detach().abs().max())


def test_a_composed_matrix_does_both_steps() -> None:
    outer, inner, x = torch.randn(3, 5), torch.randn(5, 7), torch.randn(4, 7)
    assert largest(F.linear(x, compose(outer, inner).float()) - F.linear(F.linear(x, inner), outer)) < TOLERANCE


def test_a_composed_projection_does_projection_and_encoder() -> None:
    projection, encoder, x = torch.randn(6, 4, 3), torch.randn(5, 6), torch.randn(2, 4, 9)
    apart = F.conv1d(F.conv1d(x, projection), encoder.unsqueeze(-1))
    assert largest(F.conv1d(x, compose_projection(projection, encoder).float()) - apart) < TOLERANCE


@pytest.mark.parametrize(
    ("features", "kernel", "pays"), [(5, 5, True), (20, 5, True), (21, 5, False), (768, 5, False), (74, 1, True)]
)
def test_a_projection_is_composed_only_where_that_saves_work(features: int, kernel: int, pays: bool) -> None:
    assert worth_composing(torch.empty(50, features, kernel), 100) is pays


def test_centring_and_the_unit_length_make_a_layer_norm() -> None:
    x, norm = torch.randn(8, 12) * 3 + 5, norm_of(12)
    rebuilt = unit(x) * math.sqrt(12) * norm.weight + norm.bias
    assert largest(rebuilt - norm(x)) < TOLERANCE


def test_centring_what_writes_a_stream_centres_the_stream() -> None:
    weight, bias, x = torch.randn(12, 7), torch.randn(12), torch.randn(4, 7)
    whole = centre(F.linear(x, weight, bias).T).T
    assert largest(F.linear(x, centre(weight).float(), centre(bias).float()) - whole) < TOLERANCE


def test_a_linear_takes_over_the_layer_norm_before_it() -> None:
    linear, norm, x = nn.Linear(12, 5), norm_of(12), torch.randn(8, 12)
    weight, bias = fold_layer_norm(linear.weight, linear.bias, norm)
    assert largest(F.linear(unit(x), weight, bias) - linear(norm(x))) < TOLERANCE


def test_a_step_without_any_variance_gives_the_layer_norms_shift() -> None:
    linear, norm, x = nn.Linear(12, 5), norm_of(12), torch.zeros(1, 12)
    weight, bias = fold_layer_norm(linear.weight, linear.bias, norm)
    assert largest(F.linear(unit(x), weight, bias) - linear(norm(x))) < TOLERANCE


def test_the_query_scale_moves_into_the_query_rows() -> None:
    linear, x = nn.Linear(12, 12), torch.randn(8, 12)
    weight, bias = fold_query_scale(linear.weight, linear.bias, 4)
    assert largest(F.linear(x, weight.float(), bias.float()) - linear(x) * 4**-0.5) < TOLERANCE


def test_a_key_bias_changes_no_attention_weight() -> None:
    q, k, bias = torch.randn(3, 4), torch.randn(6, 4), torch.randn(4)
    assert largest(torch.softmax(q @ (k + bias).T, -1) - torch.softmax(q @ k.T, -1)) < TOLERANCE


def test_the_value_bias_moves_into_the_output_projection() -> None:
    out, weights, v, bias = nn.Linear(6, 5), torch.softmax(torch.randn(3, 8), -1), torch.randn(8, 6), torch.randn(6)
    moved = fold_value_bias(out.weight, out.bias, bias).float()
    assert largest(F.linear(weights @ v, out.weight, moved) - out(weights @ (v + bias))) < TOLERANCE


def test_a_residual_head_needs_no_hidden_matrix() -> None:
    inner, outer, h, x = nn.Linear(9, 6), nn.Linear(6, 2), torch.randn(4, 9), torch.randn(4, 6)
    weight, bias = fold_residual_head(inner, outer)
    assert largest(F.linear(torch.cat([h, x], 1), weight.float(), bias.float()) - outer(x + inner(h))) < TOLERANCE


def test_folding_a_layer_leaves_the_trained_layer_as_it_is() -> None:
    layer = EncoderLayer(12, 3, BlockDropout())
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    folded = fold_layer(layer)
    folded.query.zero_()
    folded.fc2.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
