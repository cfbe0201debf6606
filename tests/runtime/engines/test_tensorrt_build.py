"""Desktop RTX plans, really built here without a GPU; the cache; and one clear error for what cannot be built."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from dmdkit.cli import main
from dmdkit.errors import EngineError, MissingDependencyError
from dmdkit.export.targets import target_names
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines import build as engine_build
from dmdkit.runtime.engines import tensorrt_api, tensorrt_build
from dmdkit.runtime.engines.build import BuildSpec, build_engine
from dmdkit.runtime.engines.gpu import NoGpuError
from dmdkit.runtime.engines.record import engines_of, read_engine
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

rtx = pytest.mark.skipif(
    "tensorrt_rtx" not in tensorrt_api.installed_flavours(), reason="tensorrt_rtx is not installed (extra 'rtx')"
)
PORTABLE = ["8.6", "8.9", "12.0"]
SPEC = BuildSpec("rtx-ada", "tensorrt_rtx", ("8.9",), (1, 1, 4), 64, anywhere=True)


def build(bundle: Path, *more: str) -> int:
    return main(["build", str(bundle), "--target", "rtx-portable", *more])


@rtx
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "graph"), [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8-trt")])
def test_portable_plans_of_every_graph_build_without_a_gpu(precision: str, graph: str, engine_copy: Path) -> None:
    assert build(engine_copy, "--precision", precision) == 0
    bundle = Bundle.open(engine_copy)
    bundle.verify()
    engines = {engine.record.graph: engine for engine in engines_of(bundle, pytest.fail)}
    assert set(engines) == {f"fusion.{graph}", f"explain.{graph}", "gd_homo.fp32", "gd_hetero.fp32"}
    for name, engine in engines.items():
        record = engine.record
        assert len(engine.plan()) == record.plan_bytes
        assert record.compute_capabilities == PORTABLE
        assert record.graph_sha256 == bundle.manifest.files[bundle.graph(name).file].sha256
        assert all(tensor.shape[0] == -1 and tensor.dtype == "FLOAT" for tensor in (*record.inputs, *record.outputs))
        assert (record.precision, record.check, record.latency_ms) == (None, None, None), "only a GPU can show these"
        # TensorRT's parser counts the same work as the manifest does.
        total = sum(product.multiply_adds for product in record.products)
        assert total == bundle.graph(name).multiply_adds
        share = sum(product.multiply_adds for product in record.products if product.int8) / total
        assert share == pytest.approx(bundle.graph(name).multiply_adds_int8, abs=1e-9)


@rtx
@pytest.mark.parametrize(("precision", "form"), [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8-trt")])
def test_a_text_encoder_builds_in_every_precision(
    precision: str, form: str, text_engine_copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert build(text_engine_copy, "--precision", precision, "--graph", "text") == 0
    assert "WARNING" not in capfd.readouterr().err, "of the builder, which says so where a constant does not fit its type"
    bundle = Bundle.open(text_engine_copy)
    (record,) = (engine.record for engine in engines_of(bundle, pytest.fail))
    assert (record.graph, record.compute_capabilities) == (f"text.{form}", PORTABLE)
    assert {tensor.name: (tensor.shape, tensor.dtype) for tensor in record.inputs} == {
        "input_ids": ([-1, 8], "INT64"),
        "attention_mask": ([-1, 8], "INT64"),
    }
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in record.outputs] == [("text", [-1, 8, 16], "FLOAT")]
    graph = bundle.graph(f"text.{form}")
    assert sum(product.multiply_adds for product in record.products) == graph.multiply_adds
    share = sum(product.multiply_adds for product in record.products if product.int8) / graph.multiply_adds
    assert share == pytest.approx(graph.multiply_adds_int8, abs=1e-9)
    assert (share > 0) == (precision == "int8")
    assert any("speed is unverified" in note for note in record.notes) == (precision == "int8")


@rtx
def test_all_graphs_of_a_bundle_with_a_text_encoder_are_built_unless_some_are_named(text_engine_copy: Path) -> None:
    assert build(text_engine_copy, "--precision", "fp16") == 0
    names = {engine.record.graph for engine in engines_of(Bundle.open(text_engine_copy), pytest.fail)}
    assert names == {"fusion.fp16", "explain.fp16", "text.fp16", "gd_homo.fp32", "gd_hetero.fp32"}


@rtx
def test_a_text_encoder_without_the_form_that_is_asked_for_names_the_command_that_adds_it(
    text_bundle_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMDKIT_CACHE", str(text_bundle_copy.parent / "cache"))
    assert build(text_bundle_copy, "--precision", "fp16", "--graph", "text") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "text.fp16, which engines in fp16 are built from; add them with: dmdkit add-precision" in said
    path = text_bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["graphs"]["text.int8-trt"]
    path.write_text(json.dumps(manifest))
    assert build(text_bundle_copy, "--precision", "int8", "--graph", "text") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "has no text.int8-trt, which engines in int8 are built from" in said
    assert "export the run again: dmdkit export RUN --int8 --fp16" in said


@rtx
def test_a_second_build_takes_the_plan_from_the_bundle_and_another_bundle_from_the_cache(
    engine_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC)
    assert not first.cached
    monkeypatch.setattr(engine_build, "build", lambda *_, **__: pytest.fail("built again"))
    second = build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC)
    assert second.cached
    assert second.engine.record == first.engine.record
    plan = first.engine.plan()
    for path in (engine_copy / "engines").iterdir():
        path.unlink()
    third = build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC)
    assert third.cached
    assert third.engine.plan() == plan


@rtx
def test_a_damaged_plan_is_built_again_and_a_changed_flag_is_not_a_hit(engine_copy: Path) -> None:
    bundle = Bundle.open(engine_copy)
    first = build_engine(bundle, "gd_homo.fp32", SPEC)
    for path in (
        first.engine.path.with_name(first.engine.record.plan),
        *(engine_build.cache_folder() or Path()).rglob("*.plan"),
    ):
        path.write_bytes(b"damaged")
    again = build_engine(bundle, "gd_homo.fp32", SPEC)
    assert not again.cached
    assert again.engine.plan()
    other = BuildSpec("rtx-ada", "tensorrt_rtx", ("8.9",), (1, 1, 8), 64, anywhere=True)
    assert not build_engine(bundle, "gd_homo.fp32", other).cached


@rtx
def test_the_builder_reports_progress_and_its_log_is_kept(engine_copy: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    result = build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC, lambda *step: heard.append(step) is None)
    assert heard
    assert all(step <= total for _, step, total in heard)
    assert "Opset version" in result.engine.path.with_suffix(".log").read_text(encoding="utf-8") or "INFO" in str(heard)


@rtx
def test_an_unsupported_operator_is_one_clear_error() -> None:
    node = helper.make_node("Det", ["x"], ["y"], name="/strange/Det")
    shapes = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *rest])
        for name, rest in {"x": [3, 3], "y": []}.items()
    }
    graph = helper.make_graph([node], "g", [shapes["x"]], [shapes["y"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(EngineError, match=r"TensorRT-RTX 1\.\d.* cannot parse strange: operator Det of node /strange/Det"):
        tensorrt_build.build("tensorrt_rtx", model.SerializeToString(), "strange", compute_capabilities=["8.9"])


@rtx
def test_fp32_products_for_turing_are_refused_with_the_builders_own_reason(engine_bundle: Path) -> None:
    data = (engine_bundle / "graphs/fusion.fp32.onnx").read_bytes()
    with pytest.raises(EngineError, match=r"cannot build fusion: .*FP32 GEMM is not supported"):
        tensorrt_build.build("tensorrt_rtx", data, "fusion", compute_capabilities=["7.5"])


@rtx
@pytest.mark.parametrize("damage", [b"", b"\x08\n\xff\xff", b"not onnx"])
def test_a_file_that_is_no_graph_is_one_clear_error(damage: bytes) -> None:
    with pytest.raises(EngineError, match=r"cannot parse|cannot build"):
        tensorrt_build.build("tensorrt_rtx", damage, "nothing", compute_capabilities=["8.9"])


@rtx
def test_a_capability_the_builder_does_not_know_is_refused_with_what_it_knows(engine_bundle: Path) -> None:
    data = (engine_bundle / "graphs/gd_homo.onnx").read_bytes()
    with pytest.raises(EngineError, match=r"cannot compile for SM87; it knows .*SM120"):
        tensorrt_build.build("tensorrt_rtx", data, "gd", compute_capabilities=["8.7"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "rtx-turing", "--precision", "int8"], "target rtx-turing allows fp16; the support matrix lists no INT8"),
        (["--target", "gameboy"], "no such target; choose one of a100"),
        (["--target", "rtx-ada", "--graph", "text"], "--graph text: the bundle has explain, fusion"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], message: str, engine_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(engine_copy), *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (engine_copy / "engines").exists()


def test_int8_without_an_int8_graph_says_how_to_get_one(engine_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = engine_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["graphs"] = {name: graph for name, graph in manifest["graphs"].items() if graph["precision"] != "int8-trt"}
    path.write_text(json.dumps(manifest))
    assert main(["build", str(engine_copy), "--target", "rtx-ada", "--precision", "int8"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "which engines in int8 are built from; export the run again: dmdkit export RUN --int8 --fp16" in said


def test_a_device_target_off_the_device_stops_and_names_the_kit(
    engine_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> None:
        raise NoGpuError("no NVIDIA driver: libcuda.so.1 cannot be loaded")

    monkeypatch.setattr(engine_build, "find_gpu", none)
    assert main(["build", str(engine_copy), "--target", "jetson-orin-nano"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "built on the device itself, and here is no NVIDIA driver: libcuda.so.1" in said
    assert "--kit OUT" in said


def test_targets_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == list(target_names())
    assert main(["targets", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["targets"]
    assert [target["name"] for target in found] == list(target_names())
    assert all(target["title"] for target in found)


def test_type_stubs_alone_are_not_taken_for_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt/__init__.pyi").write_text("class Logger: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match="TensorRT engines needs the package 'tensorrt'"):
        tensorrt_api.version_of("tensorrt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema version 2, this dmdkit reads version 1"),
        ({"colour": "green"}, "colour: Extra inputs"),
        ({"plan": "../../outside"}, "plan: String should match"),
        ({"plan_sha256": "0"}, "plan_sha256"),
    ],
)
@rtx
def test_a_sidecar_that_was_edited_is_refused(change: dict[str, object], message: str, engine_copy: Path) -> None:
    engine = build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC).engine
    engine.path.write_text(json.dumps(json.loads(engine.path.read_text()) | change))
    with pytest.raises(EngineError, match=message):
        read_engine(engine.path)


def test_a_missing_or_torn_sidecar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be read: No such file"):
        read_engine(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"schema_version": 1, ')
    with pytest.raises(EngineError, match="not JSON"):
        read_engine(tmp_path / "torn.json")


REMOVED = re.compile(
    r"BuilderFlag\.(FP16|BF16|INT8|FP8|INT4|FP4|(PREFER|OBEY)_PRECISION_CONSTRAINTS|REJECT_EMPTY_ALGORITHMS)\b"
    r"|\bI(nt8)?\w*Calibrator\w*|\bint8_calibrator\b|\bI?algorithm_?selector\b|\bIAlgorithm\w*|platform_has_(fast|tf32)\w*"
    r"|\bdevice_memory_size\b(?!_v2)|\bset_(precision|output_type)\b|\bset_dynamic_range\b"
    r"|--(fp16|int8|best|calib)\b(?=.*trtexec)|trtexec.*--(fp16|int8|best|calib)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    "line",
    [
        *(f"config.set_flag(trt.BuilderFlag.{name})" for name in ("FP16", "BF16", "INT8", "FP8", "INT4", "FP4")),
        "trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS",
        "trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
        "class Entropy(trt.IInt8EntropyCalibrator2):",
        "config.int8_calibrator = calibrator",
        "config.algorithm_selector = trt.IAlgorithmSelector()",
        "if builder.platform_has_fast_fp16:",
        "size = engine.device_memory_size",
        "layer.set_output_type(0, trt.float16)",
        "trtexec --onnx=a.onnx --fp16",
        "trtexec --best --onnx=a.onnx",
        "trtexec --calib=c",
    ],
)
def test_every_symbol_that_tensorrt_11_removed_would_be_found(line: str) -> None:
    assert REMOVED.search(line)


def test_no_symbol_that_tensorrt_11_removed_is_referenced() -> None:
    for folder in ("toolkit", "export", "calibration", "runtime", "scripts"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".sh", ".yaml") and path.is_file():
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                    assert not REMOVED.search(line), f"{path}:{number}: {line.strip()}"


def test_tensorrt_is_called_in_one_file_only() -> None:
    uses = [
        str(path.relative_to(ROOT))
        for folder in ("toolkit", "export", "calibration", "runtime")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^\s*import tensorrt|import_module\((flavour|.tensorrt)", path.read_text(encoding="utf-8"), re.M)
    ]
    assert set(uses) <= {"runtime/engines/tensorrt_api.py", "runtime/engines/tensorrt_build.py"}


@rtx
def test_parsing_keeps_the_onnx_file_as_it_is(engine_copy: Path) -> None:
    path = engine_copy / "graphs/gd_homo.onnx"
    before = path.read_bytes()
    build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC)
    assert path.read_bytes() == before
    onnx.checker.check_model(onnx.load(path))


@rtx
def test_a_bundle_that_cannot_be_written_is_served_from_the_cache(
    engine_copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (engine_copy / "engines").write_text("in the way")  # a read-only folder, also for root
    first = build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC)
    assert "the engine stays in" in caplog.text
    assert first.engine.path.is_relative_to(engine_build.cache_folder() or Path())
    monkeypatch.setattr(engine_build, "build", lambda *_, **__: pytest.fail("built again"))
    second = build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC)
    assert second.cached
    assert second.engine.plan() == first.engine.plan()
    assert (second.engine.record.target, second.engine.record.graph) == ("rtx-ada", "gd_homo.fp32")


@rtx
def test_a_cache_that_cannot_be_written_costs_time_only(
    engine_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DMDKIT_CACHE", str(tmp_path / "file"))
    assert build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC).engine.plan()
    assert build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC).cached, "from the bundle"
    (engine_copy / "engines").rename(tmp_path / "aside")
    (engine_copy / "engines").write_text("in the way")
    with pytest.raises(EngineError, match=r"cannot write .*engines"):
        build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC)


@rtx
def test_force_builds_again_and_replaces_the_cached_plan(engine_copy: Path) -> None:
    build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC)
    again = build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC, force=True)
    assert not again.cached
    (kept,) = (engine_build.cache_folder() or Path()).rglob("engine.plan")
    assert kept.read_bytes() == again.engine.plan()


@rtx
@pytest.mark.parametrize("how", ["listener", "signal"])
def test_ctrl_c_stops_a_build_and_leaves_nothing(how: str, engine_copy: Path) -> None:
    def interrupt(*_: object) -> bool:
        if how == "signal":
            os.kill(os.getpid(), signal.SIGINT)
            return True
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC, interrupt)
    assert signal.getsignal(signal.SIGINT) == before
    assert not (engine_copy / "engines").exists()
    assert not list((engine_build.cache_folder() or Path()).rglob("*"))
    assert not build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC).cached


@rtx
def test_a_listener_that_says_no_stops_a_build(engine_copy: Path) -> None:
    with pytest.raises(EngineError, match=r"the build of gd_homo\.fp32 was stopped"):
        build_engine(Bundle.open(engine_copy), "gd_homo.fp32", SPEC, lambda *_: False)


@rtx
def test_two_builds_at_once_leave_plans_that_belong_to_their_sidecars(engine_copy: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dmdkit.runtime.bundle import Bundle; "
        "from dmdkit.runtime.engines.build import BuildSpec, build_engine; "
        "spec = BuildSpec('rtx-ada', 'tensorrt_rtx', ('8.9',), (1, 1, 4), 64, anywhere=True); "
        "[build_engine(Bundle.open(Path(sys.argv[1])), 'gd_homo.fp32', spec, force=True) for _ in range(3)]"
    )
    builds = [subprocess.Popen([sys.executable, "-c", code, str(engine_copy)], stderr=subprocess.PIPE) for _ in range(2)]
    for one in builds:
        assert one.communicate()[1] == b""
        assert one.returncode == 0
    assert read_engine(engine_copy / "engines/rtx-ada.gd_homo.fp32.json").plan()
    assert len(list((engine_copy / "engines").iterdir())) == 3
