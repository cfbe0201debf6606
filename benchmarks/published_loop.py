"""The published training procedure, written plainly once more: what our own is compared with, in weights and in time.

One block after the other, one loss term after the other, a double loop in the margin loss, one parameter after the other
at the clipping. Nothing of :mod:`dmdkit.model` computes here; a system only lends its parameters, by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dmdkit.config import DropoutConfig, ModelShape

ORDER = ("text", "vision", "audio")
CROSSED = {"text": ("audio", "vision"), "audio": ("text", "vision"), "vision": ("text", "audio")}
EDGES = [(student, teacher) for student in ORDER for teacher in ORDER if student != teacher]
PRIOR = {"homo": (0, 0, 1, 0, 1, 0), "hetero": (0, 0, 1, 0, 1, 1)}


class PublishedModel:
    """The forward pass and the objective for ``weights``, the named parameters of a system with GD-Units.

    Args:
        weights: By name, as a run stores them.
        shape: All sizes.
        dropout: Probabilities; None for no dropout at all.
    """

    def __init__(self, weights: Mapping[str, Tensor], shape: ModelShape, dropout: DropoutConfig | None = None) -> None:
        self.weights, self.shape, self.p = weights, shape, dropout or DropoutConfig()
        self.attention_p = {"text": self.p.attention_text, "audio": self.p.attention_audio, "vision": self.p.attention_vision}
        longest = max(shape.lengths.as_dict().values())
        self.positions = {e: _positions(longest, e) for e in (shape.width, 2 * shape.width)}

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-5)

    def convolution(self, name: str, x: Tensor) -> Tensor:
        """On (B, channels, T), without bias."""
        return F.conv1d(x, self.weights[f"{name}.weight"])

    def embed(self, x: Tensor) -> Tensor:
        """(B, T, e) scaled, with its positions, dropped."""
        e, steps = x.shape[2], x.shape[1]
        row = torch.arange(1, steps + 1).expand(x.shape[:2]) * (x[:, :, 0] != 0)
        return F.dropout(math.sqrt(e) * x + self.positions[e][row].to(x), self.p.embed)

    def attend(self, name: str, query: Tensor, key: Tensor, value: Tensor, p: float) -> Tensor:
        weight, bias = self.weights[f"{name}.in_proj_weight"].chunk(3), self.weights[f"{name}.in_proj_bias"].chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weight, bias, strict=True))
        batch, queries, e = q.shape
        keys, heads = k.shape[1], self.shape.heads
        q = q * (e // heads) ** -0.5
        q, k, v = (
            x.reshape(batch, -1, heads, e // heads).transpose(1, 2).reshape(batch * heads, -1, e // heads) for x in (q, k, v)
        )
        mask = torch.full((queries, keys), -math.inf).triu(1 + abs(keys - queries)).to(q)
        scores = torch.bmm(q, k.transpose(1, 2)) + mask
        weights = F.dropout(torch.softmax(scores, -1), p)
        mixed = torch.bmm(weights, v).reshape(batch, heads, queries, -1).transpose(1, 2).reshape(batch, queries, e)
        return self.linear(f"{name}.out_proj", mixed)

    def block(self, name: str, x: Tensor, source: Tensor | None, p: float) -> Tensor:
        levels = len({key.split(".layers.")[1].split(".")[0] for key in self.weights if key.startswith(f"{name}.layers.")})
        x = self.embed(x)
        if source is not None:
            source_keys, source_values = self.embed(source), self.embed(source)  # two draws of dropout, as published
        for level in range(levels):
            layer = f"{name}.layers.{level}"
            query = self.norm(f"{layer}.layer_norms.0", x)
            if source is None:
                key = value = query
            else:
                key = self.norm(f"{layer}.layer_norms.0", source_keys)
                value = self.norm(f"{layer}.layer_norms.0", source_values)
            x = x + F.dropout(self.attend(f"{layer}.self_attn", query, key, value, p), self.p.residual)
            hidden = F.dropout(F.relu(self.linear(f"{layer}.fc1", self.norm(f"{layer}.layer_norms.1", x))), self.p.relu)
            x = x + F.dropout(self.linear(f"{layer}.fc2", hidden), self.p.residual)
        return self.norm(f"{name}.layer_norm", x)

    def head(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, hidden vector after ReLU, residual sum."""
        hidden = F.relu(self.linear(f"{name}.proj1", x))
        total = x + self.linear(f"{name}.proj2", F.dropout(hidden, self.p.output))
        return self.linear(f"{name}.out", total), hidden, total

    def gd_unit(self, name: str, logits: dict[str, Tensor], representations: dict[str, Tensor]) -> Tensor:
        """Normalised edges (6, B)."""
        halves = {
            m: (self.linear(f"{name}.logit", logits[m]), self.linear(f"{name}.representation", representations[m]))
            for m in ORDER
        }
        z = {m: torch.cat(both, 1) for m, both in halves.items()}
        edges = torch.cat([self.linear(f"{name}.edge", torch.cat([z[s], z[t]], 1)) for s, t in EDGES], 1)
        return torch.softmax(edges / 8, 1).t()

    def loss(self, features: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """The objective of one batch of features (B, T, D), float labels (B,)."""
        x = dict(features)
        x["text"] = F.dropout(x["text"], self.p.text)
        terms: dict[str, list[Tensor]] = {name: [] for name in ("task", "rec", "cyc", "ort", "distil")}
        exclusive, common, align = {}, {}, {}
        logits: dict[str, dict[str, Tensor]] = {"homo": {}, "hetero": {}}
        representations: dict[str, dict[str, Tensor]] = {"homo": {}, "hetero": {}}
        for m in ORDER:
            projected = self.convolution(f"dmd.projection.{m}", x[m].transpose(1, 2))
            s = self.convolution(f"dmd.exclusive_encoder.{m}", projected)
            c = self.convolution("dmd.common_encoder", projected)
            reconstructed = self.convolution(f"dmd.decoder.{m}", torch.cat([s, c], 1))
            cycled = self.convolution(f"dmd.exclusive_encoder.{m}", reconstructed)
            terms["rec"].append(F.mse_loss(projected, reconstructed))
            terms["cyc"].append(F.mse_loss(s, cycled))
            terms["ort"].append(_cosine(s, c, 0).clamp(min=0).mean())
            align[m] = self.linear(f"dmd.align.{m}", c.flatten(1))
            exclusive[m], common[m] = s.transpose(1, 2), c.transpose(1, 2)
            logits["homo"][m], representations["homo"][m], _ = self.head(f"dmd.homo_head.{m}", common[m].flatten(1))
        last = torch.cat([self.block(f"dmd.self_block.{m}", common[m], None, self.attention_p[m])[:, -1] for m in ORDER], 1)
        gated = {}
        for target, sources in CROSSED.items():
            crossed = [
                self.block(f"dmd.cross_block.{target}.{s}", exclusive[target], exclusive[s], self.attention_p[s])
                for s in sources
            ]
            hidden = self.block(f"dmd.memory_block.{target}", torch.cat(crossed, 2), None, self.attention_p["text"])[:, -1]
            logits["hetero"][target], _, representations["hetero"][target] = self.head(f"dmd.hetero_head.{target}", hidden)
            gated[target] = torch.sigmoid(self.linear(f"dmd.gate.{target}", hidden))
        z = torch.cat([*(gated[m] for m in ORDER), torch.sigmoid(self.linear("dmd.common_gate", last))], 1)
        outputs = [self.head("dmd.readout", z)[0], self.head("dmd.common_head", last)[0]]
        outputs += [logits[space][m] for space in ("homo", "hetero") for m in ORDER]
        terms["task"] = [F.l1_loss(output.squeeze(1), labels) for output in outputs]
        for space in ("homo", "hetero"):
            edges = self.gd_unit(f"{space}_gd", logits[space], representations[space])
            terms["distil"] += _distillation(edges, logits[space], representations[space], space)
        margin = _margin([align[m] for m in ORDER], labels)
        decoupling = sum(terms["cyc"]) + sum(terms["rec"]) + 0.1 * (margin + sum(terms["ort"]))
        return sum(terms["task"]) + 0.05 * sum(terms["distil"]) + 0.1 * decoupling  # type: ignore[return-value]


def _positions(steps: int, width: int) -> Tensor:
    """Row 0 all zeros, row t + 1 of step t: sines, then cosines, one zero column where the width is odd."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    angle = torch.arange(steps + 1, dtype=torch.float32)[:, None] * frequency
    table = torch.zeros(steps + 1, width, dtype=torch.float32)
    table[1:, :half], table[1:, half : 2 * half] = torch.sin(angle[1:]), torch.cos(angle[1:])
    return table


def _cosine(x: Tensor, y: Tensor, dim: int) -> Tensor:
    return (x * y).sum(dim) / torch.sqrt((x.pow(2).sum(dim) + 1e-12) * (y.pow(2).sum(dim) + 1e-12))


def _distillation(edges: Tensor, logits: dict[str, Tensor], representations: dict[str, Tensor], space: str) -> list[Tensor]:
    """Regulariser, logits and, in the heterogeneous space, representations (the published code leaves the others out)."""
    prior = torch.softmax(torch.tensor(PRIOR[space]).to(edges) / 0.25, 0)
    logit, representation = [], []
    for k, (student, teacher) in enumerate(EDGES):
        weight = edges[k] + prior[k]
        logit.append(((logits[student] - logits[teacher].detach()).abs().sum(1) * weight).mean())
        apart = _cosine(representations[student], representations[teacher].detach(), 1).clamp(min=0).mean()
        representation.append((apart * weight).mean())
    terms = [10 * (edges.mean(1) - prior).pow(2).sum(), sum(logit)]
    return [*terms, 10 * sum(representation)] if space == "hetero" else terms  # type: ignore[list-item]


def _margin(align: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Over every anchor, each of its positives against all of its negatives."""
    vectors, label = torch.cat(list(align)), labels.repeat(len(align))
    cosine = _cosine(vectors.unsqueeze(0), vectors.unsqueeze(1), 2)
    anchors = []
    for a in range(len(label)):
        positive, negative = (label == label[a]).nonzero().flatten(), label != label[a]
        hinges = []
        for p in positive.tolist():
            if p != a and negative.any():
                distance = 0.15 * (label[a] - label[negative]).abs()
                hinges.append((distance - cosine[a, p] + cosine[a, negative]).clamp(min=0).mean())
        if hinges:
            anchors.append(torch.stack(hinges).mean())
    return torch.stack(anchors).mean() if anchors else cosine.new_zeros(())


def published_step(
    model: PublishedModel, optimizer: torch.optim.Optimizer, batches: Sequence[tuple[Mapping[str, Tensor], Tensor]], clip: float
) -> None:
    """Sums the gradients of ``batches``, clipping what has gathered after each, and takes one step."""
    optimizer.zero_grad()
    for features, labels in batches:
        model.loss(features, labels).backward()
        for weight in model.weights.values():
            if weight.grad is not None:
                weight.grad.clamp_(-clip, clip)
    optimizer.step()
