"""INT8 from the command line: what is said, what is refused, and what ends with exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmdkit.cli import main
from dmdkit.data import Split, write_dataset
from dmdkit.parity.int8_report import INT8_REPORT, read_int8_report
from tests.conftest import tiny_dataset

EXPORT = ["--int8", "--int8-search", "none"]


def file_with(path: Path, change: Callable[[Split], Split], *names: str) -> Path:
    """The tiny set with some splits changed."""
    data = tiny_dataset()
    splits = {name: change(split) if name in names else split for name, split in data.splits.items()}
    write_dataset(replace(data, splits=splits), path)
    return path


def constant(split: Split) -> Split:
    return replace(split, **{name: np.full_like(array, 0.5) for name, array in split.features().items()})


def one_kind(split: Split) -> Split:
    return replace(split, labels=np.abs(split.labels))


def of_another_set(split: Split) -> Split:
    """The widths of the run, from another extractor: smaller numbers round another mean."""
    generator = np.random.default_rng(5)
    arrays = {name: generator.normal(0.2, 0.05, array.shape).astype(np.float32) for name, array in split.features().items()}
    return replace(split, **arrays)


def times_ten(split: Split) -> Split:
    return replace(split, audio=split.audio * 10)


@pytest.mark.parametrize(
    "option", [["--method", "mse"], ["--calib-samples", "64"], ["--int8-search", "none"], ["--int8-search-seconds", "9"]]
)
def test_options_of_int8_without_int8_are_not_silently_ignored(
    option: list[str], tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tiny_run), *option, "--out", str(tmp_path / "a.dmd")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{option[0]}: without --int8 there is nothing to calibrate" in said
    assert not (tmp_path / "a.dmd").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (constant, "is the same in every calibration sample"),
        (one_kind, "no calibration sample is labelled between -3 and -1"),
        (of_another_set, "of the run's training range"),
        (times_ten, "lie outside the run's training range"),
    ],
)
def test_deliberately_bad_calibration_is_refused(
    tiny_run: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Split], Split],
    said: str,
) -> None:
    calib, out = file_with(tmp_path / "bad.npz", change, "train"), tmp_path / "b.dmd"
    command = ["export", str(tiny_run), *EXPORT, "--calib", str(calib), "--parity-data", str(tiny_data), "--out", str(out)]
    assert main(command) == 1
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not out.exists()


def test_bad_calibration_that_nothing_could_know_beforehand_fails_the_verdict(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run without training ranges, as an imported one, calibrated on features twenty times too small."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    facts = json.loads((run / "facts.json").read_text())
    facts["inputs"] = None
    (run / "facts.json").write_text(json.dumps(facts))

    def small(split: Split) -> Split:
        return replace(split, **{name: array * 0.05 for name, array in split.features().items()})

    calib, out = file_with(tmp_path / "small.npz", small, "train", "valid"), tmp_path / "b.dmd"
    command = ["export", str(run), *EXPORT, "--calib", str(calib), "--parity-data", str(tiny_data), "--out", str(out)]
    assert main(command) == 2
    said = capsys.readouterr().out
    assert "fusion.int8-trt: not worth it here: it does not answer like fp32" in said
    report = read_int8_report(out)
    assert report is not None
    assert {t.graph: t.worth_it for t in report.targets}["fusion.int8-trt"] is False


def test_export_ends_with_the_layers_and_a_sentence_per_target(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b.dmd"
    assert main(["export", str(tiny_run), "--int8", "--out", str(out)]) in (0, 2)
    said = capsys.readouterr().out
    assert "error when only this layer is INT8" in said
    assert "tried for int8-trt" in said
    assert "% of the weights stored" in said
    assert "% of the arithmetic computed" in said
    report = read_int8_report(out)
    assert report is not None
    for target in report.targets:
        assert f"{target.graph}: {target.sentence}" in said
    measured = {t.graph: t.latency for t in report.targets}
    assert measured["fusion.int8-cpu"].status == "measured"
    assert measured["fusion.int8-cpu"].rounds > 0
    assert measured["fusion.int8-trt"].status == "simulated"
    assert report.calibration is not None
    assert report.calibration.samples == 64


def test_export_and_check_say_it_in_json_too(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b.dmd"
    assert main(["export", str(tiny_run), *EXPORT, "--out", str(out), "--json"]) in (0, 2)
    exported = json.loads(capsys.readouterr().out)["int8"]
    assert exported["search"] is None
    assert main(["check", str(out), "--data", str(tiny_data), "--json", "--backend", "onnxruntime"]) in (0, 2)
    checked = json.loads(capsys.readouterr().out)["int8"]
    assert [target["graph"] for target in checked] == [target["graph"] for target in exported["targets"]]
    assert all(target["sentence"] for target in checked)
    assert {target["latency"]["status"] for target in checked} == {"simulated", "not measured here"}


def test_a_latency_of_another_machine_no_longer_counts_after_check(
    searched_bundle: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle_copy = Path(shutil.copytree(searched_bundle, tmp_path / "copy.dmd"))
    path = bundle_copy / INT8_REPORT
    report = json.loads(path.read_text())
    for target in report["targets"]:
        if target["latency"]["status"] == "measured":
            target["latency"]["machine"] = {"cpu": "another"}
    path.write_text(json.dumps(report))
    assert main(["check", str(bundle_copy), "--data", str(tiny_data), "--backend", "onnxruntime"]) in (0, 2)
    said = capsys.readouterr().out
    assert "fusion.int8-cpu:" in said
    found = read_int8_report(bundle_copy)
    assert found is not None
    assert all(target.latency.ratio is None for target in found.targets)


def test_a_damaged_report_which_only_advises_does_not_fail_check(
    bundle_copy: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["check", str(bundle_copy), "--data", str(tiny_data), "--backend", "onnxruntime", "--json"]
    code = main(command)
    sound = json.loads(capsys.readouterr().out)
    (bundle_copy / INT8_REPORT).write_text("{}")
    (bundle_copy / "report/report.html").unlink()
    assert main(command) == code
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "int8.json: damaged" in said.err
    assert (found["status"], found["int8"]) == (sound["status"], [])
    assert [hop["status"] for hop in found["hops"]] == [hop["status"] for hop in sound["hops"]]
    assert (bundle_copy / INT8_REPORT).read_text() == "{}"  # not replaced by a guess
    page = (bundle_copy / "report/report.html").read_text()
    assert "report/int8.json is damaged" in page


def test_check_notices_audio_on_another_scale(bundle_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loud = file_with(tmp_path / "loud.npz", times_ten, "test")
    main(["check", str(bundle_copy), "--data", str(loud), "--backend", "onnxruntime"])
    assert "of the audio values lie outside the training range" in capsys.readouterr().out
    main(["check", str(bundle_copy), "--data", str(loud), "--backend", "onnxruntime", "--json"])
    assert set(json.loads(capsys.readouterr().out)["out_of_range"]) == {"audio"}


def test_a_terminal_sees_a_bar_and_a_log_sees_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from dmdkit.cli import console

    for terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(console, "err", Console(file=stream, force_terminal=terminal, width=100))
        with console.counted_steps("exporting") as (on_step, on_progress):
            on_step("int8 sensitivity [red]")
            on_progress(3, 7)
            on_progress(7, 7)
        said = stream.getvalue()
        assert "int8 sensitivity [red]" in said
        assert ("7/7" in said) == terminal


def test_a_search_without_time_says_so_and_still_gives_a_bundle(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dmdkit.calibration.search.planning.DEFAULT_SEARCH_SECONDS", 0.0)
    out = tmp_path / "b.dmd"
    assert main(["export", str(tiny_run), "--int8", "--out", str(out)]) in (0, 2)
    said = capsys.readouterr()
    assert "the INT8 search did not get through" in said.out
    assert "it goes on from there with: dmdkit export RUN --int8 --force --int8-search-seconds MORE" in said.err
    report = read_int8_report(out)
    assert report is not None
    assert report.search is not None
    assert not report.search.complete
    assert all(target.sentence for target in report.targets)
