"""Precision proof: what the engine inspector says each product of the graph really runs in.

Flags and graphs say what was asked for; on some devices a plan fell back to fp32 without a word. The inspector's JSON is
read in both layouts: TensorRT 10 lists ``Bindings``, TensorRT 11 ``I/O Tensors``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dmdkit.errors import EngineError

__all__ = ["SHORTFALL", "PrecisionProof", "Product", "prove_precision"]

SHORTFALL = 0.01
"""How much of the graph's INT8 multiply-adds a plan may lack: rounding of the shares, and products too small to matter."""


class Product(Protocol):
    """A matrix product or convolution of the graph."""

    @property
    def name(self) -> str:
        """The ONNX node's name."""

    @property
    def multiply_adds(self) -> int:
        """For one sample."""

    @property
    def int8(self) -> bool:
        """Whether the graph asks for INT8."""


@dataclass(frozen=True)
class PrecisionProof:
    """What the inspector said, against what the graph asks for; shares are of the multiply-adds.

    Attributes:
        layout: Which version's JSON it was.
        layers: Layer name -> type of its inputs.
        expected_int8: Share the graph computes in INT8.
        found_int8: Share the plan computes in INT8.
        status: failed when the plan falls short, or the inspector does not tell.
        reason: The verdict in one sentence.
    """

    layout: Literal["tensorrt-10", "tensorrt-11"]
    layers: dict[str, str]
    expected_int8: float
    found_int8: float
    status: Literal["passed", "failed"]
    reason: str


_TYPES = (("int8", r"int8"), ("fp8", r"fp8"), ("fp16", r"fp16|half"), ("bf16", r"bf16|bfloat16"), ("fp32", r"fp32|float"))
_NODES = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def _type(tensor: Any) -> str | None:
    if not isinstance(tensor, dict):
        return None
    text = " ".join(str(tensor.get(key, "")) for key in ("Format/Datatype", "Datatype", "Format")).lower()
    return next((name for name, pattern in _TYPES if re.search(rf"\b(?:{pattern})", text)), None)


def _layers(document: dict[str, Any]) -> Iterable[tuple[str, str, set[str]]]:
    """Name, searchable text and input types of every layer that has them."""
    for layer in document["Layers"]:
        if isinstance(layer, dict):
            types = {kind for kind in map(_type, layer.get("Inputs", [])) if kind is not None}
            nodes = " ".join(_NODES.findall(str(layer.get("Metadata", ""))))
            yield str(layer.get("Name", "?")), f" {layer.get('Name', '')} {nodes} ", types


def prove_precision(text: str, products: Iterable[Product]) -> PrecisionProof:
    """Compares the inspector's JSON with what the graph asks for.

    Args:
        text: The inspector's JSON.
        products: The graph's products, with their multiply-adds.

    Returns:
        ``failed`` when the plan computes a smaller share of the multiply-adds in INT8 than the graph asks for, or when
        the inspector does not tell.

    Raises:
        EngineError: Not the inspector's JSON.
    """
    try:
        document = json.loads(text)
        layout: Literal["tensorrt-10", "tensorrt-11"] = "tensorrt-11" if "I/O Tensors" in document else "tensorrt-10"
        if layout == "tensorrt-10" and "Bindings" not in document:
            raise KeyError("Bindings or I/O Tensors")
        layers = list(_layers(document))
    except (ValueError, TypeError, KeyError) as cause:
        raise EngineError(f"the engine inspector's answer cannot be read: {cause!s:.200}") from cause
    total = found = expected = 0
    unknown: list[str] = []
    for product in products:
        name = re.compile(rf"(?<![\w/]){re.escape(product.name)}(?![\w/])")
        types = [kinds for _, where, kinds in layers if name.search(where)]
        total += product.multiply_adds
        expected += product.multiply_adds * product.int8
        found += product.multiply_adds * any("int8" in kinds for kinds in types)
        if product.int8 and not any(types):
            unknown.append(product.name)
    wanted, share = (expected / total, found / total) if total else (0.0, 0.0)
    passed = share >= wanted - SHORTFALL
    reason = f"{share:.1%} of the multiply-adds in INT8, the graph asks for {wanted:.1%}"
    if not passed and unknown:
        reason += f"; the inspector tells nothing of {len(unknown)} products, {unknown[0]} among them"
    types_of = {name: "+".join(sorted(kinds)) or "unknown" for name, _, kinds in layers}
    return PrecisionProof(
        layout=layout,
        layers=types_of,
        expected_int8=wanted,
        found_int8=share,
        status="passed" if passed else "failed",
        reason=reason,
    )
