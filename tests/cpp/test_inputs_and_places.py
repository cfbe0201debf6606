"""dmdkit-run given what it does not read, and the library in a process whose locale writes 1,5 for 1.5."""

from __future__ import annotations

import locale
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cpp.test_parity import run_tool
from tests.cpp.test_readers_agree import Library, Options
from tests.runtime.builders import edit_manifest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"text": np.zeros((2, 6, 7), np.float64)}, "array 'text' is not float32; dmdkit-run takes features"),
        ({"text": np.zeros((2, 6, 7), np.float16)}, "text'.dtype: expected one of F32, I64, F64, found 'F16'"),
        ({"text": np.zeros((0, 6, 7), np.float32)}, "input 'text' holds no samples"),
        ({"text_bert": np.ones((2, 3, 6), np.int64)}, "array 'text_bert' is not float32"),
        ({"input_ids": np.ones((2, 6), np.int64), "attention_mask": np.ones((2, 6), np.int64)}, "array 'input_ids' is not"),
    ],
    ids=["double", "half", "empty", "tokens-of-a-data-set", "tokens"],
)
def test_text_that_is_no_features_does_not_pass_for_absent(
    native_bin: Path,
    bundle_copy: Path,
    test_samples: dict[str, np.ndarray],
    tmp_path: Path,
    arrays: dict[str, np.ndarray],
    words: str,
) -> None:
    def may_be_absent(values: dict) -> None:
        values["inputs"]["text"]["trained_absent"] = True

    edit_manifest(bundle_copy, may_be_absent)
    others = {name: test_samples[name][:2] for name in ("audio", "vision")}
    given = (native_bin / "dmdkit-run", bundle_copy, "--graph", "fp32", "--input", tmp_path / "in.safetensors")
    for prefix in ("", "test_"):
        save_file({prefix + name: array for name, array in {**others, **arrays}.items()}, tmp_path / "in.safetensors")
        done = run_tool(*given, *(("--split", "test") if prefix else ()))
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
    save_file(others, tmp_path / "in.safetensors")
    assert run_tool(*given).returncode == 0, "really absent, as trained"
    features = {**others, "text": test_samples["text"][:2]}
    save_file({**features, "text_bert": np.ones((2, 3, 6), np.int64)}, tmp_path / "in.safetensors")
    assert run_tool(*given).returncode == 0, "tokens beside features are what a data set has"


def test_a_refusal_counts_samples_from_the_start_of_the_file(
    native_bin: Path, tiny_bundle: Path, test_samples: dict[str, np.ndarray], tmp_path: Path
) -> None:
    bad = {name: array.copy() for name, array in test_samples.items()}
    bad["audio"][5, 2, 1] = np.nan
    save_file(bad, tmp_path / "bad.safetensors")
    given = (native_bin / "dmdkit-run", tiny_bundle, "--graph", "fp32", "--input", tmp_path / "bad.safetensors")
    for batch, words in (
        (1, "samples 5 to 5: input 'audio' holds nan at sample 0"),
        (4, "samples 4 to 7: input 'audio' holds"),
    ):
        assert words in run_tool(*given, "--batch", batch).stderr


def test_numbers_are_read_under_a_decimal_comma(
    native_bin: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("localedef") is None:
        pytest.skip("localedef is not installed")
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("the locale de_DE cannot be made here")
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    library = Library(native_bin)
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, "de_DE.UTF-8")
        assert locale.localeconv()["decimal_point"] == ","
        # Ranges and tolerances of the manifest are fractions; the check passes only if they keep their values.
        assert library.self_check(tiny_bundle, Options.of(graph=b"fp32")) == (0, True)
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)
