#!/usr/bin/env python3
"""Builds the engines of a kit on the device it was made for, checks them, and measures them.

Needs what JetPack brings: Python, numpy and TensorRT's Python package. This file is copied into every kit with the few
modules of dmdkit it uses (folder ``lib``). It writes, for each graph, a plan, the builder's log and a sidecar into
``engines/``, which is what a bundle's ``engines/`` folder holds: copy it there.

    python3 build_and_check.py              build, check against the golden samples, measure
    python3 build_and_check.py --dry-run    only what can be checked on any machine
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if (HERE / "lib").is_dir():
    sys.path.insert(0, str(HERE / "lib"))

from dmdkit.errors import DmdkitError, EngineError  # noqa: E402 - found in lib/, in a kit
from dmdkit.runtime.engines import tensorrt_api, tensorrt_build  # noqa: E402
from dmdkit.runtime.engines.gpu import Gpu, NoGpuError, find_gpu  # noqa: E402
from dmdkit.runtime.engines.identity import EngineIdentity  # noqa: E402
from dmdkit.runtime.engines.inspector import prove_precision  # noqa: E402

WARM_UP, ROUNDS = 20, 200
_DTYPES = {"FLOAT": "float32", "INT64": "int64"}  # features and scores; tokens
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind


def model_of_board(path: Path = Path("/proc/device-tree/model")) -> str:
    """The board's name, or an empty string where there is none."""
    try:
        return path.read_bytes().rstrip(b"\0").decode("utf-8", "replace")
    except OSError:
        return ""


def sha256(data: bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def check_files(kit: dict[str, Any], folder: Path) -> None:
    """Checks that the kit arrived whole.

    Raises:
        EngineError: A file is missing or changed.
    """
    for name, expected in kit["files"].items():
        path = folder / name
        if not path.is_file():
            raise EngineError(f"{name} is missing from {folder}; copy the whole kit again")
        if sha256(path.read_bytes()) != expected:
            raise EngineError(f"{name} is not the file that was written (its SHA-256 differs); copy the kit again")


def check_device(kit: dict[str, Any], board: str) -> Gpu:
    """The GPU, if this is the device the kit is for.

    Raises:
        EngineError: It is not; says what is here.
    """
    wanted = kit["target"]
    try:
        gpu = find_gpu()
    except NoGpuError as cause:
        raise EngineError(f"this machine is not a {wanted['name']}: {cause}; nothing was built") from cause
    if wanted["device_model"] and wanted["device_model"] not in board:
        raise EngineError(f"this machine is not a {wanted['name']}: it is {board or gpu.name!r}; nothing was built")
    if gpu.capability not in wanted["compute_capabilities"]:
        raise EngineError(
            f"this machine is not a {wanted['name']}: {gpu.name} has compute capability {gpu.capability}, expected "
            f"{', '.join(wanted['compute_capabilities'])}; nothing was built"
        )
    version = tensorrt_api.version_of("tensorrt")
    oldest = tuple(int(part) for part in wanted["tensorrt_from"].split("."))
    if tuple(int(part) for part in version.split(".")[:2]) < oldest:
        raise EngineError(f"TensorRT {version} is older than {wanted['tensorrt_from']}, which knows this device first")
    return gpu


class Device:
    """Device memory and a stream, over libcudart alone.

    Args:
        library: libcudart, or a stand-in with its functions.
    """

    def __init__(self, library: Any = None) -> None:
        self._cuda = library if library is not None else _cudart()
        self._pointers: list[ctypes.c_void_p] = []
        self.stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(self.stream))

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status != 0:
            raise EngineError(f"{name} failed: CUDA error {status}")

    def allocate(self, size_bytes: int) -> int:
        """Device memory, given back by :meth:`close`."""
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size_bytes))
        self._pointers.append(pointer)
        return int(pointer.value or 0)

    def copy(self, target: int, source: int, size_bytes: int, kind: int) -> None:
        """Copies on the stream."""
        self._call(
            "cudaMemcpyAsync", ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size_bytes), kind, self.stream
        )

    def synchronize(self) -> None:
        """Waits for the stream."""
        self._call("cudaStreamSynchronize", self.stream)

    def close(self) -> None:
        """Gives everything back."""
        for pointer in self._pointers:
            self._cuda.cudaFree(pointer)
        self._cuda.cudaStreamDestroy(self.stream)


def _cudart() -> Any:
    names = ["libcudart.so", *(f"libcudart.so.{major}" for major in (13, 12))]
    for name in [*names, *(f"/usr/local/cuda/lib64/{name}" for name in names)]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise EngineError("libcudart.so is not found; it is part of JetPack's CUDA (/usr/local/cuda/lib64)")


