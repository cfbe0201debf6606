"""What the figures depend on: the machine and the versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dmdkit.runtime.latency import machine_facts

PACKAGES = ("dmdkit", "numpy", "onnx", "onnxruntime", "onnxscript", "openvino", "torch")


def machine() -> dict[str, Any]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        **machine_facts(),
        "python": platform.python_version(),
        "load": load(),
        "isa": _vector_units(),
        "versions": versions,
    }


def load() -> float | None:
    """Running processes, averaged over a minute: figures from a busy machine scatter."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _vector_units() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    flags = next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith(("flags", "Features"))), [])
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
    return [flag for flag in known if flag in flags]
