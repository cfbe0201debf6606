"""Inspector JSON of TensorRT 10 and 11 for two products, written after both layouts."""

from __future__ import annotations

import json

from dmdkit.runtime.engines.record import ProductRecord

PRODUCTS = [
    ProductRecord(name="/a/MatMul", multiply_adds=900, int8=True),
    ProductRecord(name="/a/MatMul_2", multiply_adds=100, int8=False),
]


def layer(name: str, kind: str, *, eleven: bool) -> dict[str, object]:
    types = {"int8": ("Int8", "INT8"), "fp16": ("Half", "FP16"), "fp32": ("Float", "FP32")}[kind]
    tensor: dict[str, object] = {"Name": "x", "Dimensions": [1, 8]}
    tensor |= {"Format/Datatype": f"Row major linear {types[1]}"} if not eleven else {"Format": "N/A", "Datatype": types[0]}
    return {"Name": name, "LayerType": "gemm", "Inputs": [tensor], "Outputs": [], "Metadata": f"[ONNX Layer: {name}]"}


def inspector(first: str, second: str, *, eleven: bool) -> str:
    layers = [layer("/a/MatMul", first, eleven=eleven), layer("/a/MatMul_2", second, eleven=eleven)]
    return json.dumps({"Layers": layers, ("I/O Tensors" if eleven else "Bindings"): ["text", "score"]})