class Engine:
    """An opened plan with its buffers bound once."""

    def __init__(self, opened: tensorrt_api.OpenEngine, built: tensorrt_build.Built, batch: int, device: Device) -> None:
        import numpy as np

        self._opened, self._built, self._device = opened, built, device
        self.host: dict[str, Any] = {}
        self._address: dict[str, int] = {}
        for tensor in (*built.inputs, *built.outputs):
            if tensor.dtype not in _DTYPES:
                raise EngineError(f"{tensor.name} is {tensor.dtype}, expected {' or '.join(_DTYPES)}")
            self.host[tensor.name] = np.zeros((batch, *tensor.shape[1:]), _DTYPES[tensor.dtype])
            self._address[tensor.name] = device.allocate(self.host[tensor.name].nbytes)
            if not opened.context.set_tensor_address(tensor.name, self._address[tensor.name]):
                raise EngineError(f"the engine has no tensor {tensor.name!r}")

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        """Output name -> array, for at most the largest batch."""
        import numpy as np

        batch = len(next(iter(feed.values())))
        for tensor in self._built.inputs:
            self._opened.context.set_input_shape(tensor.name, (batch, *tensor.shape[1:]))
            np.copyto(self.host[tensor.name][:batch], feed[tensor.name])
            self._move(tensor.name, batch, _TO_DEVICE)
        if not self._opened.context.execute_async_v3(int(self._device.stream.value or 0)):
            raise EngineError(f"the engine refused to run a batch of {batch}")
        for tensor in self._built.outputs:
            self._move(tensor.name, batch, _TO_HOST)
        self._device.synchronize()
        return {tensor.name: self.host[tensor.name][:batch].copy() for tensor in self._built.outputs}

    def _move(self, name: str, batch: int, kind: int) -> None:
        array = self.host[name]
        ends = (self._address[name], array.ctypes.data)
        target, source = ends if kind == _TO_DEVICE else ends[::-1]
        self._device.copy(target, source, batch * array[0].nbytes, kind)


