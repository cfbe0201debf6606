"""The full model: sizes, orders, masks and positions that the recordings do not pin one by one."""

import pytest
import torch

from dmdkit.config import DropoutConfig, ModelShape
from dmdkit.model import EDGES, GRAPH_ORDER, Dmd, DmdSystem
from dmdkit.model.dmd import Standardise
from dmdkit.model.transformer import attention_mask, position_table


def shape_of(
    width: int = 8,
    heads: int = 2,
    levels: int = 1,
    outputs: int = 1,
    lengths: tuple[int, int, int] = (6, 6, 6),
    kernels: tuple[int, int, int] = (1, 1, 1),
    dims: tuple[int, int, int] = (7, 4, 5),
) -> ModelShape:
    names = ("text", "audio", "vision")
    return ModelShape(
        feature_dims=dict(zip(names, dims, strict=True)),
        lengths=dict(zip(names, lengths, strict=True)),
        kernels=dict(zip(names, kernels, strict=True)),
        width=width,
        heads=heads,
        levels=levels,
        num_outputs=outputs,
    )


def inputs_of(shape: ModelShape, batch: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    dims = shape.feature_dims.as_dict()
    return {m: torch.randn(batch, steps, dims[m]) for m, steps in shape.lengths.as_dict().items()}


def test_parameter_counts_are_the_published_ones() -> None:
    mosi = shape_of(50, 10, 4, lengths=(50, 50, 50), kernels=(5, 5, 5), dims=(768, 5, 20))
    mosei = shape_of(30, 6, 4, lengths=(50, 50, 50), kernels=(5, 1, 3), dims=(768, 74, 35))
    for shape, published in ((mosi, 4_743_658), (mosei, 1_792_778)):
        with torch.device("meta"):
            ours = sum(p.numel() for p in Dmd(shape).parameters())
        # proj_cosine_m enters no output and no loss, so the model does not carry it (docs/model.md section 1).
        d = shape.width
        unused = sum(d * d * steps + d for steps in shape.projected_lengths.values())
        assert ours + unused == published


@pytest.mark.parametrize(
    "shape",
    [
        shape_of(),
        shape_of(width=9, heads=3),
        shape_of(width=10, heads=10, levels=4),
        shape_of(lengths=(5, 40, 31), kernels=(3, 1, 4)),
        shape_of(outputs=4),
        shape_of(width=7, dims=(7, 7, 7), heads=1),
        shape_of(lengths=(1, 1, 1)),
    ],
)
def test_any_sizes_give_finite_outputs_of_the_described_shapes(shape: ModelShape) -> None:
    out = DmdSystem(shape).eval()(**inputs_of(shape))
    assert out.model.output.shape == (3, shape.num_outputs)
    assert out.edges_homo.shape == (3, 6)
    assert torch.allclose(out.edges_homo.sum(1), torch.ones(3))
    for m in GRAPH_ORDER:
        assert out.model.common[m].shape == (3, shape.projected_lengths[m], shape.width)
        assert out.model.repr_hetero[m].shape == (3, 2 * shape.width)
        assert torch.isfinite(out.model.reconstructed[m]).all()


def test_edges_are_in_the_published_order() -> None:
    letters = {"text": "l", "vision": "v", "audio": "a"}
    assert ["<-".join(letters[m] for m in edge) for edge in EDGES] == ["l<-v", "l<-a", "v<-l", "v<-a", "a<-l", "a<-v"]


def test_mask_forbids_the_future_shifted_by_the_difference_in_length() -> None:
    assert attention_mask(3, 3).tolist() == [[False, True, True], [False, False, True], [False, False, False]]
    assert attention_mask(2, 4)[0].tolist() == [False, False, False, True]
    assert not attention_mask(4, 2)[1:].any()


def test_position_table_starts_with_a_zero_row_and_pads_odd_widths() -> None:
    table = position_table(4, 7)
    assert table.shape == (5, 7)
    assert not table[0].any()
    assert not table[:, 6].any()
    assert table[1, 0] == pytest.approx(torch.sin(torch.tensor(1.0)).item())
    assert table[2, 3] == pytest.approx(torch.cos(torch.tensor(2.0)).item())


def test_prefix_of_a_long_run_equals_the_run_on_the_prefix() -> None:
    """Causality with equal projected lengths (docs/model.md section 10): what makes exact streaming possible."""
    torch.manual_seed(1)
    long, short = shape_of(levels=2, lengths=(9, 9, 9)), shape_of(levels=2, lengths=(5, 5, 5))
    model = Dmd(long).eval()
    x = inputs_of(long)
    block, prefix = model.cross_block["text"]["audio"], {m: v[:, :5] for m, v in x.items()}
    short_model = Dmd(short).eval()
    keep = {k: v for k, v in model.state_dict().items() if not k.startswith(("align", "homo_head"))}
    short_model.load_state_dict(keep, strict=False)
    s, s_short = model(**x).exclusive, short_model(**prefix).exclusive
    whole = block(s["text"], s["audio"])[:, :5]
    part = short_model.cross_block["text"]["audio"](s_short["text"], s_short["audio"])
    assert torch.allclose(whole, part, atol=1e-6)


def test_standardise_leaves_padding_zero_and_scales_the_rest() -> None:
    module = Standardise(2)
    module.mean.copy_(torch.tensor([1.0, 2.0]))
    module.scale.copy_(torch.tensor([2.0, 4.0]))
    x = torch.tensor([[[0.0, 0.0], [3.0, 2.0], [1.0, 0.0]]])
    assert module(x).tolist() == [[[0.0, 0.0], [1.0, 0.0], [0.0, -0.5]]]


def test_dropout_acts_only_while_training() -> None:
    shape = shape_of()
    dropout = DropoutConfig(output=0.5, text=0.5, relu=0.5, residual=0.5, embed=0.5, attention_text=0.5)
    torch.manual_seed(0)
    system = DmdSystem(shape, dropout)
    x = inputs_of(shape)
    system.eval()
    assert torch.equal(system(**x).model.output, system(**x).model.output)
    system.train()
    assert not torch.equal(system(**x).model.output, system(**x).model.output)
