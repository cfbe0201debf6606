"""``dmdkit doctor``: what is installed, which backends work here, what is missing and how to get it."""

from __future__ import annotations

import platform
from typing import Annotated, Any

import typer
from rich.text import Text

from dmdkit.cli.console import print_json, print_table, say

__all__ = ["diagnose", "doctor"]

# distribution -> the extra that brings it and what it is for; the base packages have no extra
_PACKAGES: tuple[tuple[str, str, str], ...] = (
    ("numpy", "", "arrays"),
    ("onnxruntime", "", "runs the graphs on CPUs"),
    ("pydantic", "", "manifest and config"),
    ("safetensors", "", "weights and golden samples"),
    ("PyYAML", "", "recipes"),
    ("rich", "", "tables and progress"),
    ("typer", "", "the command line"),
    ("torch", "train", "train, import, evaluate, export"),
    ("lightning-fabric", "train", "train on any device"),
    ("onnx", "export", "export"),
    ("onnxscript", "export", "export"),
    ("nvidia-modelopt", "quantize", "export --int8"),
    ("onnx-graphsurgeon", "quantize", "export --int8"),
    ("transformers", "text", "train with a text encoder"),
    ("tokenizers", "tokens", "strings in, with a text encoder"),
    ("openvino", "openvino", "a second backend for CPUs"),
    ("tensorrt-rtx-cu13", "rtx", "build for desktop RTX"),
    ("cuda-python", "tensorrt", "run engines"),
)


def _backends() -> dict[str, str]:
    try:
        from dmdkit.runtime.backends import backend_version, installed_backends
        from dmdkit.runtime.backends.onnxruntime import available_devices
    except ImportError as cause:
        return {"onnxruntime": f"cannot be imported: {cause}"}
    found = {f"onnxruntime {device}": "works" for device in available_devices()}
    if "openvino" in installed_backends():
        from dmdkit.telemetry import import_openvino

        try:
            devices = import_openvino().Core().available_devices
            found |= {f"openvino {device.lower()}": "works" for device in devices if device == "CPU"}
        except Exception as cause:  # a broken installation fails in its own ways
            found["openvino"] = f"cannot be imported: {cause}"
    native = backend_version("native")
    found |= {native: "works"} if native is not None else {}
    from dmdkit.runtime.engines.gpu import NoGpuError, find_gpu
    from dmdkit.runtime.engines.tensorrt_api import installed_flavours, version_of

    try:
        gpu = find_gpu()
        here = f"works on {gpu.name}, compute capability {gpu.capability}"
    except NoGpuError as cause:
        here = f"builds where the target allows it, cannot run engines: {cause}"
    return found | {f"{flavour} {version_of(flavour)}": here for flavour in installed_flavours()}


def _gpu() -> str:
    try:
        import torch
    except ImportError:
        return "not known (PyTorch is not installed)"
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "none that PyTorch sees"


def diagnose() -> dict[str, Any]:
    """Versions, backends and commands of this installation."""
    from importlib.metadata import PackageNotFoundError, version

    from dmdkit import __version__

    packages: dict[str, dict[str, str | None]] = {}
    for name, extra, purpose in _PACKAGES:
        try:
            found: str | None = version(name)
        except PackageNotFoundError:
            found = None
        install = None if found else f"pip install 'dmdkit[{extra}]'" if extra else f"pip install {name}"
        packages[name] = {"version": found, "for": purpose, "install": install}
    return {
        "dmdkit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "backends": _backends(),
        "gpu": _gpu(),
    }


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON, for bug reports.")] = False) -> None:
    """Say what is installed, which backends work here, what is missing and how to get it.

    Example: dmdkit doctor --json > doctor.json
    """
    found = diagnose()
    if json:
        print_json(found)
        return
    say(f"dmdkit {found['dmdkit']}, Python {found['python']}, {found['system']}, GPU: {found['gpu']}")
    packages = found["packages"].items()
    rows = [[name, row["version"] or Text("missing", style="yellow"), row["for"]] for name, row in packages]
    print_table(["package", "version", "needed for"], rows)
    for name, row in packages:
        if row["install"]:
            say(f"{name} is missing ({row['for']}); get it with: {row['install']}")
    for name, state in found["backends"].items():
        say(f"backend {name}: {state}")
