"""The kit: whole without torch, honest about a machine that is not the target, and complete on one that is.

The device is a stand-in here; no kit has run on a Jetson.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dmdkit.cli import main
from dmdkit.errors import EngineError, ExportError
from dmdkit.export.kit import trtexec_line, write_kit
from dmdkit.export.targets import load_target
from dmdkit.files import sha256_of_bytes
from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines import device_kit
from dmdkit.runtime.engines.gpu import Gpu
from dmdkit.runtime.engines.identity import EngineIdentity
from dmdkit.runtime.engines.record import read_engine
from dmdkit.runtime.engines.tensorrt_api import OpenEngine
from dmdkit.runtime.engines.tensorrt_build import Built, ProductInfo, TensorInfo
from tests.runtime.builders import no_driver_here

pytestmark = pytest.mark.slow

ORIN = Gpu("Orin", "8.7", "12.6", integrated=True)
NANO = "NVIDIA Jetson Orin Nano Developer Kit"


@pytest.fixture(scope="session")
def kit(engine_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kit") / "nano"
    assert main(["build", str(engine_bundle), "--target", "jetson-orin-nano", "--kit", str(out)]) == 0
    return out


def test_the_kit_holds_graphs_golden_samples_and_instructions(kit: Path, engine_bundle: Path) -> None:
    listed = json.loads((kit / "kit.json").read_text())
    assert {graph["name"] for graph in listed["graphs"]} == {"fusion.fp16", "explain.fp16", "gd_homo.fp32", "gd_hetero.fp32"}
    for name, sha256 in listed["files"].items():
        assert sha256_of_bytes((kit / name).read_bytes()) == sha256
    readme = (kit / "README.md").read_text()
    assert trtexec_line(Bundle.open(engine_bundle), "fusion.fp16", load_target("jetson-orin-nano")) in readme
    assert "Nothing in this folder has run on such a device yet" in readme
    assert "which precision each layer really runs in" in readme


def test_the_script_stops_on_a_machine_that_is_not_the_target_with_python_alone(kit: Path) -> None:
    no_driver_here()
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(kit / "build_and_check.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "this machine is not a jetson-orin-nano: no NVIDIA driver" in done.stderr
    assert "nothing was built" in done.stderr
    assert not (kit / "engines").exists()


def test_the_scripts_dry_run_needs_python_alone(kit: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(kit / "build_and_check.py"), "--dry-run"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "device only" in done.stdout


@pytest.mark.parametrize(
    ("gpu", "board", "message"),
    [
        (ORIN, "NVIDIA Jetson AGX Orin Developer Kit", "it is 'NVIDIA Jetson AGX Orin|it is NVIDIA Jetson AGX Orin"),
        (Gpu("Thor", "11.0", "13.0", integrated=True), NANO, "compute capability 11.0, expected 8.7"),
    ],
)
def test_another_device_is_named(gpu: Gpu, board: str, message: str, kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_kit, "find_gpu", lambda: gpu)
    with pytest.raises(EngineError, match=message):
        device_kit.check_device(json.loads((kit / "kit.json").read_text()), board)


def test_a_tensorrt_older_than_the_device_is_refused(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_kit, "find_gpu", lambda: ORIN)
    monkeypatch.setattr(device_kit.tensorrt_api, "version_of", lambda _: "8.6.2")
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.2 is older than 10\.3"):
        device_kit.check_device(json.loads((kit / "kit.json").read_text()), NANO)


def change_kit(kit: Path, **changes: object) -> None:
    path = kit / "kit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda kit: (kit / "golden.npz").write_bytes(b"x"), "golden.npz is not the file that was written"),
        (lambda kit: (kit / "graphs/fusion.fp16.onnx").unlink(), "graphs/fusion.fp16.onnx is missing"),
        (lambda kit: (kit / "kit.json").write_text("{"), "the kit is damaged"),
        (lambda kit: (kit / "kit.json").unlink(), "the kit is damaged"),
        (lambda kit: (kit / "kit.json").write_text("[]"), "the kit is damaged (TypeError"),
        (lambda kit: (kit / "kit.json").write_text("[" * 100_000), "the kit is damaged (RecursionError"),
        (lambda kit: (kit / "kit.json").write_bytes(b"\xff\xfe"), "the kit is damaged (UnicodeDecodeError"),
        (lambda kit: change_kit(kit, files=[]), "the kit is damaged (AttributeError"),
        (lambda kit: change_kit(kit, graphs=[{"name": "../../x"}]), "'../../x' is not a plain name"),
        (lambda kit: change_kit(kit, target={"name": "/etc/cron.d/x"}), "'/etc/cron.d/x' is not a plain name"),
        (lambda kit: change_kit(kit, target={"name": "a", "batch": {"min": "1"}}), "the kit is damaged (TypeError"),
        (lambda kit: (kit / "lib/dmdkit/runtime/engines/gpu.py").write_text(""), "gpu.py is not the file that was written"),
    ],
)
def test_a_damaged_kit_is_one_line(damage, message: str, kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    copy = Path(shutil.copytree(kit, tmp_path / "kit"))
    damage(copy)
    assert device_kit.main([], copy) == 1
    assert message in capsys.readouterr().err


class FakeCudart:
    """libcudart's functions on ordinary memory."""

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}

    def cudaStreamCreate(self, _: object) -> int:  # noqa: N802
        return 0

    def cudaStreamDestroy(self, _: object) -> int:  # noqa: N802
        return 0

    def cudaStreamSynchronize(self, _: object) -> int:  # noqa: N802
        return 0

    def cudaMalloc(self, pointer, size: ctypes.c_size_t) -> int:  # noqa: N802
        buffer = ctypes.create_string_buffer(size.value)
        self.memory[ctypes.addressof(buffer)] = buffer
        pointer._obj.value = ctypes.addressof(buffer)
        return 0

    def cudaFree(self, pointer: ctypes.c_void_p) -> int:  # noqa: N802
        del self.memory[pointer.value or 0]
        return 0

    def cudaMemcpyAsync(self, target, source, size, kind: int, stream: object) -> int:  # noqa: N802
        ctypes.memmove(target.value, source.value, size.value)
        return 0


