"""Very many predictions in one process; memory must not grow. `make soak` runs it with a million."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ALLOWED_GROWTH_KIB = 1024
"""Pages touched late, such as the allocator's own; a leak of one small allocation a call would be over 16 MiB."""


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


@pytest.mark.parametrize("backend", ["onnxruntime", "native"])
def test_memory_stays_flat(native_bin: Path, tiny_bundle: Path, backend: str) -> None:
    predictions = int(os.environ.get("DMDKIT_SOAK", "0"))
    if not predictions:
        pytest.skip("takes minutes (make soak)")
    options = ["--backend", backend, "--graph", "fp32", "--bench", "--rounds", str(predictions)]
    command = [str(native_bin / "dmdkit-run"), str(tiny_bundle), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    sizes = []
    while process.poll() is None:
        time.sleep(1.0)
        sizes.append(resident_kib(process.pid))
    out = process.communicate()[0]
    assert process.returncode == 0
    sizes = [size for size in sizes if size]
    print(json.dumps({"resident_kib": [sizes[0], *sizes[len(sizes) // 10 :: max(1, len(sizes) // 10)]], **json.loads(out)}))
    assert json.loads(out)["count"] == predictions
    assert max(sizes[len(sizes) // 10 :]) - sizes[len(sizes) // 10] <= ALLOWED_GROWTH_KIB
