"""Published checkpoints: names, inferred sizes, and what is refused."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dmdkit.config import ModelShape
from dmdkit.errors import WeightsError
from dmdkit.model import DmdSystem
from dmdkit.model.published import published_key, read_published
from tests.model.test_dmd import shape_of

UNIT = {"logit": "W_logit", "representation": "W_repr", "edge": "W_edge"}
LETTER = {"text": "l", "audio": "a", "vision": "v"}


def published_state(system: DmdSystem, prefix: str = "dmd.") -> dict[str, torch.Tensor]:
    """The system's weights under published names, found by inverting the mapping over all candidate names."""
    candidates: dict[str, str] = {}
    stems = ["proj_{m}", "encoder_s_{m}", "decoder_{m}", "align_c_{m}", "weight_{m}", "self_attentions_c_{m}", "trans_{m}_mem"]
    stems += [f"{stem}_{{m}}_{level}" for stem in ("proj1", "proj2", "out_layer") for level in ("low", "high")]
    names = [stem.format(m=m) for stem in stems for m in "lva"]
    names += [f"trans_{a}_with_{b}" for a in "lva" for b in "lva" if a != b]
    names += ["encoder_c", "proj1_c", "proj2_c", "out_layer_c", "weight_c", "proj1", "proj2", "out_layer"]
    for stem in names:
        ours = published_key(f"{stem}.x")
        assert ours is not None, stem
        candidates[ours.removesuffix(".x")] = stem
    state = {}
    for key, value in system.state_dict().items():
        if "_gd." in key:
            unit, name, kind = key.split(".")
            state[f"{unit}.{UNIT[name]}.{kind}"] = value
            continue
        stem = next(s for s in sorted(candidates, key=len, reverse=True) if key.startswith(f"{s}."))
        state[prefix + candidates[stem] + key[len(stem) :]] = value
    return state


@pytest.fixture
def shape() -> ModelShape:
    return shape_of(width=6, heads=3, levels=2, lengths=(7, 8, 9), kernels=(2, 1, 3))


@pytest.mark.parametrize("prefix", ["dmd.", ""])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_all_sizes_come_from_the_tensors_and_weights_arrive_unchanged(
    shape: ModelShape, tmp_path: Path, prefix: str, suffix: str
) -> None:
    system = DmdSystem(shape)
    state = published_state(system, prefix)
    state[f"{prefix}proj_cosine_l.weight"] = torch.zeros(6, 36)
    state[f"{prefix}trans_l_mem.version"] = torch.zeros(1)
    state[f"{prefix}trans_l_mem.embed_positions._float_tensor"] = torch.zeros(1)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    published = read_published(path, heads=3)
    assert published.shape == shape
    assert published.has_gd_units
    assert len(published.ignored) == 3
    for key, value in system.state_dict().items():
        assert torch.equal(published.state[key], value), key


def test_a_checkpoint_without_gd_units_is_the_usual_case(shape: ModelShape, tmp_path: Path) -> None:
    state = {k: v for k, v in published_state(DmdSystem(shape), "").items() if "_gd." not in k}
    torch.save(state, tmp_path / "w.pth")
    assert not read_published(tmp_path / "w.pth", heads=3).has_gd_units


def test_missing_unexpected_and_misshapen_keys_are_listed_in_one_error(shape: ModelShape, tmp_path: Path) -> None:
    state = published_state(DmdSystem(shape))
    del state["dmd.proj1.bias"]
    state["dmd.surprise.weight"] = torch.zeros(2)
    state["dmd.out_layer_c.bias"] = torch.zeros(9)
    state["dmd.weight_l.bias"] = torch.full_like(state["dmd.weight_l.bias"], float("nan"))
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        read_published(tmp_path / "w.pth", heads=3)
    message = str(caught.value)
    for part in (
        "unexpected: dmd.surprise.weight",
        "missing: dmd.readout.proj1.bias",
        "misshapen: dmd.out_layer_c.bias is (9,), expected (1,)",
        "not finite: dmd.weight_l.bias",
    ):
        assert part in message


def test_heads_that_do_not_divide_the_width_are_refused(shape: ModelShape, tmp_path: Path) -> None:
    torch.save(published_state(DmdSystem(shape)), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="--heads 4 must divide the width 6"):
        read_published(tmp_path / "w.pth", heads=4)


def test_a_text_encoder_is_never_dropped_silently(shape: ModelShape, tmp_path: Path) -> None:
    state = published_state(DmdSystem(shape), "")
    state["text_model.model.embeddings.word_embeddings.weight"] = torch.zeros(3, 2)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="--drop-text-encoder"):
        read_published(tmp_path / "w.pth", heads=3)
    assert read_published(tmp_path / "w.pth", heads=3, drop_text_encoder=True).shape == shape


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/dmdkit-was-executed"),))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"\x00\x01random bytes that are no checkpoint", "not a checkpoint"),
        (pickle.dumps({"a": Evil()}), "not a checkpoint"),
    ],
)
def test_damaged_and_hostile_checkpoints_are_one_error_and_run_nothing(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "w.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        read_published(path, heads=3)
    assert not Path("/tmp/dmdkit-was-executed").exists()


def test_a_truncated_safetensors_file_is_one_error(shape: ModelShape, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({k: v.contiguous() for k, v in published_state(DmdSystem(shape)).items()}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        read_published(path, heads=3)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3, 3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="not a DMD checkpoint"):
        read_published(tmp_path / "w.pth", heads=1)
