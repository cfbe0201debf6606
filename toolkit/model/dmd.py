"""Decoupled Multimodal Distillation, the full model that is trained (arXiv 2303.13802; docs/model.md sections 1 to 4).

It reads from top to bottom as the paper does: decouple, reconstruct, common heads, transformers, read-out. Layout is
(B, T, d) except where a comment says otherwise. Orders l, v, a (text, vision, audio) inside concatenations are the
published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdkit.config import DropoutConfig, ModelShape
from dmdkit.model.dropout import dropout as drop
from dmdkit.model.siblings import run_siblings
from dmdkit.model.transformer import BlockDropout, EncoderBlock

__all__ = ["CROSS_PAIRS", "GRAPH_ORDER", "Dmd", "DmdOutput", "Standardise"]

GRAPH_ORDER = ("text", "vision", "audio")
"""Order of the modalities inside graphs and concatenations (the published l, v, a)."""

CROSS_PAIRS = {"text": ("audio", "vision"), "audio": ("text", "vision"), "vision": ("text", "audio")}
"""Target -> its two sources, in the order in which its memory block concatenates them."""


class DmdOutput(NamedTuple):
    """Everything the losses, the GD-Units and the explanation read; dictionaries are keyed by modality.

    Attributes:
        output: (B, C) regression value or class logits.
        projected, reconstructed, exclusive, exclusive_cycle, common: P_m, R_m, S_m, E_m(R_m), C_m, each (B, T'_m, d).
        align: (B, d) alignment vector of C_m.
        logit_homo, repr_homo: (B, C), (B, d) of the heads on the common part; the representation is the one after ReLU.
        logit_hetero, repr_hetero: (B, C), (B, 2d) of the heads on the exclusive part.
        last_hidden: (B, 2d), h_m, the memory block's last step before its head.
        logit_common: (B, C) of the head on c.
    """

    output: Tensor
    projected: dict[str, Tensor]
    reconstructed: dict[str, Tensor]
    exclusive: dict[str, Tensor]
    exclusive_cycle: dict[str, Tensor]
    common: dict[str, Tensor]
    align: dict[str, Tensor]
    logit_homo: dict[str, Tensor]
    repr_homo: dict[str, Tensor]
    logit_hetero: dict[str, Tensor]
    repr_hetero: dict[str, Tensor]
    last_hidden: dict[str, Tensor]
    logit_common: Tensor


class Standardise(nn.Module):
    """Feature standardisation that leaves padding steps (all features exactly zero) zero.

    The statistics are buffers, so they travel with the weights and into the graph.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / scale on the steps of ``x`` (B, T, D) that hold anything, zero elsewhere."""
        present = (x != 0).any(dim=-1, keepdim=True).type_as(x)
        return (x - self.mean) / self.scale * present


class PointwiseConv(nn.Conv1d):
    """A convolution over steps without bias that takes and returns (B, T, channels)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name nn.Module.forward has
        """Returns (B, T - kernel + 1, outputs)."""
        if self.kernel_size[0] == 1:
            return F.linear(input, self.weight.squeeze(-1))
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


class Head(nn.Module):
    """A two-layer residual head: linear, ReLU, dropout, linear, added back, then linear to C."""

    def __init__(self, width: int, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.proj1 = nn.Linear(width, hidden)
        self.proj2 = nn.Linear(hidden, width)
        self.out = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the logits (B, C), the hidden vector after ReLU (B, hidden), and the residual sum (B, width)."""
        hidden = F.relu(self.proj1(x))
        total = x + self.proj2(drop(hidden, self.dropout, self.training))
        return self.out(total), hidden, total


def run_blocks(
    blocks: Sequence[nn.Module], streams: Sequence[Tensor], sources: Sequence[Tensor] | None = None, *, last_step: bool = False
) -> list[Tensor]:
    """What each block makes of its stream (B, T_q, e), attending to its source where there is one.

    While training, blocks whose lengths are equal run together, and without what only other steps than a wanted last one
    need; otherwise one by one. With ``last_step`` each is (B, e).
    """
    nothing = [None] * len(blocks)
    if not blocks[0].training:
        whole = [block(x, y) for block, x, y in zip(blocks, streams, sources or nothing, strict=True)]
        return [x[:, -1] for x in whole] if last_step else whole
    found: dict[int, Tensor] = {}
    lengths = [(x.shape[1], 0 if y is None else y.shape[1]) for x, y in zip(streams, sources or nothing, strict=True)]
    for equal in dict.fromkeys(lengths):
        chosen = [index for index, length in enumerate(lengths) if length == equal]
        stacked = torch.stack([streams[i] for i in chosen]), torch.stack([sources[i] for i in chosen]) if sources else None
        together = run_siblings([cast(EncoderBlock, blocks[i]) for i in chosen], *stacked, last_step=last_step)
        if last_step:
            together = together[:, :, -1]
        found.update(zip(chosen, together.unbind(), strict=True))
    return [found[index] for index in range(len(blocks))]


def _last_steps(blocks: Sequence[nn.Module], streams: Sequence[Tensor], last: Tensor | None) -> list[Tensor]:
    """What each block makes of one step of its stream (B, T, e), (B, e): the last one, or each sample's own ``last`` (B,)."""
    if last is None:
        return run_blocks(blocks, streams, last_step=True)
    samples = torch.arange(len(last), device=last.device)
    return [x[samples, last] for x in run_blocks(blocks, streams)]


class Dmd(nn.Module):
    """The full model for inputs of one shape; any sizes, any device.

    Args:
        shape: All sizes.
        dropout: Probabilities, used while training.
        standardised: Whether the features pass :class:`Standardise` first.
    """

    def __init__(self, shape: ModelShape, dropout: DropoutConfig | None = None, *, standardised: bool = False) -> None:
        super().__init__()
        dropout = dropout or DropoutConfig()
        self.shape = shape
        self.dropout = dropout
        d, outputs, steps = shape.width, shape.num_outputs, shape.projected_lengths
        dims, kernels = shape.feature_dims.as_dict(), shape.kernels.as_dict()
        attention = {
            "text": dropout.attention_text,
            "audio": dropout.attention_audio,
            "vision": dropout.attention_vision,
        }

        def block(width: int, levels: int, target: str, source: str | None, attention_dropout: float) -> EncoderBlock:
            block_dropout = BlockDropout(attention_dropout, dropout.embed, dropout.residual, dropout.relu)
            return EncoderBlock(width, shape.heads, levels, steps[target], steps[source] if source else None, block_dropout)

        self.standardise = nn.ModuleDict({m: Standardise(dims[m]) for m in GRAPH_ORDER} if standardised else {})
        self.projection = nn.ModuleDict({m: PointwiseConv(dims[m], d, kernels[m]) for m in GRAPH_ORDER})
        self.exclusive_encoder = nn.ModuleDict({m: PointwiseConv(d, d) for m in GRAPH_ORDER})
        self.common_encoder = PointwiseConv(d, d)
        self.decoder = nn.ModuleDict({m: PointwiseConv(2 * d, d) for m in GRAPH_ORDER})
        self.align = nn.ModuleDict({m: nn.Linear(d * steps[m], d) for m in GRAPH_ORDER})

        self.homo_head = nn.ModuleDict({m: Head(d * steps[m], d, outputs, dropout.output) for m in GRAPH_ORDER})
        self.self_block = nn.ModuleDict({m: block(d, shape.levels, m, None, attention[m]) for m in GRAPH_ORDER})
        self.cross_block = nn.ModuleDict(
            {
                target: nn.ModuleDict({source: block(d, shape.levels, target, source, attention[source]) for source in sources})
                for target, sources in CROSS_PAIRS.items()
            }
        )
        self.memory_block = nn.ModuleDict(
            {m: block(2 * d, shape.memory_levels, m, None, attention["text"]) for m in GRAPH_ORDER}
        )
        self.common_head = Head(3 * d, 3 * d, outputs, dropout.output)
        self.hetero_head = nn.ModuleDict({m: Head(2 * d, 2 * d, outputs, dropout.output) for m in GRAPH_ORDER})
        self.gate = nn.ModuleDict({m: nn.Linear(2 * d, 2 * d) for m in GRAPH_ORDER})
        self.common_gate = nn.Linear(3 * d, 3 * d)
        self.readout = Head(9 * d, 9 * d, outputs, dropout.output)

    def set_statistics(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Stores each modality's training mean and scale, float32 (D_m,), in its :class:`Standardise`."""
        for name, (mean, scale) in statistics.items():
            module = self.standardise[name]
            assert isinstance(module, Standardise)
            module.mean.copy_(mean)
            module.scale.copy_(scale)

    def present_steps(self, steps: Tensor, longest: int | None = None) -> Tensor:
        """1 at the projected steps of real ones, (B, T'), for int64 (B,) numbers of real steps.

        ``longest``: input steps of the batch where it was cut to its longest sample; None: those of the shape.
        """
        kernel = self.shape.kernels.text
        places = torch.arange((longest or self.shape.lengths.text) - kernel + 1, device=steps.device)
        return (places < (steps - kernel + 1).unsqueeze(1)).float()

    def _whole(self, common: Tensor) -> Tensor:
        """``common`` (B, T', d) with the steps that a batch of shorter samples was cut by: zeros, as they were."""
        missing = self.shape.projected_lengths["text"] - common.shape[1]
        return F.pad(common, (0, 0, 0, missing)) if missing else common

    def forward(self, text: Tensor, audio: Tensor, vision: Tensor, steps: Tensor | None = None) -> DmdOutput:
        """Computes every output from float32 features (B, T_m, D_m).

        ``steps``: int64 (B,), how many real steps stand in front; the last of them is read, and what is behind changes nothing,
        so a batch may be cut to its longest sample. None: every step is the model's, padding too.
        """
        x = {"text": text, "audio": audio, "vision": vision}
        if len(self.standardise):
            x = {m: self.standardise[m](x[m]) for m in x}
        x["text"] = drop(x["text"], self.dropout.text, self.training)

        # Decoupling: an exclusive and a common part of each projected modality (paper, section 3.2).
        projected = {m: self.projection[m](x[m]) for m in GRAPH_ORDER}
        if steps is not None:  # S_m, C_m and all that is made of them without a bias are then zero behind the real steps, too
            present = self.present_steps(steps, text.shape[1]).type_as(text).unsqueeze(2)
            projected = {m: projected[m] * present for m in GRAPH_ORDER}
        last = None if steps is None else steps - self.shape.kernels.text
        exclusive = {m: self.exclusive_encoder[m](projected[m]) for m in GRAPH_ORDER}
        common = {m: self.common_encoder(projected[m]) for m in GRAPH_ORDER}
        reconstructed = {m: self.decoder[m](torch.cat([exclusive[m], common[m]], dim=-1)) for m in GRAPH_ORDER}
        exclusive_cycle = {m: self.exclusive_encoder[m](reconstructed[m]) for m in GRAPH_ORDER}
        # The published alignment flattens channel-major, the heads below time-major.
        whole = common if steps is None else {m: self._whole(common[m]) for m in GRAPH_ORDER}
        align = {m: self.align[m](whole[m].transpose(1, 2).flatten(1)) for m in GRAPH_ORDER}

        homo = {m: self.homo_head[m](whole[m].flatten(1)) for m in GRAPH_ORDER}
        self_blocks = [self.self_block[m] for m in GRAPH_ORDER]
        c = torch.cat(_last_steps(self_blocks, [common[m] for m in GRAPH_ORDER], last), dim=-1)
        logit_common, _, _ = self.common_head(c)

        pairs = [(target, source) for target, sources in CROSS_PAIRS.items() for source in sources]
        cross_blocks = [self.cross_block[target][source] for target, source in pairs]  # type: ignore[index]
        crossed = run_blocks(cross_blocks, [exclusive[t] for t, _ in pairs], [exclusive[s] for _, s in pairs])
        memories = [torch.cat(crossed[i : i + 2], dim=-1) for i in range(0, len(pairs), 2)]
        remembered = _last_steps([self.memory_block[m] for m in CROSS_PAIRS], memories, last)
        last_hidden = dict(zip(CROSS_PAIRS, remembered, strict=True))
        hetero = {m: self.hetero_head[m](last_hidden[m]) for m in GRAPH_ORDER}

        gated = [torch.sigmoid(self.gate[m](last_hidden[m])) for m in GRAPH_ORDER]
        output, _, _ = self.readout(torch.cat([*gated, torch.sigmoid(self.common_gate(c))], dim=-1))
        return DmdOutput(
            output=output,
            projected=projected,
            reconstructed=reconstructed,
            exclusive=exclusive,
            exclusive_cycle=exclusive_cycle,
            common=common,
            align=align,
            logit_homo={m: homo[m][0] for m in GRAPH_ORDER},
            repr_homo={m: homo[m][1] for m in GRAPH_ORDER},
            logit_hetero={m: hetero[m][0] for m in GRAPH_ORDER},
            repr_hetero={m: hetero[m][2] for m in GRAPH_ORDER},
            last_hidden=last_hidden,
            logit_common=logit_common,
        )
