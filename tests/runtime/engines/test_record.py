"""Sidecars and plans as a careless copy, a full disk or a hostile author leaves them; none of it needs a GPU."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dmdkit import files
from dmdkit.cli import main
from dmdkit.errors import EngineError
from dmdkit.runtime import Runtime
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines import record as engine_record
from dmdkit.runtime.engines.choose import engine_runner
from dmdkit.runtime.engines.gpu import Gpu
from dmdkit.runtime.engines.record import Engine, engines_of, preflight, read_engine, write_engine
from tests.runtime.engines.test_choose import ADA, PLAN, add_engine


def edit(engine: Engine, **changes: object) -> None:
    engine.path.write_text(json.dumps(json.loads(engine.path.read_text()) | changes))


@pytest.fixture
def engine(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(engine_record, "version_of", lambda _: "1.7.1.116")
    return add_engine(bundle_copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "../../../tmp/x"}, "target: String should match"),
        ({"plan": "/etc/passwd"}, "plan: String should match"),
        ({"plan": "a/../../b.plan"}, "plan: String should match"),
        ({"plan": "x.plan\n"}, "plan: String should match"),
        ({"batch": [0, 0, 0]}, r"batch: .*1 <= smallest"),
        ({"batch": [1, 1, 10**12]}, r"batch: .*largest <= 1024"),
        ({"batch": [4, 1, 8]}, r"batch: .*smallest <= tuned"),
        ({"inputs": [{"name": "text", "shape": [-1, 10**9], "dtype": "FLOAT"}]}, r"inputs\.0\.shape"),
        ({"inputs": [{"name": "text", "shape": [], "dtype": "FLOAT"}]}, r"inputs\.0\.shape"),
        ({"build_seconds": float("nan")}, "build_seconds"),
        ({"plan_bytes": 0}, "plan_bytes"),
        ({"flavour": "cudnn"}, "flavour"),
    ],
)
def test_a_sidecar_with_a_hostile_value_is_refused_by_its_name(
    changes: dict[str, object], message: str, engine: Engine
) -> None:
    edit(engine, **changes)
    with pytest.raises(EngineError, match=message):
        read_engine(engine.path)


def test_a_sidecar_of_another_bundle_is_not_opened(engine: Engine, tiny_bundle: Path, bundle_copy: Path) -> None:
    other = json.loads((bundle_copy / "manifest.json").read_text())
    edit(engine, graph_sha256=other["files"]["graphs/explain.fp32.onnx"]["sha256"], model_sha256="1" * 64)
    with pytest.raises(EngineError, match=r"built from another .* than this bundle's; build it again"):
        preflight(read_engine(engine.path), Bundle.open(bundle_copy), lambda: ADA)


def test_a_sidecar_goes_stale_when_the_bundle_is_exported_again(engine: Engine, bundle_copy: Path) -> None:
    graph = bundle_copy / "graphs/fusion.fp32.onnx"
    data = graph.read_bytes() + b"\x7a\x00"  # one more, unknown field
    graph.write_bytes(data)
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["graphs/fusion.fp32.onnx"] = {"sha256": files.sha256_of_bytes(data), "size_bytes": len(data)}
    path.write_text(json.dumps(manifest))
    runner, why = engine_runner(Bundle.open(bundle_copy), "fusion", "fp32", gpu=lambda: ADA)
    assert runner is None
    assert "built from another fusion.fp32" in why


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": [{"name": "text", "shape": [-1, 6, 7], "dtype": "FLOAT"}]},
        {"outputs": [{"name": "score", "shape": [-1, 9], "dtype": "FLOAT"}]},
        {"outputs": [{"name": "score", "shape": [-1, 1], "dtype": "FLOAT"}] * 2},
    ],
)
def test_buffers_are_never_made_from_shapes_that_are_not_the_graphs(
    change: dict[str, object], engine: Engine, bundle_copy: Path
) -> None:
    edit(engine, **change)
    with pytest.raises(EngineError, match=r"its sidecar takes or gives .*, fusion\.fp32 has .*; build it again"):
        preflight(read_engine(engine.path), Bundle.open(bundle_copy), lambda: ADA)


def to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "none")


def to_outside(path: Path) -> None:
    outside = path.parents[2] / "outside"
    path.replace(outside)
    path.symlink_to(outside)


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(PLAN[:-5]), r"damaged \(36 bytes, the sidecar says 41\)"),
        (lambda path: path.write_bytes(b"x" * len(PLAN)), r"damaged \(its SHA-256"),
        (lambda path: path.write_bytes(b""), r"damaged \(0 bytes"),
        (to_nowhere, "cannot be read"),
        (to_outside, "a link that leaves it"),
        (to_fifo, "not a file of this folder itself"),
        (to_folder, "not a file of this folder itself"),
    ],
)
def test_a_plan_that_is_not_the_sidecars_is_refused(damage: Callable[[Path], object], message: str, engine: Engine) -> None:
    damage(engine.path.with_name(engine.record.plan))
    with pytest.raises(EngineError, match=message):
        engine.plan()


@pytest.mark.parametrize("damage", [to_nowhere, to_outside, to_fifo, to_folder])
def test_a_sidecar_that_is_no_file_of_the_bundle_is_left_out_and_the_bundle_still_predicts(
    damage: Callable[[Path], None], engine: Engine, bundle_copy: Path
) -> None:
    damage(engine.path)
    reported: list[str] = []
    assert list(engines_of(Bundle.open(bundle_copy), reported.append)) == []
    assert len(reported) == 1
    sample = {name: array[:1] for name, array in Bundle.open(bundle_copy).golden().inputs.items()}
    with Runtime.open(bundle_copy, graph="fp32") as runtime:
        assert runtime.predict(**sample).score.shape == (1, 1)


def test_an_engines_folder_that_leaves_the_bundle_is_neither_read_nor_written(
    engine: Engine, bundle_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = (bundle_copy / "engines").rename(tmp_path / "outside")
    (bundle_copy / "engines").symlink_to(outside)
    before = sorted(path.name for path in outside.iterdir())
    reported: list[str] = []
    assert list(engines_of(Bundle.open(bundle_copy), reported.append)) == []
    assert "is a link that leaves the bundle" in reported[0]
    assert main(["build", str(bundle_copy), "--target", "rtx-ada", "--precision", "fp32", "--graph", "gd_homo"]) == 1
    assert "is a link that leaves the bundle" in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in outside.iterdir()) == before


@pytest.mark.parametrize("fails_at", [".plan", ".log", ".json"])
@pytest.mark.parametrize("cause", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_nothing_half_written(
    fails_at: str, cause: BaseException, engine: Engine, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files._fsync

    def full(path: Path) -> None:
        if path.suffix == fails_at:
            raise cause
        real(path)

    monkeypatch.setattr(files, "_fsync", full)
    expected = EngineError if isinstance(cause, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left on device" if expected is EngineError else None):
        write_engine(bundle_copy / "engines", engine.record, b"another plan", "")
    assert list((bundle_copy / "engines").iterdir()) == []


def test_writers_of_one_engine_take_turns(engine: Engine, bundle_copy: Path) -> None:
    def write(plan: bytes) -> None:
        record = engine.record.model_copy(update={"plan_sha256": files.sha256_of_bytes(plan), "plan_bytes": len(plan)})
        for _ in range(20):
            write_engine(bundle_copy / "engines", record, plan, "")

    writers = [threading.Thread(target=write, args=(bytes([65 + number]) * (1000 + number),)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert read_engine(engine.path).plan(), "whoever was last, plan and sidecar belong together"
    assert len(list((bundle_copy / "engines").iterdir())) == 3


def test_a_gpu_of_another_name_may_run_a_desktop_plan_but_not_a_tensorrt_one(engine: Engine, bundle_copy: Path) -> None:
    other = Gpu("NVIDIA RTX 6000 Ada Generation", "8.9", "13.0", integrated=False)
    assert preflight(engine, Bundle.open(bundle_copy), lambda: other) == other
    edit(engine, flavour="tensorrt", gpu=ADA.name)
    with pytest.raises(EngineError, match="was built on NVIDIA GeForce RTX 4090, this is NVIDIA RTX 6000"):
        preflight(read_engine(engine.path), Bundle.open(bundle_copy), lambda: other)
