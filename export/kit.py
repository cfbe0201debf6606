"""A folder to take to a device that builds its own engines: graphs, golden samples, one script, no torch and no modelopt."""

from __future__ import annotations

import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from dmdkit.errors import ExportError
from dmdkit.export.dry_run import Finding
from dmdkit.export.targets import Target
from dmdkit.files import atomic_directory, foreign_entries, sha256_of_bytes
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.record import ENGINES, text_lengths
from dmdkit.runtime.self_check import Limit, limit_of

__all__ = ["trtexec_line", "write_kit"]

_MODULES = (
    "errors.py",
    "metrics.py",
    "runtime/engines/tensorrt_api.py",
    "runtime/engines/tensorrt_build.py",
    "runtime/engines/gpu.py",
    "runtime/engines/identity.py",
    "runtime/engines/inspector.py",
    "runtime/batching.py",
    "runtime/self_check.py",
)
_PACKAGE = '"""The part of dmdkit that a kit needs."""\n'


def _shapes(bundle: Bundle, kind: str) -> dict[str, list[int]]:
    golden = bundle.golden().inputs_of(kind)
    return {name: list(array.shape[1:]) for name, array in sorted(golden.items())}


def trtexec_line(bundle: Bundle, graph: str, target: Target) -> str:
    """The command that builds the same plan with TensorRT's own tool."""
    record = bundle.graph(graph)
    shapes = _shapes(bundle, record.kind)

    lengths = text_lengths(bundle.manifest) if record.kind == "text" else None

    def batch(place: int, size: int) -> str:
        sizes = {name: (size, *((lengths[place], *shape[1:]) if lengths else shape)) for name, shape in shapes.items()}
        return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in sizes.items())

    return " ".join(
        [
            "/usr/src/tensorrt/bin/trtexec",
            f"--onnx={record.file}",
            "--stronglyTyped",
            "--noTF32",
            f"--minShapes={batch(0, target.batch.min)}",
            f"--optShapes={batch(1, target.batch.opt)}",
            f"--maxShapes={batch(2, target.batch.max)}",
            f"--memPoolSize=workspace:{target.workspace_mib}",
            "--maxAuxStreams=0",
            "--profilingVerbosity=detailed",
            f"--saveEngine={graph}.plan",
        ]
    )


def _tolerance(bundle: Bundle, graph: str) -> dict[str, Limit]:
    """What the runtime itself would allow an engine of the graph, output by output."""
    exact, spread = bundle.graph(graph).precision == "fp32", bundle.manifest.output_sd
    recorded = bundle.golden().recorded[graph]
    return {name: limit_of(name, then, spread, exact=exact, engine=True) for name, then in sorted(recorded.items())}


def _tolerances_in_words(limits: dict[str, Limit]) -> str:
    names: dict[str, list[str]] = {}
    for output, limit in limits.items():
        said = f"{limit.largest:.3g}" + (" of max(1, value)" if limit.relative else "")
        said += f" and correlation {limit.correlation}" if limit.correlation is not None else ""
        names.setdefault(said, []).append(output)
    return "; ".join(f"{', '.join(outputs)}: {said}" for said, outputs in names.items())


def _graph(bundle: Bundle, name: str) -> dict[str, Any]:
    record = bundle.graph(name)
    own = record.kind in bundle.golden().unit_inputs
    return {
        "name": name,
        "file": record.file,
        "inputs": {key: f"input/{record.kind}/{key}" if own else f"input/{key}" for key in _shapes(bundle, record.kind)},
        "precision": record.precision,
        "lengths": text_lengths(bundle.manifest) if record.kind == "text" else None,
    }


def _golden(bundle: Bundle, graphs: list[str]) -> bytes:
    kept = {
        key: array
        for key, array in sorted(bundle.golden().tensors().items())
        if key.startswith("input/") or (key.startswith("recorded/") and key.split("/")[1] in graphs)
    }
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **kept)
    return stream.getvalue()