class FakeContext:
    def __init__(self, session: OnnxRuntimeRunner, offset: float) -> None:
        self.session, self.offset = session, offset
        self.address: dict[str, int] = {}
        self.shape: dict[str, tuple[int, ...]] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.address[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape[name] = shape
        return True

    def view(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(self.address[name])).reshape(shape)

    def execute_async_v3(self, _: int) -> bool:
        found = self.session.infer({name: self.view(name, shape).copy() for name, shape in self.shape.items()})
        for name, array in found.items():
            self.view(name, array.shape)[:] = array + self.offset
        return True


@pytest.fixture
def on_a_nano(kit: Path, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes this machine look like the device, with ONNX Runtime in place of the engine."""
    bundle = Bundle.open(engine_bundle)
    cudart = FakeCudart()

    def use(offset: float = 0.0, layers: object = ()) -> FakeCudart:
        def build(flavour: str, data: bytes, name: str, **_: object) -> Built:
            record = bundle.graph(name)
            session = OnnxRuntimeRunner(name, data, record.session_options)
            golden = bundle.golden().recorded[name]
            inputs = tuple(TensorInfo(spec.name, spec.shape, "FLOAT") for spec in session.inputs)
            outputs = tuple(TensorInfo(key, (-1, *array.shape[1:]), "FLOAT") for key, array in golden.items())
            sessions.append(session)
            return Built(b"plan of " + name.encode(), inputs, outputs, "[INFO] built\n", (ProductInfo("/a/MatMul", 10, False),))

        sessions: list[OnnxRuntimeRunner] = []
        api = device_kit.tensorrt_api
        monkeypatch.setattr(device_kit.tensorrt_build, "build", build)
        monkeypatch.setattr(api, "version_of", lambda _: "10.3.0")
        monkeypatch.setattr(api, "open_engine", lambda *_: OpenEngine(None, FakeContext(sessions[-1], offset), False, None, ()))
        monkeypatch.setattr(api, "inspect_engine", lambda *_: json.dumps({"Layers": list(layers), "Bindings": []}))
        monkeypatch.setattr(device_kit, "find_gpu", lambda: ORIN)
        monkeypatch.setattr(device_kit, "model_of_board", lambda: NANO)
        monkeypatch.setattr(device_kit, "_cudart", lambda: cudart)
        monkeypatch.setattr(device_kit, "ROUNDS", 5)
        monkeypatch.setattr(device_kit, "WARM_UP", 1)
        return cudart

    return use


def test_on_the_device_it_builds_checks_measures_and_writes_sidecars_that_the_runtime_reads(
    kit: Path, engine_bundle: Path, on_a_nano, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = Path(shutil.copytree(kit, tmp_path / "kit"))
    cudart = on_a_nano()
    assert device_kit.main([], copy) == 0, capsys.readouterr()
    assert not cudart.memory, "device memory is given back"
    bundle = Bundle.open(engine_bundle)
    for name in ("fusion.fp16", "explain.fp16", "gd_homo.fp32", "gd_hetero.fp32"):
        record = read_engine(copy / f"engines/jetson-orin-nano.{name}.json").record
        assert record.check is not None
        assert record.check.passed
        assert record.check.samples == 16
        assert set(record.latency_ms or {}) == {"p50", "p90", "p95", "p99"}
        assert record.graph_sha256 == bundle.manifest.files[bundle.graph(name).file].sha256
        assert read_engine(copy / f"engines/jetson-orin-nano.{name}.json").plan().startswith(b"plan of ")
        target = load_target("jetson-orin-nano")
        parts = ("jetson-orin-nano", name, record.graph_sha256, "tensorrt", "10.3.0", ["8.7"], "Orin")
        identity = EngineIdentity(*parts, (1, 1, 16), target.workspace_mib)
        assert record.cache_key == identity.cache_key, "as the builder's own"


def test_answers_that_are_off_are_exit_code_2(kit: Path, on_a_nano, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    copy = Path(shutil.copytree(kit, tmp_path / "kit"))
    on_a_nano(offset=1.0)
    assert device_kit.main([], copy) == 2
    assert "golden samples FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(("cause", "code"), [(OSError(28, "No space left on device"), 1), (KeyboardInterrupt(), 130)])
def test_a_full_disk_or_ctrl_c_on_the_device_leaves_no_half_engine(
    cause: BaseException, code: int, kit: Path, on_a_nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    copy = Path(shutil.copytree(kit, tmp_path / "kit"))
    cudart = on_a_nano()
    real, written = os.replace, []

    def replace(source: Path, target: Path) -> None:
        written.append(target)
        if len(written) == 5:  # the second engine's log
            raise cause
        real(source, target)

    monkeypatch.setattr(device_kit.os, "replace", replace)
    assert device_kit.main([], copy) == code
    assert [path.name for path in (copy / "engines").glob("*.json")] == ["jetson-orin-nano.fusion.fp16.json"]
    assert not list((copy / "engines").glob(".*"))
    assert not cudart.memory


def test_the_kits_own_copy_of_the_modules_is_enough(kit: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'lib'); import dmdkit.runtime.engines.tensorrt_build; "
        "import dmdkit.runtime.engines.tensorrt_api as t; import dmdkit.runtime.engines.inspector, dmdkit.runtime.engines.gpu; "
        "assert t.__file__.startswith(sys.argv[1]), t.__file__; assert t.installed_flavours() == []"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(kit)], cwd=kit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_kit_is_replaced_only_with_force_and_only_if_it_is_one(
    engine_bundle: Path, kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["build", str(engine_bundle), "--target", "jetson-orin-nano", "--kit"]
    assert main([*again, str(kit)]) == 1
    assert "pass --force to replace a kit" in " ".join(capsys.readouterr().err.split())
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "photo.jpg").write_bytes(b"x")
    assert main([*again, str(mine), "--force"]) == 1
    assert (mine / "photo.jpg").exists()
    assert main(["build", str(engine_bundle), "--target", "rtx-ada", "--kit", str(tmp_path / "rtx")]) == 1
    assert "built without the device; leave --kit out" in " ".join(capsys.readouterr().err.split())


def test_a_kit_keeps_what_its_device_built_and_whatever_is_not_a_kits(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, target, out = Bundle.open(tiny_bundle), load_target("jetson-orin-nano"), tmp_path / "kit"

    def write() -> None:
        write_kit(bundle, ["fusion.fp32"], target, [], out, force=True)

    write()
    for name in ("engines/a.plan", "lib/dmdkit/__pycache__/errors.pyc", "notes.txt"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"x")
    with pytest.raises(ExportError, match=r"holds what is not a kit's \(notes.txt\), so it is left alone"):
        write()
    assert (out / "notes.txt").exists()
    (out / "notes.txt").unlink()
    write()
    assert (out / "engines/a.plan").exists()
    assert not (out / "lib/dmdkit/__pycache__").exists()
    (out / "kit.json").write_text("{")
    with pytest.raises(ExportError, match="cannot be read, so what the kit holds is not known"):
        write()


def test_the_script_in_the_kit_is_the_tested_one(kit: Path) -> None:
    spec = importlib.util.find_spec("dmdkit.runtime.engines.device_kit")
    assert spec is not None
    assert spec.origin is not None
    assert (kit / "build_and_check.py").read_bytes() == Path(spec.origin).read_bytes()
    assert isinstance(device_kit, ModuleType)
