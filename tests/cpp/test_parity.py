"""C++ and Python give the same answers on every sample and graph, with the same ONNX Runtime and session options."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from safetensors.numpy import load_file, save_file

from dmdkit.cli import main
from dmdkit.data import load_dataset
from dmdkit.parity.compare import CPP_MAX_ERROR
from dmdkit.runtime import Runtime
from tests.conftest import shared_path

pytestmark = pytest.mark.slow


def run_tool(tool: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.fixture(scope="session")
def dmdkit_run(native_bin: Path, tiny_bundle: Path) -> Path:
    tool = native_bin / "dmdkit-run"
    found = run_tool(tool, tiny_bundle, "--self-check", "--graph", "fp32")
    backend = json.loads(found.stdout)["backend"]
    if backend != f"onnxruntime {ort.__version__}":
        pytest.skip(f"C++ has {backend}, Python onnxruntime {ort.__version__}")
    return tool


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("graph", ["fp32", "int8-cpu"])
def test_languages_agree_on_every_sample(
    dmdkit_run: Path,
    tiny_bundle: Path,
    samples_file: Path,
    test_samples: dict[str, np.ndarray],
    tmp_path: Path,
    graph: str,
    batch: int,
) -> None:
    answers = tmp_path / "answers.safetensors"
    options = ("--graph", graph, "--batch", batch, "--explain", "--output", answers)
    done = run_tool(dmdkit_run, tiny_bundle, "--input", samples_file, *options)
    assert done.returncode == 0, done.stderr
    found = load_file(answers)
    with Runtime.open(tiny_bundle, graph=graph) as runtime:
        count = len(test_samples["text"])
        for first in range(0, count, batch):
            part = {name: array[first : first + batch] for name, array in test_samples.items()}
            here = slice(first, first + batch)
            expected = {"score": runtime.predict(**part).score}
            why = runtime.explain(**part)
            expected["explain_score"] = why.score
            for name in ("logit_homo", "logit_hetero", "edges_homo", "edges_hetero"):
                expected[name] = getattr(why, name)
            for name, array in expected.items():
                np.testing.assert_allclose(found[name][here], array, rtol=0, atol=CPP_MAX_ERROR, err_msg=name)
        assert all(len(array) == count for array in found.values())


def cpp_hops(printed: str) -> dict[str, dict[str, object]]:
    return {hop["target"]: hop for hop in json.loads(printed)["hops"] if hop["target"].endswith("@cpp")}


def test_check_adds_the_cpp_hop_of_every_graph_to_the_ledger(
    dmdkit_run: Path, bundle_copy: Path, tiny_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["check", str(bundle_copy), "--data", str(tiny_data), "--backend", "onnxruntime", "--runner", str(dmdkit_run)]
    assert main([*command, "--json"]) in (0, 2)  # the tiny model's INT8 need not pass
    hops = cpp_hops(capfd.readouterr().out)
    assert set(hops) == {f"{kind}.{precision}@cpp" for kind in ("fusion", "explain") for precision in ("fp32", "int8-cpu")}
    for hop in hops.values():
        assert (hop["status"], hop["samples"]) == ("passed", 60)
        assert hop["reason"] == f"within every limit; onnxruntime {ort.__version__} in both"
    written = json.loads((bundle_copy / "report/parity.json").read_text())
    assert {hop["target"] for hop in written["hops"]} >= set(hops)


@pytest.mark.slow
def test_a_mosi_bundle_gives_the_same_in_both_languages(
    dmdkit_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = shared_path("data/mosi_clean.pkl")
    settings = ("training.epochs=1", "model.levels=1")
    train = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*train, *(part for setting in settings for part in ("--set", setting))]) == 0
    assert main(["export", str(tmp_path / "run"), "--int8", "--out", str(tmp_path / "mosi.dmd")]) in (0, 2)
    capfd.readouterr()
    command = ["check", str(tmp_path / "mosi.dmd"), "--data", str(data), "--backend", "onnxruntime", "--json"]
    assert main([*command, "--runner", str(dmdkit_run)]) in (0, 2)
    hops = cpp_hops(capfd.readouterr().out)
    print(json.dumps({target: hop["max_error"] for target, hop in hops.items()}))
    assert {hop["status"] for hop in hops.values()} == {"passed"}
    assert {hop["samples"] for hop in hops.values()} == {209}


def test_a_split_is_read_by_its_prefix(
    dmdkit_run: Path, tiny_bundle: Path, samples_file: Path, test_samples: dict[str, np.ndarray], tmp_path: Path
) -> None:
    other = tmp_path / "test.safetensors"
    save_file({f"test/{name}": array for name, array in test_samples.items()}, other)
    first = run_tool(dmdkit_run, tiny_bundle, "--graph", "fp32", "--input", samples_file)
    second = run_tool(dmdkit_run, tiny_bundle, "--graph", "fp32", "--input", other, "--split", "test")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout == second.stdout


@pytest.mark.parametrize("name", ["features.npz", "my features.npz", "it's.pkl"])
def test_another_format_is_answered_with_the_command_that_converts_it(
    name: str, dmdkit_run: Path, tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    given = tmp_path / name
    given.write_bytes(tiny_data.read_bytes())
    for arguments in ((tiny_bundle, "--input", given), (given,)):
        refused = run_tool(dmdkit_run, *arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
        said = re.search(
            r"reads safetensors; write it as such: (dmdkit data convert .*), then: (dmdkit-run .*)", refused.stderr
        )
        assert said is not None, refused.stderr
        source, target = shlex.split(said[1])[3:]
        assert (source, target) == (str(given), str(given.with_suffix(".safetensors")))
        assert shlex.split(said[2])[1:] == ["BUNDLE", "--input", target]
    if given.suffix == ".pkl":
        return
    assert main(shlex.split(said[1])[1:]) == 0
    done = run_tool(dmdkit_run, tiny_bundle, "--graph", "fp32", "--input", target)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == sum(len(split) for split in load_dataset(tiny_data).splits.values())


def test_every_graph_passes_its_self_check(dmdkit_run: Path, tiny_bundle: Path) -> None:
    done = run_tool(dmdkit_run, tiny_bundle, "--graph", "fp32", "--self-check", "--every-graph")
    assert done.returncode == 0, done.stdout + done.stderr
    with Runtime.open(tiny_bundle, graph="fp32") as runtime:
        assert {check["graph"] for check in json.loads(done.stdout)["graphs"]} == set(runtime.manifest.graphs)


def test_languages_refuse_a_bundle_with_the_same_words(dmdkit_run: Path, bundle_copy: Path) -> None:
    from dmdkit.errors import BundleError

    def both() -> tuple[str, str]:
        done = run_tool(dmdkit_run, bundle_copy, "--graph", "fp32")
        assert done.returncode == 1
        with pytest.raises(BundleError) as error:
            Runtime.open(bundle_copy, graph="fp32")
        return done.stderr.strip().removeprefix("dmdkit-run: "), str(error.value)

    graph = bundle_copy / "graphs/fusion.fp32.onnx"
    content = bytearray(graph.read_bytes())
    content[100] ^= 1
    graph.write_bytes(content)
    assert len(set(both())) == 1
    graph.write_bytes(content[:-1])
    assert len(set(both())) == 1
    graph.unlink()
    assert len(set(both())) == 1
    manifest = bundle_copy / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": 7}))
    assert len(set(both())) == 1
    manifest.unlink()
    assert len(set(both())) == 1


def test_a_full_disk_and_a_nan_are_one_line(
    dmdkit_run: Path, tiny_bundle: Path, test_samples: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [str(dmdkit_run), str(tiny_bundle), "--graph", "fp32"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "file cannot be written" in done.stderr
    missing = run_tool(dmdkit_run, tiny_bundle, "--graph", "fp32", "--output", "/no/such/folder/x.safetensors")
    assert missing.returncode == 1
    assert "cannot be written" in missing.stderr
    bad = {name: array.copy() for name, array in test_samples.items()}
    bad["audio"][3, 2, 1] = np.nan
    save_file(bad, tmp_path / "bad.safetensors")
    refused = run_tool(dmdkit_run, tiny_bundle, "--graph", "fp32", "--input", tmp_path / "bad.safetensors")
    assert refused.returncode == 1
    assert "input 'audio' holds nan at sample 0, step 2, feature 1" in refused.stderr


def test_a_pipe_or_a_device_is_no_file_to_write_to(dmdkit_run: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused = run_tool(dmdkit_run, tiny_bundle, "--graph", "fp32", "--output", tmp_path / "pipe")
    assert refused.returncode == 1
    assert "cannot be written; choose a file" in refused.stderr
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_beside_the_output_is_kept(dmdkit_run: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "answers.tmp").write_text("mine")
    done = run_tool(dmdkit_run, tiny_bundle, "--graph", "fp32", "--output", tmp_path / "answers")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "answers.tmp").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers", "answers.tmp"]
    (tmp_path / "new").touch()
    assert (tmp_path / "answers").stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--threads", 2000), "--threads 2000: expected at most 1024"),
        (("--every-graph",), "--every-graph needs --self-check"),
        (("--affinity", "x"), "--affinity x: expected processors of each worker thread, like 1;2 or 1,2;3-4"),
        (("--threads", 3, "--affinity", "1;"), "--affinity 1;: expected processors"),
        (("--affinity", "1"), "expected a group of processors for each thread but the first, 0 with --threads 1, found 1"),
        (("--threads", 3, "--affinity", "1,2"), "2 with --threads 3, found 1"),
    ],
)
def test_what_an_option_cannot_do_is_refused(
    options: tuple[object, ...], words: str, dmdkit_run: Path, tiny_bundle: Path
) -> None:
    refused = run_tool(dmdkit_run, tiny_bundle, "--graph", "fp32", *options)
    assert refused.returncode == 1
    assert words in refused.stderr
    assert refused.stdout == ""


def test_thread_options_reach_onnxruntime(dmdkit_run: Path, tiny_bundle: Path, samples_file: Path) -> None:
    given = (tiny_bundle, "--graph", "fp32", "--input", samples_file)
    plain = json.loads(run_tool(dmdkit_run, *given).stdout)["score"]["values"]
    for options in (
        ("--threads", 2, "--spin", "no"),
        ("--threads", 2, "--spin", "yes", "--affinity", "1"),
        ("--provider-option", "session.intra_op.allow_spinning=0"),
    ):
        done = run_tool(dmdkit_run, *given, *options)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(json.loads(done.stdout)["score"]["values"], plain, atol=1e-6)
    for options, words in (
        (("--threads", 2, "--affinity", "moon"), "--affinity moon: expected processors of each worker thread"),
        (("--spin", "maybe"), "--spin maybe: expected yes or no"),
        (("--provider-option", "x"), "--provider-option x: expected KEY=VALUE"),
        (("--device", "cuda", "--provider-option", "device_id=0"), "device='cuda': this ONNX Runtime has only cpu"),
    ):
        refused = run_tool(dmdkit_run, *given, *options)
        assert refused.returncode == 1
        assert words in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_examples_run(dmdkit_run: Path, tiny_bundle: Path, test_samples: dict[str, np.ndarray], tmp_path: Path) -> None:
    recording = tmp_path / "recording.f32"
    np.concatenate([test_samples[n].reshape(60, -1) for n in ("text", "audio", "vision")], axis=1).tofile(recording)
    with Runtime.open(tiny_bundle, graph="fp32") as runtime:
        passed = any(g.verdict.status == "passed" for g in runtime.manifest.graphs.values() if g.kind == "fusion")
    if not passed:
        pytest.skip("no graph of the tiny bundle passed parity, and the examples open only such")
    loop = run_tool(dmdkit_run.parent / "control_loop", tiny_bundle, recording, 20)
    assert loop.returncode == 0, loop.stderr
    assert "20 periods" in loop.stdout
    (tmp_path / "short.f32").write_bytes(bytes(4))
    for nothing in (tmp_path, tmp_path / "short.f32", tmp_path / "none", Path("/dev/zero")):
        refused = run_tool(dmdkit_run.parent / "control_loop", tiny_bundle, nothing, 20)
        assert refused.returncode == 1
        assert "holds no whole sample" in refused.stderr
    for example in ("predict_once", "predict_once_c"):
        done = run_tool(dmdkit_run.parent / example, tiny_bundle)
        assert done.returncode == 0, done.stderr
        assert "score" in done.stdout


def test_the_control_loop_stops_gracefully(dmdkit_run: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    import signal
    import time

    recording = tmp_path / "recording.f32"
    np.full(6 * (7 + 4 + 5) * 3, 0.1, np.float32).tofile(recording)
    loop = subprocess.Popen(
        [str(dmdkit_run.parent / "control_loop"), str(tiny_bundle), str(recording)], stdout=subprocess.PIPE, text=True
    )
    time.sleep(1.0)
    loop.send_signal(signal.SIGINT)
    out, _ = loop.communicate(timeout=20)
    assert loop.returncode == 0
    assert "stopped by signal" in out
