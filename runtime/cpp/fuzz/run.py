"""Runs the fuzz targets from a seed corpus made here, and prints executions and findings of each."""

from __future__ import annotations

import argparse
import io
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

MODALITIES = ("text", "audio", "vision")
ZERO_HASH = "0" * 64


def seed_manifest() -> bytes:
    """A small manifest with every kind of entry."""
    verdict = {"status": "passed", "reason": "", "samples": 60, "data_sha256": None}
    graph = {"kind": "fusion", "precision": "fp32", "file": "graphs/f.onnx", "opset": 20, "ir_version": 10}
    graph |= {
        "session_options": {"session.disable_quant_qdq": "1"},
        "simulated_on_cpu": False,
        "weight_bytes": 1,
        "weights_stored_int8": 0.5,
    }
    graph |= {"multiply_adds": 1, "multiply_adds_int8": 0.0, "verdict": verdict}
    record = {"steps": 2, "features": 1, "minimum": [-1.5], "maximum": [1e3], "trained_absent": True}
    model = {key: dict.fromkeys(MODALITIES, 1) for key in ("feature_dims", "lengths", "kernels")}
    model |= {"width": 8, "heads": 2, "levels": 1, "num_outputs": 1}
    edges = [(s, t) for s in MODALITIES for t in MODALITIES if s != t]
    source = {"run": "r", "origin": "train", "model_sha256": ZERO_HASH, "data_sha256": None, "created": ""}
    calibration = {"method": "max", "sample_ids": ["a"], "content_sha256": ZERO_HASH, "data_sha256": ZERO_HASH, "used_by": []}
    output = {"meaning": "value", "shape": ["batch", 1], "order": None, "range": [-3, 3]}
    file = {"sha256": ZERO_HASH, "size_bytes": 1}
    return json.dumps(
        {
            **{"schema_version": 1, "name": "n", "created": "", "tools": {"dmdkit": "0"}, "source": source, "model": model},
            **{
                "task": "regression",
                "label_range": [-3, 3],
                "output_sd": 1.0,
                "modality_order": MODALITIES,
                "edge_order": edges,
            },
            **{"inputs": dict.fromkeys(MODALITIES, record), "outputs": {"score": output}, "graphs": {"fusion.fp32": graph}},
            **{"calibration": calibration, "golden": {"file": "g", "kind": "real", "samples": 1, "ids": ["a"]}},
            "files": {"graphs/f.onnx": file, "g": file},
        }
    ).encode()


def seed_engine() -> bytes:
    """A sidecar with every kind of entry."""
    tensor = {"name": "text", "shape": [-1, 3, 4], "dtype": "FLOAT"}
    hashes = dict.fromkeys(("graph_sha256", "model_sha256", "plan_sha256", "cache_key"), ZERO_HASH)
    built = {"target": "t", "graph": "fusion.fp32", "flavour": "tensorrt", "version": "10.3.0", "platform": "linux-x86_64"}
    built |= {"compute_capabilities": ["8.7"], "gpu": None, "driver": "13.0", "plan": "t.plan", "plan_bytes": 1}
    built |= {"batch": [1, 1, 4], "flags": {"a": 1}, "inputs": [tensor], "outputs": [tensor], "built": "", "build_seconds": 1.5}
    precision = {"layout": "tensorrt-10", "layers": {"a": "INT8"}, "expected_int8": 0.5, "found_int8": 0.5}
    precision |= {"status": "passed", "reason": ""}
    check = {"passed": True, "samples": 2, "max_error": None, "tolerance": 1e-4, "worst_output": "score"}
    product = {"name": "a", "multiply_adds": 5, "int8": True}
    run = {"precision": precision, "check": check, "products": [product], "latency_ms": {"p50": 1.0}, "notes": ["x"]}
    return json.dumps({"schema_version": 1, **hashes, **built, **run}).encode()


def seed_safetensors() -> bytes:
    """Two tensors."""
    header = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [1, 1], "data_offsets": [8, 12]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(12)


def seed_npz(save: Callable[..., None]) -> bytes:
    """Arrays of the types the reader knows and one it leaves out."""
    stream = io.BytesIO()
    save(stream, text=np.zeros((1, 2), np.float32), audio=np.ones(3), ids=np.array(["a"]))
    return stream.getvalue()


def fuzz(build: Path, target: str, seeds: Sequence[bytes], seconds: int) -> tuple[int, bool]:
    """Executions, and whether something was found."""
    corpus = build / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(seeds):
        (corpus / f"seed-{index}").write_bytes(seed)
    limits = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=65536", f"-max_total_time={seconds}", "-print_final_stats=1"]
    command = [str((build / "bin" / f"fuzz_{target}").resolve()), *limits, f"-artifact_prefix={build}/{target}-", str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    found = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
    return int(found[1]) if found else 0, done.returncode != 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, required=True, help="build folder of the fuzz preset")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    options = parser.parse_args()
    seeds = {
        "manifest": [seed_manifest()],
        "engine": [seed_engine()],
        "safetensors": [seed_safetensors()],
        "npz": [seed_npz(np.savez), seed_npz(np.savez_compressed)],
    }
    bad = False
    for target, given in seeds.items():
        executions, found = fuzz(options.build, target, given, max(1, options.seconds // len(seeds)))
        print(f"{target}: {executions} executions, {'A FINDING' if found else 'no finding'}", flush=True)
        bad = bad or found or executions == 0
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