def _readme(bundle: Bundle, graphs: list[str], target: Target, findings: list[Finding]) -> str:
    lines = [
        f"# {bundle.manifest.name} for {target.title}",
        "",
        f"Made for target `{target.name}` ({target.tensorrt}). Needs JetPack with its TensorRT Python package, and",
        "numpy. Nothing in this folder has run on such a device yet: what it shows there is the proof.",
        "",
        "    python3 build_and_check.py",
        "",
        "builds every graph, replays the golden samples and compares with the recorded outputs, reads from the engine",
        "inspector which precision each layer runs in, measures latency, and writes `engines/`. Copy that folder into the",
        "bundle, beside `manifest.json`. Exit code 2 means that a check did not pass; on a machine that is not the target",
        "it says so and stops.",
        "",
        "| graph | tolerance of the golden samples |",
        "|---|---|",
        *(f"| {name} | {_tolerances_in_words(_tolerance(bundle, name))} |" for name in graphs),
        "",
        "## Power and clocks",
        "",
        *(f"- {line}" for line in target.power),
        "",
        "## With trtexec instead",
        "",
        *(f"    {trtexec_line(bundle, name, target)}" for name in graphs),
        "",
        "These plans come without a sidecar, so the runtime does not open them. Where trtexec does not know",
        "`--stronglyTyped`, its networks always are: leave the flag out.",
        "",
        "## What only the device can show",
        "",
        *(f"- {finding.detail}" for finding in findings if finding.status == "device only"),
        "",
        "Sources: " + ", ".join(target.sources),
        "",
    ]
    return "\n".join(lines)


def _check_replaceable(out: Path, *, force: bool) -> None:
    """Lets only a kit of ours give way, and only with ``force``; the ``engines/`` that its device built stays.

    Raises:
        ExportError: Something else is there or in it, or ``force`` is missing.
    """
    if not out.exists():
        return
    if not (force and (out / "kit.json").is_file()):
        raise ExportError(f"{out} exists; choose another --kit" + ("" if force else ", or pass --force to replace a kit"))
    try:
        written = {"kit.json", *json.loads((out / "kit.json").read_bytes())["files"]}
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise ExportError(
            f"{out / 'kit.json'} cannot be read, so what the kit holds is not known; choose another --kit"
        ) from cause

    def ours(name: str) -> bool:
        compiled = name.startswith("lib/") and "/__pycache__/" in name and name.endswith(".pyc")
        return name in written or compiled or name.startswith(f"{ENGINES}/")

    foreign = foreign_entries(out, ours)
    if foreign:
        shown = ", ".join(foreign[:5])
        raise ExportError(f"{out} holds what is not a kit's ({shown}), so it is left alone; move that, or choose another --kit")


def write_kit(bundle: Bundle, graphs: list[str], target: Target, findings: list[Finding], out: Path, *, force: bool) -> None:
    """Writes the kit; nothing is left behind on failure.

    Args:
        bundle: An opened bundle.
        graphs: Names of the graphs to build.
        target: The device.
        findings: What the dry run found; a problem stops here.
        out: The folder to write.
        force: Whether an existing kit gives way; its ``engines/`` stays.

    Raises:
        ConfigError: The target needs no kit, or is not named.
        ExportError: A check failed, or ``out`` cannot be written.
    """
    target.check_kit()
    problem = next((finding for finding in findings if finding.status == "problem"), None)
    if problem is not None:
        raise ExportError(f"--kit: {problem.graph}: {problem.check}: {problem.detail}; no kit was written")
    _check_replaceable(out, force=force)
    contents: dict[str, bytes] = {bundle.graph(name).file: bundle.read(bundle.graph(name).file) for name in graphs}
    contents["golden.npz"] = _golden(bundle, graphs)
    contents["build_and_check.py"] = files("dmdkit.runtime.engines").joinpath("device_kit.py").read_bytes()
    for module in _MODULES:
        package, _, name = module.rpartition("/")
        contents[f"lib/dmdkit/{module}"] = files(f"dmdkit.{package.replace('/', '.')}".rstrip(".")).joinpath(name).read_bytes()
    for package in ("", "runtime/", "runtime/engines/"):
        contents[f"lib/dmdkit/{package}__init__.py"] = _PACKAGE.encode()
    contents["README.md"] = _readme(bundle, graphs, target, findings).encode()
    contents["dry_run.json"] = (json.dumps([finding.to_json() for finding in findings], indent=2) + "\n").encode()
    kit = {
        "bundle": bundle.manifest.name,
        "model_sha256": bundle.manifest.source.model_sha256,
        "output_sd": bundle.manifest.output_sd,
        "target": target.model_dump(mode="json"),
        "golden": "golden.npz",
        "graphs": [_graph(bundle, name) for name in graphs],
        "files": {name: sha256_of_bytes(data) for name, data in sorted(contents.items())},
    }
    with atomic_directory(out, ExportError, replace=force, keep=(ENGINES,)) as directory:
        for name, data in contents.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (directory / "kit.json").write_text(json.dumps(kit, indent=2) + "\n", encoding="utf-8")
        if force:
            _check_replaceable(out, force=True)
