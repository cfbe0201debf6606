"""A model repository for Triton: where one machine is outgrown, serve the same graphs there.

Written as protobuf text, the form Triton reads; the tests parse every file with Triton's own protobuf classes. Source:
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime

from dmdkit.errors import ExportError
from dmdkit.files import atomic_directory, foreign_entries
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.record import Engine, engines_of

__all__ = ["ENSEMBLE", "write_triton"]

ENSEMBLE = "emotion"
MAX_BATCH = 32
_ALWAYS = ("fusion", "explain")
_TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(int32)": "TYPE_INT32",
    "tensor(bool)": "TYPE_BOOL",
}


@dataclass(frozen=True)
class _Tensor:
    """Name, Triton's data type, and shape without the batch; -1 where a size is dynamic."""

    name: str
    kind: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class _Signature:
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]

    def at_length(self, steps: int) -> _Signature:
        """The same with its dynamic axes of one size."""

        def fixed(tensors: tuple[_Tensor, ...]) -> tuple[_Tensor, ...]:
            return tuple(replace(t, dims=tuple(steps if size < 0 else size for size in t.dims)) for t in tensors)

        return _Signature(fixed(self.inputs), fixed(self.outputs))


@dataclass(frozen=True)
class _Model:
    name: str
    file: str
    data: bytes
    config: str


def _text(value: str) -> str:
    """A protobuf text string; what is not printable ASCII is shown as a question mark, whatever a sidecar holds."""
    return json.dumps("".join(c if " " <= c <= "~" else "?" for c in value))


def _shape(dims: tuple[int, ...], *, ensemble: bool) -> str:
    """Triton takes no tensor without a size behind the batch: one that has none is sent as (batch, 1) and reshaped.

    An ensemble passes tensors on as they came; its models reshape them.
    """
    return f"dims: {list(dims or (1,))}" + ("" if dims or ensemble else " reshape: { shape: [] }")


def _tensors(field: str, tensors: Sequence[_Tensor], *, ensemble: bool) -> str:
    rows = [f"  {{ name: {_text(t.name)} data_type: {t.kind} {_shape(t.dims, ensemble=ensemble)} }}" for t in tensors]
    return f"{field} [\n" + ",\n".join(rows) + "\n]\n"


def _signature(name: str, model: bytes) -> _Signature:
    """What a graph takes and gives, as ONNX Runtime reads it."""
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as cause:  # its exceptions have no common base but Exception
        raise ExportError(f"{name} cannot be opened by ONNX Runtime: {' '.join(str(cause).split()):.200}") from cause

    def tensors(nodes: Sequence[onnxruntime.NodeArg]) -> tuple[_Tensor, ...]:
        found = []
        for node in nodes:
            if node.type not in _TYPES or not node.shape or isinstance(node.shape[0], int):
                raise ExportError(f"{name}: {node.name} is {node.type} {node.shape}; expected a tensor with a dynamic batch")
            dims = tuple(size if isinstance(size, int) else -1 for size in node.shape[1:])
            found.append(_Tensor(node.name, _TYPES[node.type], dims))
        return tuple(found)

    return _Signature(tensors(session.get_inputs()), tensors(session.get_outputs()))


def _config(name: str, platform: str, max_batch: int, signature: _Signature) -> str:
    return (
        f"name: {_text(name)}\nplatform: {_text(platform)}\nmax_batch_size: {max_batch}\n"
        + _tensors("input", signature.inputs, ensemble=platform == "ensemble")
        + _tensors("output", signature.outputs, ensemble=platform == "ensemble")
    )


def _onnx_model(bundle: Bundle, kind: str) -> tuple[_Model, _Signature]:
    graph = f"{kind}.fp32"
    record = bundle.graph(graph)
    if record.verdict.status != "passed":
        raise ExportError(
            f"{graph} of {bundle.path} is {record.verdict.status} ({record.verdict.reason}); prove it first with "
            f"`dmdkit check {bundle.path} --data FEATURES`"
        )
    data = bundle.read(record.file)
    signature = _signature(graph, data)
    if kind == "text" and bundle.manifest.text is not None:  # one request has one length, the steps of the input text
        signature = signature.at_length(bundle.manifest.text.max_tokens)
    config = (
        _config(kind, "onnxruntime_onnx", MAX_BATCH, signature)
        + 'default_model_filename: "model.onnx"\n'
        + "instance_group [ { count: 1 kind: KIND_AUTO } ]\ndynamic_batching { }\n"
        + 'parameters { key: "intra_op_thread_count" value: { string_value: "1" } }\n'
    )
    return _Model(kind, "model.onnx", data, config), signature


def _plan_model(kind: str, engine: Engine, signature: _Signature) -> _Model:
    name = f"{kind}_{engine.record.target}"
    config = (
        _config(name, "tensorrt_plan", engine.record.batch[2], signature)
        + 'default_model_filename: "model.plan"\n'
        + "instance_group [ { count: 1 kind: KIND_GPU } ]\ndynamic_batching { }\n"
        + "optimization { cuda { graphs: true } }\n"
        + 'parameters { key: "dmdkit_built_with" value: { string_value: '
        + _text(f"tensorrt {engine.record.version} on {engine.record.gpu}")
        + " } }\n"
    )
    return _Model(name, "model.plan", engine.plan(), config)


