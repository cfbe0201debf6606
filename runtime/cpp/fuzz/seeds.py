"""The first corpus of each fuzz target, made and checked by the records that write real bundles."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from typing import Any, get_args

from native_seed import native_graph

from dmdkit.runtime.engines.record import EngineRecord
from dmdkit.runtime.graph_records import GraphKind, Precision
from dmdkit.runtime.manifest import Manifest

MODALITIES = ("text", "audio", "vision")
GRAPH_ORDER = ("text", "vision", "audio")
ZERO_HASH = "0" * 64
WORDLESS = frozenset({"snapshot"})
"""Targets that read numbers alone, for which there is no dictionary."""
_QUOTED = re.compile(rb"""(["'])[\w.<>/ -]{1,64}\1""")
_PLAN_WORD = re.compile(rb"[a-z][a-z0-9_.]{2,30}[ =]")


def _graph(kind: str, precision: str) -> dict[str, Any]:
    verdict = {"status": "passed", "reason": "", "samples": 60, "data_sha256": ZERO_HASH}
    return {
        **{"kind": kind, "precision": precision, "file": f"graphs/{kind}.{precision}.onnx", "opset": 20, "ir_version": 10},
        **{"session_options": {"session.disable_quant_qdq": "1"}, "simulated_on_cpu": precision == "int8-trt"},
        **{"weight_bytes": 1, "weights_stored_int8": 0.5, "multiply_adds": 1, "multiply_adds_int8": 0.0},
        **{"verdict": verdict, "backends": {"openvino": {**verdict, "status": "failed", "data_sha256": None}}},
    }


def _manifest(kinds: tuple[str, ...], **changes: Any) -> bytes:
    names = [(kind, precision) for kind in kinds for precision in get_args(Precision)]
    graphs = {f"{kind}.{precision}": _graph(kind, precision) for kind, precision in names}
    record = {"steps": 2, "features": 1, "padding_side": "left", "normalisation": "standardise", "trained_absent": True}
    record |= {"minimum": [-1.5], "maximum": [1e3], "provenance": {"extractor": "x"}}
    each = {key: dict.fromkeys(MODALITIES, value) for key, value in (("feature_dims", 1), ("kernels", 1), ("lengths", 2))}
    model = {**each, "width": 8, "heads": 2, "levels": 1, "num_outputs": 1}
    source = {"run": "r", "origin": "train", "model_sha256": ZERO_HASH, "data_sha256": None, "created": ""}
    calibration = {"method": "max", "sample_ids": ["a"], "content_sha256": ZERO_HASH, "data_sha256": ZERO_HASH}
    output = {"meaning": "value", "shape": ["batch", 1], "order": ["a"], "range": [-3, 3]}
    files = [str(graph["file"]) for graph in graphs.values()] + ["golden/golden.safetensors", "tokenizer.json"]
    values = {
        **{"name": "n", "created": "", "tools": {"dmdkit": "0"}, "source": source, "model": model},
        **{"task": "regression", "label_range": [-3, 3], "output_sd": 1.0, "modality_order": GRAPH_ORDER},
        **{"edge_order": [(s, t) for s in GRAPH_ORDER for t in GRAPH_ORDER if s != t]},
        **{"inputs": dict.fromkeys(MODALITIES, record), "outputs": {"score": output}, "graphs": graphs},
        **{"calibration": {**calibration, "used_by": ["fusion.int8-trt"]}},
        **{"golden": {"file": "golden/golden.safetensors", "kind": "real", "samples": 1, "ids": ["a"]}},
        "files": {name: {"sha256": ZERO_HASH, "size_bytes": 1} for name in files},
    }
    return Manifest.model_validate({**values, **changes}).model_dump_json().encode()


def _manifests() -> Iterator[bytes]:
    """Without and with a text encoder, of both tasks, with and without what may be absent."""
    text = {"tokenizer": "tokenizer.json", "max_tokens": 2, "vocabulary_size": 9, "pad_id": 0, "padding_side": "left"}
    text |= {"padded_steps": "zero", "fine_tuned": True, "encoder_sha256": ZERO_HASH}
    yield _manifest(("fusion",))
    # Step graphs stand in a record of their own, not among the graphs.
    yield _manifest(tuple(kind for kind in get_args(GraphKind) if kind != "stream"), text=text)
    yield _manifest(("fusion",), stream=_stream())
    yield _manifest(("text",), text={**text, "padding_side": "right", "padded_steps": "encoded", "fine_tuned": False})
    yield _manifest(("fusion", "explain"), task="classification", label_range=None, calibration=None)


def _sidecar(**changes: Any) -> bytes:
    tensor = {"name": "text", "shape": [-1, 3, 4], "dtype": "FLOAT"}
    hashes = dict.fromkeys(("graph_sha256", "model_sha256", "plan_sha256", "cache_key"), ZERO_HASH)
    values = {
        **{"target": "t", "graph": "fusion.fp32", "flavour": "tensorrt", "version": "10.3.0", "platform": "linux-x86_64"},
        **{"compute_capabilities": ["8.7"], "gpu": "g", "driver": "13.0", "plan": "t.plan", "plan_bytes": 1, **hashes},
        **{"batch": [1, 1, 4], "flags": {"a": 1, "b": True, "c": "x"}, "inputs": [tensor], "outputs": [tensor]},
        **{"products": [{"name": "a", "multiply_adds": 5, "int8": True}], "built": "", "build_seconds": 1.5},
    }
    return EngineRecord.model_validate({**values, **changes}).model_dump_json().encode()


def _sidecars() -> Iterator[bytes]:
    """Of each flavour and inspector layout: as built without a GPU, proven on a device, and refused there."""
    proof = {"layout": "tensorrt-10", "layers": {"a": "INT8"}, "expected_int8": 0.5, "found_int8": 0.5}
    proof |= {"status": "passed", "reason": ""}
    check = {"passed": True, "samples": 2, "max_error": 1e-6, "tolerance": 1e-4, "worst_output": "score"}
    yield _sidecar(precision=proof, check=check, latency_ms={"p50": 1.0}, notes=["x"])
    yield _sidecar(version="11.4.1", precision={**proof, "layout": "tensorrt-11"}, check=check)
    yield _sidecar(precision={**proof, "status": "failed", "reason": "r"}, check={**check, "passed": False, "max_error": None})
    yield _sidecar(flavour="tensorrt_rtx", version="1.7.1.116", compute_capabilities=["8.6", "12.0"], gpu=None, driver=None)


def _safetensors() -> bytes:
    """Floats, integers and doubles (which are checked and left out), a scalar and an empty one."""
    header = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [], "data_offsets": [8, 12]},
        "label_range": {"dtype": "F64", "shape": [2], "data_offsets": [28, 44]},
        "c": {"dtype": "F32", "shape": [0, 4], "data_offsets": [12, 12]},
        "input/text/input_ids": {"dtype": "I64", "shape": [1, 2], "data_offsets": [12, 28]},
        "__metadata__": {"k": "v"},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(44)


