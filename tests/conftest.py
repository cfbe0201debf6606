"""Fixtures shared by all tests; data outside the project is looked for in one place and skipped with a reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# One thread a process, said before numpy and torch start theirs: models here are tiny, and waiting threads burn a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from dmdkit.cli import main
from dmdkit.data import Dataset, Split, write_dataset
from dmdkit.runtime.engines.gpu import NoGpuError, find_gpu
from tests.watch import Watch, compile_shim

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("DMDKIT_SHARED", ROOT.parent / "shared"))


def shared_path(relative: str) -> Path:
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"{relative} is not here (set DMDKIT_SHARED to the folder that holds it)")
    return path


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``gpu`` skip with the reason, where there is none."""
    if item.get_closest_marker("gpu") is not None:
        try:
            find_gpu()
        except NoGpuError as cause:
            pytest.skip(str(cause))


@pytest.fixture(scope="session", autouse=True)
def _no_latencies_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a developer once measured must not decide which graph a test opens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    return shared_path("reference")


@pytest.fixture(scope="session")
def mosi_clean() -> Path:
    return shared_path("data/mosi_clean.pkl")


def tiny_dataset(seed: int = 0, *, train: int = 64, valid: int = 16, test: int = 60) -> Dataset:
    """A learnable set small enough to train in seconds: 6 steps, widths 7, 4, 5, some left padding."""
    generator = np.random.default_rng(seed)
    widths = {"text": 7, "audio": 4, "vision": 5}

    def split(name: str, count: int) -> Split:
        labels = np.round(generator.uniform(-3, 3, count), 1).astype(np.float32)
        arrays = {}
        for modality, width in widths.items():
            array = generator.normal(size=(count, 6, width)).astype(np.float32)
            array[:, :, 0] += labels[:, None]
            array[: count // 4, :2] = 0.0
            arrays[modality] = array
        return Split(tuple(f"{name}-{i}" for i in range(count)), **arrays, labels=labels)

    sizes = {"train": train, "valid": valid, "test": test}
    return Dataset(
        source="tiny",
        sha256="0" * 64,
        task="regression",
        label_range=(-3.0, 3.0),
        num_classes=None,
        padding_side=dict.fromkeys(widths, "left"),
        splits={name: split(name, count) for name, count in sizes.items()},
    )


TINY_SETTINGS = [
    "model.width=8",
    "model.heads=2",
    "model.levels=1",
    "training.epochs=2",
    "training.batch_size=16",
    "training.accumulate_batches=1",
]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set as a file."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.npz"
    write_dataset(tiny_dataset(), path)
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the tiny set; tests must not change it."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    settings = [part for setting in TINY_SETTINGS for part in ("--set", setting)]
    assert main(["train", "--data", str(tiny_data), "--out", str(out), "--device", "cpu", *settings]) == 0
    return out


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of that run with both INT8 forms, parity measured; tests must copy it before changing it.

    Without a search: which layers a CPU computes in integers depends on how fast it was at that moment.
    """
    out = tmp_path_factory.mktemp("bundle") / "tiny.dmd"
    assert main(["export", str(tiny_run), "--int8", "--int8-search", "none", "--out", str(out)]) in (0, 2)
    return out


@pytest.fixture(scope="session")
def searched_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as ``export --int8`` makes it by default, with ranked layers and measured latencies."""
    out = tmp_path_factory.mktemp("searched") / "tiny.dmd"
    assert main(["export", str(tiny_run), "--int8", "--out", str(out)]) in (0, 2)
    return out


@pytest.fixture(scope="session")
def stream_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights with step graphs, parity measured; tests must not change it."""
    from tests.stream_builders import write_stream_bundle

    return write_stream_bundle(tmp_path_factory.mktemp("streams"))


@pytest.fixture(scope="session")
def real_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with real steps and INT8; tests must not change it."""
    from tests.stream_builders import write_real_bundle

    return write_real_bundle(tmp_path_factory.mktemp("real"))


@pytest.fixture
def bundle_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy.dmd"))


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that logs and denies every look-up of a host, to preload."""
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def watch(tmp_path: Path, shim: Path) -> Watch:
    """Other processes, in a home of their own."""
    (tmp_path / "watched/home/cache").mkdir(parents=True)
    return Watch(tmp_path / "watched", shim)


TEXT_SETTINGS = [*TINY_SETTINGS, "text_encoder.max_tokens=8", "text_encoder.learning_rate=1e-3"]


@pytest.fixture(scope="session")
def text_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set with transcripts, and beside it a tiny BERT in the folder ``bert``."""
    pytest.importorskip("transformers", reason="the extra text is not installed")
    from tests.text_builders import text_dataset, write_bert

    folder = tmp_path_factory.mktemp("text")
    write_bert(folder / "bert")
    write_dataset(text_dataset(), folder / "text.npz")
    return folder / "text.npz"


@pytest.fixture(scope="session")
def text_run(text_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a fine-tuned text encoder; tests must not change it."""
    out = tmp_path_factory.mktemp("run") / "words"
    settings = [part for setting in TEXT_SETTINGS for part in ("--set", setting)]
    encoder = ["--text-encoder", str(text_data.parent / "bert")]
    assert main(["train", "--data", str(text_data), "--out", str(out), "--device", "cpu", *encoder, *settings]) == 0
    return out


@pytest.fixture(scope="session")
def text_bundle(text_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of that run with every INT8 form, parity measured; tests must copy it before changing it."""
    out = tmp_path_factory.mktemp("bundle") / "words.dmd"
    assert main(["export", str(text_run), "--int8", "--int8-search", "none", "--out", str(out)]) in (0, 2)
    return out


@pytest.fixture
def text_bundle_copy(text_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the text bundle that a test may damage."""
    return Path(shutil.copytree(text_bundle, tmp_path / "words.dmd"))


@pytest.fixture(scope="session")
def published_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the published code saves it, of a model for the tiny set."""
    import torch

    from dmdkit.config import shape_of
    from dmdkit.model import DmdSystem
    from tests.model.test_published import published_state
    from tests.training.helpers import tiny_config

    torch.manual_seed(0)
    dataset = tiny_dataset()
    shape = shape_of(tiny_config().model, dataset.feature_dims, dataset.lengths, 1)
    path = tmp_path_factory.mktemp("published") / "dmd.pth"
    torch.save(published_state(DmdSystem(shape), prefix=""), path)
    return path


@pytest.fixture(scope="session")
def engine_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle with fp32, fp16 and both INT8 forms; tests must copy it before changing it."""
    out = tmp_path_factory.mktemp("engines") / "tiny.dmd"
    assert main(["export", str(tiny_run), "--int8", "--int8-search", "none", "--fp16", "--out", str(out)]) in (0, 2)
    return out


@pytest.fixture(scope="session")
def text_engine_bundle(text_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a text encoder; tests must copy it before changing it."""
    out = tmp_path_factory.mktemp("engines") / "words.dmd"
    assert main(["export", str(text_run), "--int8", "--int8-search", "none", "--fp16", "--out", str(out)]) in (0, 2)
    return out


@pytest.fixture
def text_engine_copy(text_engine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with an engine cache of its own."""
    monkeypatch.setenv("DMDKIT_CACHE", os.fspath(tmp_path / "cache"))
    return Path(shutil.copytree(text_engine_bundle, tmp_path / "words.dmd"))


@pytest.fixture
def engine_copy(engine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundle without one, with an engine cache of its own."""
    monkeypatch.setenv("DMDKIT_CACHE", os.fspath(tmp_path / "cache"))
    return Path(shutil.copytree(engine_bundle, tmp_path / "engines.dmd"))