def _plans(bundle: Bundle, signatures: Mapping[str, _Signature]) -> Iterator[_Model]:
    """Plans that Triton can run: TensorRT's own, proven on the GPU that built them; one for each kind and target."""
    seen: set[tuple[str, str]] = set()
    for engine in engines_of(bundle):
        record, graph = engine.record, bundle.manifest.graphs.get(engine.record.graph)
        if graph is None or graph.kind not in signatures or (graph.kind, record.target) in seen:
            continue
        if graph.verdict.status != "passed":
            continue
        if record.check is None or not record.check.passed or record.precision is None or record.precision.status != "passed":
            continue
        if record.flavour == "tensorrt" and bundle.manifest.files[graph.file].sha256 == record.graph_sha256:
            seen.add((graph.kind, record.target))
            yield _plan_model(graph.kind, engine, signatures[graph.kind])


def _map(field: str, names: Mapping[str, str]) -> str:
    """Tensor of the step -> tensor of the ensemble."""
    return " ".join(f"{field} {{ key: {_text(own)} value: {_text(shared)} }}" for own, shared in names.items())


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    return f"{{ model_name: {_text(model)} model_version: -1 {_map('input_map', inputs)} {_map('output_map', outputs)} }}"


def _fits(made: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(made) == len(wanted) and all(size in (-1, want) for size, want in zip(made, wanted, strict=True))


def _ensemble(signatures: Mapping[str, _Signature]) -> str:
    """One request, all answers: the score from fusion, everything else from explain; tokens, where there is an encoder."""
    fusion, explain = signatures["fusion"], signatures["explain"]
    inputs, steps = list(fusion.inputs), []
    if "text" in signatures:
        encoder = signatures["text"]
        taken = next(tensor for tensor in inputs if tensor.name == "text")
        given = next((made for made in encoder.outputs if made.kind == taken.kind and _fits(made.dims, taken.dims)), None)
        if given is None:
            made_dims = ", ".join(f"{made.name} {list(made.dims)}" for made in encoder.outputs)
            raise ExportError(f"text.fp32 gives {made_dims}; fusion takes text {list(taken.dims)}")
        inputs = [*encoder.inputs, *(tensor for tensor in inputs if tensor.name != "text")]
        steps.append(_step("text", {tensor.name: tensor.name for tensor in encoder.inputs}, {given.name: "text"}))
    features = {tensor.name: tensor.name for tensor in fusion.inputs}
    rest = {tensor.name: tensor.name for tensor in explain.outputs if tensor.name != "score"}
    steps += [_step("fusion", features, {"score": "score"}), _step("explain", features, rest)]
    return (
        _config(ENSEMBLE, "ensemble", MAX_BATCH, _Signature(tuple(inputs), explain.outputs))
        + "ensemble_scheduling {\n  step [\n    "
        + ",\n    ".join(steps)
        + "\n  ]\n}\n"
    )


def _check_replaceable(out: Path, *, force: bool) -> None:
    """Lets only a repository of ours give way, and only with ``force``; a model of somebody else's in it stays.

    Raises:
        ExportError: Something else is there or in it, or ``force`` is missing.
    """
    ensemble = out / ENSEMBLE / "config.pbtxt"
    if not out.exists():
        return
    if not (force and ensemble.is_file()):
        raise ExportError(f"{out} exists; choose another OUT" + ("" if force else ", or pass --force to replace a repository"))
    # The models that our ensemble runs are ours by that; a plan says itself where it came from.
    models = {ENSEMBLE, *re.findall(r'model_name: "(\w+)"', ensemble.read_text(encoding="utf-8", errors="replace"))}
    for config in out.glob("*/config.pbtxt"):
        if 'key: "dmdkit_built_with"' in config.read_text(encoding="utf-8", errors="replace"):
            models.add(config.parent.name)

    def ours(name: str) -> bool:
        model, _, file = name.partition("/")
        return model in models and file in ("config.pbtxt", "1/model.onnx", "1/model.plan")

    foreign = foreign_entries(out, ours)
    if foreign:
        shown = ", ".join(foreign[:5])
        raise ExportError(f"{out} holds what dmdkit did not write ({shown}), so it is left alone; choose another OUT")


def write_triton(bundle: Bundle, out: Path, *, force: bool = False) -> list[str]:
    """Writes a model repository; nothing is left behind on failure.

    Args:
        bundle: An opened bundle whose fp32 graphs passed parity.
        out: The repository's directory.
        force: Whether an existing repository that holds nothing but ours gives way.

    Returns:
        The names of the models.

    Raises:
        ExportError: A graph has not passed, or ``out`` exists or cannot be written.
        BundleError: A graph is missing or damaged.
        EngineError: A plan is damaged.
    """
    _check_replaceable(out, force=force)
    kinds = [*_ALWAYS, *(["text"] if "text.fp32" in bundle.manifest.graphs else [])]
    made = {kind: _onnx_model(bundle, kind) for kind in kinds}
    signatures = {kind: signature for kind, (_, signature) in made.items()}
    models = [*(model for model, _ in made.values()), *_plans(bundle, signatures)]
    ensemble = _ensemble(signatures)
    with atomic_directory(out, ExportError, replace=force) as directory:
        for model in models:
            (directory / model.name / "1").mkdir(parents=True)
            (directory / model.name / "1" / model.file).write_bytes(model.data)
            (directory / model.name / "config.pbtxt").write_text(model.config, encoding="utf-8")
        (directory / ENSEMBLE / "1").mkdir(parents=True)  # an ensemble has a version, and nothing in it
        (directory / ENSEMBLE / "config.pbtxt").write_text(ensemble, encoding="utf-8")
        if force:
            _check_replaceable(out, force=True)
    return [*(model.name for model in models), ENSEMBLE]