def _tokenizers() -> Iterator[bytes]:
    """Small tokenizers of every kind that is read, each with a sentence."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "##ly", "e"]
    flags = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": True, "special": True}
    bert = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    }
    piece = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [piece, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
    }
    pair = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    for normalizer, around in ((bert, template), ({**bert, "strip_accents": False}, pair), (None, None)):
        values = {
            "version": "1.0",
            "added_tokens": [{"id": 3, "content": "[SEP]", **flags}, {"id": 7, "content": "Zo\u00e9", **flags}],
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": around,
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {token: index for index, token in enumerate(tokens)},
            },
        }
        yield json.dumps(values).encode() + b"\0" + "Goodly, e\u0301 \u4e2d [SEP] zo\u00e9".encode()


def _stream() -> dict[str, Any]:
    state = [{"name": name, "heads": 2, "width": 2} for name in ("keys_1", "values_1")]
    graph = {**_graph("stream", "fp32"), "file": "graphs/fusion.fp32.onnx"}
    return {"kernel": 1, "capacity": 2, "state": state, "graphs": {"fp32": graph}}


def _snapshots() -> Iterator[bytes]:
    """The part between hash and checksum, with the sizes of fuzz_snapshot.cpp: new, full, and primed with times."""

    def integers(*values: int) -> bytes:
        return struct.pack(f"<{len(values)}q", *values)

    def state(start: int, steps: int) -> bytes:
        kept = min(steps, 1)
        return integers(start, steps) + bytes(4 * (6 * kept + 10 * (steps - kept)))

    no_times = struct.pack("<4d", *[float("nan")] * 4) + integers(0, 0, 0)
    times = struct.pack("<4d", 1.5, 1.0, float("nan"), 2.0) + integers(1, 0, 1) + struct.pack("<5f", *range(5))
    yield integers(0, 1) + state(0, 0) + integers(0) + no_times
    yield integers(7, 1) + state(4, 3) + integers(0) + times
    yield integers(7, 2) + state(4, 3) + state(5, 1) + integers(1) + bytes(4 * 6) + times


def seeds() -> dict[str, list[bytes]]:
    """Target -> its first inputs, all of which its reader takes."""
    return {
        "manifest": list(_manifests()),
        "engine": list(_sidecars()),
        "safetensors": [_safetensors()],
        "tokenizer": list(_tokenizers()),
        "snapshot": list(_snapshots()),
        "native": [native_graph(int8=False), native_graph(int8=True)],
    }


def words(inputs: list[bytes]) -> list[str]:
    """A dictionary that spares the fuzzer from guessing keys and names, never empty: libFuzzer refuses an empty one.

    Every short text in quotes, quotes included; of files that have none, the words of the native kernels' plan.
    """
    for pattern in (_QUOTED, _PLAN_WORD):
        found = {match[0].decode() for data in inputs for match in pattern.finditer(data)}
        if found:
            return sorted(found)
    raise ValueError("the seeds have no words for a dictionary")
