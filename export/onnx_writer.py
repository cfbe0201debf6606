"""PyTorch modules to tidy ONNX graphs: the contract's opset, short readable names, nothing that is not used."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Collection, Sequence

import onnx
import torch
from onnx import ModelProto, shape_inference
from torch import Tensor, nn

from dmdkit.calibration.graph.analysis import copy_of, replace_nodes
from dmdkit.calibration.graph.cleanup import canonicalise
from dmdkit.errors import ExportError, MissingDependencyError

__all__ = ["IR_VERSION", "OPSET", "check_contract", "graph_from_module", "subgraph"]

OPSET = 20
IR_VERSION = 10
"""Written exactly, so that ONNX Runtime 1.22 and TensorRT 10.3 read every graph."""


def graph_from_module(
    module: nn.Module,
    inputs: Sequence[tuple[str, Tensor]],
    outputs: Sequence[str],
    *,
    fixed: Collection[str] = (),
    name: str = "main",
) -> ModelProto:
    """The ONNX graph of ``module``, batch axis dynamic, names tidied, contract checked.

    Args:
        module: Takes the inputs in order, as ``*inputs`` where some are ``fixed``; it is put into evaluation mode.
        inputs: Names and example tensors with a batch of 2 or more.
        outputs: Names of its outputs, in order.
        fixed: Inputs whose first axis is no batch and stays as it is in the example.
        name: Name of the graph.

    Raises:
        ExportError: The exporter failed or its graph breaks the contract.
    """
    batch = torch.export.Dim("batch")
    shapes = [{} if given in fixed else {0: batch} for given, _ in inputs]
    logger = logging.getLogger("torch.onnx")
    level, said = logger.level, io.StringIO()
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(tensor for _, tensor in inputs),
                dynamo=True,
                opset_version=OPSET,
                input_names=[name for name, _ in inputs],
                output_names=list(outputs),
                dynamic_shapes=(tuple(shapes),) if fixed else shapes,
                verbose=False,
            )
    except ImportError as cause:
        raise MissingDependencyError(cause.name or "onnxscript", "export", "export to ONNX") from cause
    except Exception as cause:  # the exporter raises many kinds
        raise ExportError(f"PyTorch could not export {type(module).__name__}: {cause}") from cause
    finally:
        logger.setLevel(level)
    assert program is not None
    model: ModelProto = program.model_proto
    canonicalise(model, name)
    check_contract(model)
    return model


def subgraph(model: ModelProto, outputs: Sequence[str], name: str) -> ModelProto:
    """The part of ``model`` that its ``outputs`` need, and nothing else; inputs stay as they are."""
    model = copy_of(model)
    needed, kept = set(outputs), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
    replace_nodes(model, reversed(kept))
    chosen = [value for value in model.graph.output if value.name in outputs]
    del model.graph.output[:]
    model.graph.output.extend(chosen)
    canonicalise(model, name)
    check_contract(model)
    return model


def check_contract(model: ModelProto) -> None:
    """Checks what every reader relies on: IR, opset, standard operators, valid graph, no unused initialiser.

    Raises:
        ExportError: Naming what is broken.
    """
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if model.ir_version != IR_VERSION or opsets.get("ai.onnx") != OPSET:
        raise ExportError(f"graph has IR {model.ir_version} and opsets {opsets}, expected IR {IR_VERSION} and opset {OPSET}")
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if foreign:
        raise ExportError(f"graph uses operators outside the ONNX standard: {', '.join(sorted(foreign))}")
    used = {item for node in model.graph.node for item in node.input}
    unused = [tensor.name for tensor in model.graph.initializer if tensor.name not in used]
    if unused:
        raise ExportError(f"graph has initialisers nothing reads: {', '.join(unused[:5])}")
    try:
        onnx.checker.check_model(model, full_check=True)
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as cause:
        raise ExportError(f"graph does not pass the ONNX checker: {str(cause).splitlines()[0]}") from cause
