"""A BERT in front of the text input: tokens in, its last hidden states out (docs/model.md section 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from dmdkit.config import PaddedSteps
from dmdkit.errors import MissingDependencyError, WeightsError

__all__ = ["BertShape", "TextEncoder", "bert_shape"]

Size = Annotated[int, Field(ge=1, lt=1 << 24)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]

# Heads of a checkpoint that no text feature needs, and a buffer that older versions saved.
_UNUSED = re.compile(r"^(pooler|cls|qa_outputs|classifier|dropout)\.|\.(position_ids|token_type_ids)$")
_PREFIX = re.compile(r"^(text_model\.model|bert|model)\.")
# Checkpoints converted from TensorFlow name the affine part of a LayerNorm as it did.
_OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))


class BertShape(BaseModel):
    """What ``config.json`` says of a BERT, as far as it decides what is computed; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    model_type: Literal["bert"] = "bert"
    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=256)]
    num_attention_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size
    type_vocab_size: Size = 2
    hidden_act: Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"] = "gelu"
    layer_norm_eps: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-12
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    pad_token_id: Annotated[int, Field(ge=0)] = 0
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False

    @model_validator(mode="after")
    def _fits(self) -> BertShape:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"num_attention_heads={self.num_attention_heads} does not divide hidden_size={self.hidden_size}")
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(f"pad_token_id={self.pad_token_id} is not below vocab_size={self.vocab_size}")
        return self


def bert_shape(values: object, source: str) -> BertShape:
    """``config.json`` as a shape.

    Raises:
        WeightsError: Not a BERT, or one that computes something else than BERT does.
    """
    try:
        return BertShape.model_validate(values)
    except ValidationError as cause:
        first = cause.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        raise WeightsError(
            f"{source}: {where}: {first['msg'].removeprefix('Value error, ')}; a text encoder is a BERT in Hugging Face layout "
            '("model_type": "bert": BERT, MiniLM, TinyBERT, ...)'
        ) from cause


def _bert(shape: BertShape) -> nn.Module:
    try:
        from transformers import BertConfig, BertModel
    except ImportError as cause:
        raise MissingDependencyError(cause.name or "transformers", "text", "a text encoder") from cause
    return BertModel(BertConfig(**shape.model_dump(exclude={"model_type"})), add_pooling_layer=False)


class TextEncoder(nn.Module):
    """Tokens (B, T) to features (B, T, D).

    Args:
        shape: The BERT.
        padded_steps: What a step without a token becomes. ``encoded``: what the encoder makes of it, as in the published code,
            which pads on the right and reads the last step. ``zero``: zeros, as padding is for the other modalities; tokens are
            then padded on the left and take the positions they would have without padding, so that padding changes nothing.

    Raises:
        MissingDependencyError: transformers is not installed.
    """

    def __init__(self, shape: BertShape, padded_steps: PaddedSteps) -> None:
        super().__init__()
        self.shape, self.padded_steps = shape, padded_steps
        self.bert = _bert(shape)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 ids and mask (B, T) -> float32 last hidden states (B, T, D)."""
        if self.padded_steps == "encoded":
            hidden: Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return hidden
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions).last_hidden_state
        return hidden * attention_mask.unsqueeze(-1).to(hidden)

    @classmethod
    def from_weights(
        cls, shape: BertShape, padded_steps: PaddedSteps, tensors: Mapping[str, Tensor], source: str
    ) -> TextEncoder:
        """An encoder in evaluation mode with the weights of a BertModel, bare or inside a larger model's checkpoint.

        Raises:
            WeightsError: One message with the missing, unexpected, misshapen and not finite keys.
            MissingDependencyError: transformers is not installed.
        """
        with torch.device("meta"):  # so that sizes which no tensor bears out are never allocated
            expected = {name: tensor for name, tensor in _bert(shape).state_dict().items() if not _UNUSED.search(name)}
        found: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            name = _PREFIX.sub("", key)
            for old, new in _OLD_NAMES:
                name = name.replace(old, new)
            if not _UNUSED.search(name):
                found[name] = tensor.to(torch.float32)
        problems = [f"missing: {key}" for key in sorted(expected.keys() - found.keys())]
        problems += [f"unexpected: {key}" for key in sorted(found.keys() - expected.keys())]
        for key in sorted(expected.keys() & found.keys()):
            if found[key].shape != expected[key].shape:
                problems.append(f"misshapen: {key} is {tuple(found[key].shape)}, expected {tuple(expected[key].shape)}")
            elif not torch.isfinite(found[key]).all():
                problems.append(f"not finite: {key}")
        if problems:
            shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
            raise WeightsError(f"{source}: {len(problems)} keys do not fit its config.json: {shown}")
        encoder = cls(shape, padded_steps)
        encoder.bert.load_state_dict(found, strict=False)
        return encoder.eval()

    def weights(self) -> dict[str, Tensor]:
        """The weights under Hugging Face's names, in float32 on the CPU."""
        return {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in sorted(self.bert.state_dict().items())
            if not _UNUSED.search(name)
        }

    def config(self) -> dict[str, Any]:
        """``config.json``, for Hugging Face's libraries too."""
        return {"architectures": ["BertModel"], **self.shape.model_dump()}
