"""The model against recordings of the published code."""

from pathlib import Path

import pytest

from tests.conftest import SHARED
from tests.reference_check import check_directory, check_recording

RECORDINGS = sorted((SHARED / "reference").glob("*.weights.safetensors"))


@pytest.mark.skipif(not RECORDINGS, reason="no recordings here (set DMDKIT_SHARED to the folder that holds reference/)")
@pytest.mark.parametrize("weights", RECORDINGS, ids=lambda path: path.name.split(".")[0])
def test_every_recorded_output_loss_edge_and_gradient_is_reproduced(weights: Path) -> None:
    result = check_recording(weights)
    wrong = [(c.name, c.error, c.limit) for c in result.comparisons if c.ratio > 1]
    assert wrong == []
    for prefix in ("out/", "edges/", "loss/", "gradnorm/"):
        assert any(c.name.startswith(prefix) for c in result.comparisons)


@pytest.mark.skipif(len(RECORDINGS) != 4, reason="the four published recordings are not here")
def test_all_four_recordings_are_checked(reference_dir: Path) -> None:
    assert len(check_directory(reference_dir)) == 4


def test_a_folder_without_recordings_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no \*\.weights\.safetensors"):
        check_directory(tmp_path)
