"""Files of a bundle are read only when they are what was exported."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load, save

from dmdkit.errors import BundleError
from dmdkit.runtime import Runtime
from dmdkit.runtime.backends.registry import installed_backends
from dmdkit.runtime.bundle import Bundle, Golden
from dmdkit.runtime.open_graph import open_runner
from tests.runtime.builders import put_file

GOLDEN = "golden/golden.safetensors"


def test_every_listed_file_of_a_fresh_bundle_is_verified(tiny_bundle: Path):
    bundle = Bundle.open(tiny_bundle)
    bundle.verify()
    on_disk = {str(path.relative_to(tiny_bundle)) for path in tiny_bundle.rglob("*") if path.is_file()}
    unlisted = on_disk - set(bundle.manifest.files)
    assert {"manifest.json", "report/parity.json"} <= unlisted
    assert {name for name in unlisted if not name.startswith("report/")} == {"manifest.json"}


@pytest.mark.parametrize("name", ["graphs/fusion.fp32.onnx", "graphs/explain.int8-trt.onnx", GOLDEN])
class TestDamage:
    """A file that is not what was exported stops the opening, whether or not this run would have used it."""

    def message(self, bundle: Path) -> str:
        with pytest.raises(BundleError) as caught:
            Runtime.open(bundle)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_missing_file_is_named(self, bundle_copy: Path, name: str):
        (bundle_copy / name).unlink()
        assert f"{name} is missing" in self.message(bundle_copy)

    def test_a_truncated_file_is_named_with_both_sizes(self, bundle_copy: Path, name: str):
        path = bundle_copy / name
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-1])
        assert f"{name} has {size - 1} bytes, the manifest says {size}" in self.message(bundle_copy)

    def test_one_flipped_bit_is_noticed(self, bundle_copy: Path, name: str):
        path = bundle_copy / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert f"{name} is not the file that was exported" in self.message(bundle_copy)

    def test_a_directory_in_its_place_is_refused(self, bundle_copy: Path, name: str):
        (bundle_copy / name).unlink()
        (bundle_copy / name).mkdir()
        assert f"{name} is not a file of the bundle" in self.message(bundle_copy)

    def test_a_link_out_of_the_bundle_is_refused_even_to_the_same_content(self, bundle_copy: Path, name: str, tmp_path: Path):
        shutil.move(bundle_copy / name, tmp_path / "elsewhere")
        (bundle_copy / name).symlink_to(tmp_path / "elsewhere")
        assert "a link that leaves it" in self.message(bundle_copy)

    def test_a_link_to_nothing_or_to_itself_is_refused(self, bundle_copy: Path, name: str):
        (bundle_copy / name).unlink()
        (bundle_copy / name).symlink_to(bundle_copy / "nothing")
        self.message(bundle_copy)
        (bundle_copy / name).unlink()
        (bundle_copy / name).symlink_to(bundle_copy / name)
        self.message(bundle_copy)


def test_a_linked_directory_that_leaves_the_bundle_is_refused(bundle_copy: Path, tmp_path: Path):
    shutil.move(bundle_copy / "graphs", tmp_path / "graphs")
    (bundle_copy / "graphs").symlink_to(tmp_path / "graphs")
    with pytest.raises(BundleError, match="a link that leaves it"):
        Bundle.open(bundle_copy)


def test_links_inside_the_bundle_and_to_the_bundle_are_fine(bundle_copy: Path, tmp_path: Path):
    (bundle_copy / GOLDEN).rename(bundle_copy / "golden" / "really")
    (bundle_copy / GOLDEN).symlink_to("really")
    (tmp_path / "link.dmd").symlink_to(bundle_copy)
    Bundle.open(tmp_path / "link.dmd").verify()


def test_a_file_that_changes_after_opening_is_noticed_when_read(bundle_copy: Path):
    bundle = Bundle.open(bundle_copy)
    path = bundle_copy / GOLDEN
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(BundleError, match="SHA-256 differs"):
        bundle.golden()
    path.unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.golden()


def test_an_unknown_graph_is_an_error_that_lists_the_known_ones(tiny_bundle: Path):
    with pytest.raises(BundleError, match=r"no graph 'fusion.fp8'; it has fusion.fp32"):
        Bundle.open(tiny_bundle).graph("fusion.fp8")


def test_golden_tensors_keep_their_places_through_flat_names():
    one = np.ones((1, 2), np.float32)
    golden = Golden({"text": one}, {"gd_homo": {"logits": one}}, {"score": one}, {"fusion.fp32": {"score": one}})
    again = Golden.from_tensors(golden.tensors())
    assert again.tensors().keys() == golden.tensors().keys()
    assert again.inputs_of("fusion") is again.inputs
    assert again.inputs_of("gd_homo") is again.unit_inputs["gd_homo"]


Tensors = dict[str, np.ndarray]


def without(key: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: array for name, array in tensors.items() if not name.startswith(key)}


def changed(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, key: np.ascontiguousarray(change(tensors[key]))}


GOLDEN_DAMAGE = {
    "no text": without("input/text"),
    "text of another width": changed("input/text", lambda a: a[..., :-1]),
    "text of other steps": changed("input/text", lambda a: a[:, :-1]),
    "a sample too few": changed("input/text", lambda a: a[:-1]),
    "float64": changed("input/audio", lambda a: a.astype(np.float64)),
    "NaN": changed("input/audio", lambda a: a * np.float32("nan")),
    "a scalar": changed("reference/score", lambda a: a[0, 0].reshape(())),
    "recorded of fewer samples": changed("recorded/fusion.fp32/score", lambda a: a[:-1]),
    "NaN recorded": changed("recorded/fusion.fp32/score", lambda a: a * np.float32("nan")),
    "no reference": without("reference/"),
    "nothing recorded of a graph": without("recorded/fusion.int8-cpu"),
    "no inputs of a GD-Unit": without("input/gd_homo"),
    "a name that does not belong": lambda t: {**t, "a/b/c/d": t["reference/score"]},
}


@pytest.mark.parametrize("what", GOLDEN_DAMAGE)
def test_golden_samples_that_do_not_fit_are_one_error(bundle_copy: Path, what: str):
    tensors = GOLDEN_DAMAGE[what](load((bundle_copy / GOLDEN).read_bytes()))
    put_file(bundle_copy, GOLDEN, save(tensors))
    with pytest.raises(BundleError, match=r"golden\.safetensors: damaged"):
        Bundle.open(bundle_copy).golden()
    with Runtime.open(bundle_copy) as runtime, pytest.raises(BundleError, match=r"golden\.safetensors: damaged"):
        runtime.self_check()


BF16_HEADER = b'{"input/text":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 64, len(BF16_HEADER).to_bytes(8, "little") + BF16_HEADER + b"\0\0"])
def test_golden_files_that_are_no_safetensors_are_one_error(bundle_copy: Path, data: bytes):
    put_file(bundle_copy, GOLDEN, data)
    with pytest.raises(BundleError, match=r"golden\.safetensors: damaged"):
        Bundle.open(bundle_copy).golden()


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd"])
def test_a_graph_with_weights_in_another_file_is_refused_by_every_reader(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
):
    """ONNX Runtime would read that from the working directory, and no hash of the bundle covers it."""
    name = "graphs/fusion.fp32.onnx"
    model = onnx.load(bundle_copy / name)
    weights = next(tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 64)
    (tmp_path / "weights.bin").write_bytes(weights.raw_data)
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    weights.ClearField("raw_data")
    put_file(bundle_copy, name, model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="reads weights from a file outside itself"):
        Bundle.open(bundle_copy).read(name)
    for backend in installed_backends():
        with pytest.raises(BundleError, match="reads weights from a file outside itself"):
            open_runner(Bundle.open(bundle_copy), "fusion.fp32", backend=backend)