def check_of(kit: dict[str, Any], graph: dict[str, Any], found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """The sidecar's ``check``: the graph's outputs against its own recorded ones, by the runtime's rule for an engine."""
    import numpy as np

    from dmdkit.runtime.self_check import check_outputs

    check = check_outputs(graph["name"], graph["precision"], found, expected, kit["output_sd"], engine=True)
    return {
        "passed": check.passed,
        "samples": len(next(iter(expected.values()), ())),
        "max_error": check.max_error if np.isfinite(check.max_error) else None,
        "tolerance": check.tolerance,
        "worst_output": check.worst_output,
    }


def latencies_ms(engine: Engine, feed: dict[str, Any]) -> dict[str, float]:
    """Percentiles of a batch of one, copies included."""
    one = {name: array[:1] for name, array in feed.items()}
    for _ in range(WARM_UP):
        engine.run(one)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        engine.run(one)
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    return {f"p{share}": round(times[min(ROUNDS - 1, ROUNDS * share // 100)], 4) for share in (50, 90, 95, 99)}


def golden_of(kit: dict[str, Any], graph: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and recorded outputs of one graph."""
    import numpy as np

    with np.load(folder / kit["golden"], allow_pickle=False) as arrays:
        prefix = f"recorded/{graph['name']}/"
        expected = {key[len(prefix) :]: arrays[key] for key in arrays.files if key.startswith(prefix)}
        feed = {name: arrays[key] for name, key in graph["inputs"].items()}
    return feed, expected


def build_graph(kit: dict[str, Any], graph: dict[str, Any], gpu: Gpu, folder: Path, device: Device) -> dict[str, Any]:
    """Builds one graph and writes plan, log and sidecar; returns the sidecar."""
    target, batch = kit["target"], kit["target"]["batch"]
    data = (folder / graph["file"]).read_bytes()
    lengths = tuple(graph["lengths"]) if graph.get("lengths") else None
    start = time.perf_counter()
    built = tensorrt_build.build(
        "tensorrt", data, graph["name"], batch=(batch["min"], batch["opt"], batch["max"]), lengths=lengths,
        workspace_bytes=target["workspace_mib"] << 20, progress=_show if sys.stderr.isatty() else None,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    opened = tensorrt_api.open_engine("tensorrt", built.plan, graph["name"])
    proof = prove_precision(tensorrt_api.inspect_engine("tensorrt", opened), built.products)
    from dmdkit.runtime.batching import infer_batched  # numpy, which a dry run can do without

    feed, expected = golden_of(kit, graph, folder)
    engine = Engine(opened, built, batch["max"], device)
    found = infer_batched(engine.run, feed, batch["max"])
    identity = EngineIdentity(
        target=target["name"],
        graph=graph["name"],
        graph_sha256=sha256(data),
        flavour="tensorrt",
        version=tensorrt_api.version_of("tensorrt"),
        capabilities=[gpu.capability],
        gpu=gpu.name,
        batch=(batch["min"], batch["opt"], batch["max"]),
        workspace_mib=target["workspace_mib"],
        lengths=lengths,
    )
    notes = [f"built by a kit on {model_of_board() or gpu.name}"]
    sidecar = identity.sidecar(built, model_sha256=kit["model_sha256"], gpu=gpu, seconds=seconds, notes=notes)
    sidecar |= {
        "precision": asdict(proof),
        "check": check_of(kit, graph, found, expected),
        "latency_ms": latencies_ms(engine, feed),
    }
    _write(
        folder / "engines",
        identity.name,
        {".plan": built.plan, ".log": built.log.encode(), ".json": json.dumps(sidecar, indent=2).encode()},
    )
    return sidecar


def _write(engines: Path, name: str, contents: dict[str, bytes]) -> None:
    """Plan, log and, last, the sidecar that makes them count; an old sidecar goes first, and nothing stays half-written.

    Raises:
        EngineError: The folder cannot be written.
    """
    temporary = engines / f".{name}.tmp"
    try:
        engines.mkdir(exist_ok=True)
        (engines / f"{name}.json").unlink(missing_ok=True)
        for suffix, content in contents.items():
            temporary.write_bytes(content)
            os.replace(temporary, engines / f"{name}{suffix}")  # noqa: PTH105
    except OSError as cause:
        raise EngineError(
            f"cannot write {engines}: {cause.strerror or cause}; free some space, or copy the kit elsewhere"
        ) from cause
    finally:
        temporary.unlink(missing_ok=True)


def _show(phase: str, step: int, steps: int) -> bool:
    sys.stderr.write(f"\r{phase[:50]:50} {step}/{steps}   ")
    return True


def main(arguments: list[str] | None = None, folder: Path = HERE) -> int:
    """Runs the kit.

    Returns:
        0 good, 1 not this device or a damaged kit, 2 a check that did not pass, 3 a missing package, 130 interrupted.
    """
    parser = argparse.ArgumentParser(description="Build and check the engines of this kit on its device.")
    parser.add_argument("--dry-run", action="store_true", help="check what any machine can check, and build nothing")
    options = parser.parse_args(arguments)
    try:
        kit = _read(folder)
        print(f"kit of {kit['bundle']} for {kit['target']['name']}: {len(kit['files'])} files are whole")
        if options.dry_run:
            for item in json.loads((folder / "dry_run.json").read_text(encoding="utf-8")):
                print(f"{item['status']:12} {item['graph']:16} {item['check']:14} {item['detail']}")
            return 0
        gpu = check_device(kit, model_of_board())
        device = Device()
        try:
            return _build_all(kit, gpu, folder, device)
        finally:
            device.close()
    except DmdkitError as cause:
        print(f"error: {cause}", file=sys.stderr)
        return int(cause.exit_code)
    except KeyboardInterrupt:
        print("interrupted; the engines that are written are whole", file=sys.stderr)
        return 130


def _read(folder: Path) -> dict[str, Any]:
    try:
        kit: dict[str, Any] = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
        check_files(kit, folder)
        target = kit["target"]
        for name in (target["name"], *(graph["name"] for graph in kit["graphs"])):
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
                raise ValueError(f"{name!r:.60} is not a plain name")
        _ = [target["batch"][key] + 0 for key in ("min", "opt", "max")], target["workspace_mib"] + 0, kit["model_sha256"]
        _ = kit["output_sd"] + 0, [graph["precision"] for graph in kit["graphs"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise EngineError(f"{folder}: the kit is damaged ({type(cause).__name__}: {cause!s:.200}); copy it again") from cause
    return kit


def _build_all(kit: dict[str, Any], gpu: Gpu, folder: Path, device: Device) -> int:
    good = True
    for graph in kit["graphs"]:
        sidecar = build_graph(kit, graph, gpu, folder, device)
        check, proof = sidecar["check"], sidecar["precision"]
        good = good and check["passed"] and proof["status"] == "passed"
        passed = "passed" if check["passed"] else "FAILED"
        size = f"{sidecar['plan_bytes'] / 1e6:.2f} MB"
        print(f"{graph['name']}: built in {sidecar['build_seconds']:.1f} s, {size}")
        print(f"  golden samples {passed}: error {check['max_error']} of {check['tolerance']:.3g} ({check['worst_output']})")
        print(f"  precision {proof['status']}: {proof['reason']}")
        print(f"  latency ms: {sidecar['latency_ms']}")
    print("engines/ is written; copy it into the bundle, beside manifest.json")
    return 0 if good else 2


if __name__ == "__main__":
    sys.exit(main())
