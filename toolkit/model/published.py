"""Published checkpoints: their key names, what they leave out, and the sizes their tensors imply (docs/model.md section 9)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from dmdkit.config import ModelShape, validated
from dmdkit.errors import ConfigError, WeightsError
from dmdkit.model.system import DmdSystem

__all__ = ["PublishedWeights", "published_key", "read_published", "read_tensors"]

_MODALITY = {"l": "text", "v": "vision", "a": "audio"}
_LEVEL = {"low": "homo_head", "high": "hetero_head"}
_BLOCK_IGNORED = re.compile(r"\.(version|embed_positions\._float_tensor)$")
# The cosine projection enters no loss and no output.
_IGNORED = re.compile(r"^proj_cosine_[lva]\.(weight|bias)$")
_TEXT_ENCODER = re.compile(r"^text_model\.")

# One rule per published name; \1, \2 are modality letters or levels, looked up when the rule applies.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^proj_([lva])\.", "dmd.projection.{m1}."),
        (r"^encoder_s_([lva])\.", "dmd.exclusive_encoder.{m1}."),
        (r"^encoder_c\.", "dmd.common_encoder."),
        (r"^decoder_([lva])\.", "dmd.decoder.{m1}."),
        (r"^align_c_([lva])\.", "dmd.align.{m1}."),
        (r"^proj([12])_([lva])_(low|high)\.", "dmd.{level3}.{m2}.proj{g1}."),
        (r"^out_layer_([lva])_(low|high)\.", "dmd.{level2}.{m1}.out."),
        (r"^proj([12])_c\.", "dmd.common_head.proj{g1}."),
        (r"^out_layer_c\.", "dmd.common_head.out."),
        (r"^weight_([lva])\.", "dmd.gate.{m1}."),
        (r"^weight_c\.", "dmd.common_gate."),
        (r"^proj([12])\.", "dmd.readout.proj{g1}."),
        (r"^out_layer\.", "dmd.readout.out."),
        (r"^self_attentions_c_([lva])\.", "dmd.self_block.{m1}."),
        (r"^trans_([lva])_with_([lva])\.", "dmd.cross_block.{m1}.{m2}."),
        (r"^trans_([lva])_mem\.", "dmd.memory_block.{m1}."),
    )
)
_UNIT_NAMES = {"W_logit": "logit", "W_repr": "representation", "W_edge": "edge"}


@dataclass(frozen=True)
class PublishedWeights:
    """A checkpoint, understood.

    Attributes:
        shape: All sizes, inferred from the tensors (the heads come from the user).
        state: A complete state dictionary for ``DmdSystem(shape, gd_units=has_gd_units)``.
        has_gd_units: Whether the checkpoint held both units.
        ignored: Keys that were left out on purpose.
        text_encoder: The checkpoint's BERT, under the published names; empty where it has none or it was left out.
    """

    shape: ModelShape
    state: dict[str, Tensor]
    has_gd_units: bool
    ignored: tuple[str, ...]
    text_encoder: dict[str, Tensor]


def published_key(key: str) -> str | None:
    """Our name of a published tensor (bare, or under ``dmd.``, ``homo_gd.``, ``hetero_gd.``); None if it has none."""
    unit = re.match(r"^(homo_gd|hetero_gd)\.(W_\w+)\.(weight|bias)$", key)
    if unit:
        return f"{unit[1]}.{_UNIT_NAMES[unit[2]]}.{unit[3]}" if unit[2] in _UNIT_NAMES else None
    bare = key.removeprefix("dmd.")
    for pattern, ours in _RULES:
        if match := pattern.match(bare):
            groups = match.groups()
            names = {f"g{i}": g for i, g in enumerate(groups, 1)}
            names |= {f"m{i}": _MODALITY.get(g, g) for i, g in enumerate(groups, 1)}
            names |= {f"level{i}": _LEVEL.get(g, g) for i, g in enumerate(groups, 1)}
            return ours.format(**names) + bare[match.end() :]
    return None


def _refused_object(message: str) -> str | None:
    """Why ``torch.load`` refused to make an object, without its advice to load it nevertheless; None for another error."""
    if "weights_only" not in message and "Weights only load failed" not in message:
        return None
    found = re.search(r"(?:GLOBAL|Unsupported (?:global|class|operand)):? (?:GLOBAL )?([\w.]+)", message)
    name = f" ({found[1]})" if found else ""
    return f"it holds something other than tensors{name}, which is never loaded, because loading it could run code"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.pth`` (loaded with ``weights_only=True``) or safetensors file; nothing in it is executed.

    Raises:
        WeightsError: Missing, damaged, or not a plain dictionary of tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path}: the file is empty")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as cause:
            raise WeightsError(f"{path}: not a readable safetensors file: {cause}") from cause
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # torch raises many kinds here, all of them meaning the file is not what it should be
        reason = _refused_object(str(cause)) or (str(cause).splitlines()[0] if str(cause) else type(cause).__name__)
        raise WeightsError(
            f"{path}: not a checkpoint of plain tensors (a state_dict saved with torch.save): {reason:.200}"
        ) from cause
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
        raise WeightsError(f"{path}: expected a state_dict (names to tensors), found {type(loaded).__name__}")
    return dict(loaded)


def _infer_shape(tensors: Mapping[str, Tensor], heads: int, path: Path) -> ModelShape:
    """Sizes from tensor shapes; raises when a tensor they are read from is absent or of the wrong rank."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in tensors:
            raise WeightsError(f"{path}: {name} is missing, so this is not a DMD checkpoint (keys may be bare or under 'dmd.')")
        found = tuple(tensors[name].shape)
        if len(found) != rank or 0 in found:
            raise WeightsError(f"{path}: {name} has shape {found}, expected {rank} dimensions, none of them 0")
        return found

    projections = {m: shape(f"dmd.projection.{m}.weight", 3) for m in ("text", "audio", "vision")}
    width = projections["text"][0]
    kernels = {m: found[2] for m, found in projections.items()}
    lengths = {m: shape(f"dmd.align.{m}.weight", 2)[1] // width + kernels[m] - 1 for m in projections}
    levels = len({key.split(".")[4] for key in tensors if key.startswith("dmd.self_block.text.layers.")})
    if levels == 0:
        raise WeightsError(f"{path}: self_attentions_c_l has no layers, so this is not a DMD checkpoint")
    values = {
        "feature_dims": {m: found[1] for m, found in projections.items()},
        "lengths": lengths,
        "kernels": kernels,
        "width": width,
        "heads": heads,
        "levels": levels,
        "num_outputs": shape("dmd.readout.out.weight", 2)[0],
    }
    for name, key in (("gd_homo_width", "homo_gd.logit.weight"), ("gd_hetero_width", "hetero_gd.logit.weight")):
        if key in tensors:
            values[name] = shape(key, 2)[0]
    try:
        return validated(ModelShape, values, "sizes read from the tensors")
    except (ConfigError, ValidationError) as cause:
        hint = f"; --heads {heads} must divide the width {width}" if width % heads else ""
        raise WeightsError(f"{path}: {cause}{hint}") from cause


def read_published(
    path: Path, heads: int, *, drop_text_encoder: bool = False, keep_text_encoder: bool = False
) -> PublishedWeights:
    """Reads a published checkpoint and infers everything but the number of heads, which no tensor shows.

    Args:
        path: ``.pth`` or ``.safetensors``; keys bare or under ``dmd.``, ``homo_gd.``, ``hetero_gd.``.
        heads: H.
        drop_text_encoder: Whether ``text_model.*`` may be left out (the bundle then takes its features as input).
        keep_text_encoder: Whether ``text_model.*`` is wanted; what it computes is not in the checkpoint.

    Raises:
        WeightsError: One message listing every missing, unexpected and misshapen key.
    """
    raw = read_tensors(path)
    tensors: dict[str, Tensor] = {}
    ignored, unexpected, encoder = [], [], []
    for key, tensor in raw.items():
        bare = key.removeprefix("dmd.")
        if _TEXT_ENCODER.match(bare):
            encoder.append(key)
        elif _IGNORED.match(bare) or _BLOCK_IGNORED.search(bare):
            ignored.append(key)
        elif (ours := published_key(key)) is None:
            unexpected.append(key)
        elif ours in tensors:
            unexpected.append(f"{key} (twice, with and without its prefix)")
        else:
            tensors[ours] = tensor.to(torch.float32)
    if encoder and not (drop_text_encoder or keep_text_encoder):
        raise WeightsError(
            f"{path}: holds a text encoder ({len(encoder)} tensors under text_model.); pass --text-encoder DIR, the directory "
            "of the BERT it was made from, for its config.json and tokenizer, or --drop-text-encoder to import the rest and "
            "feed it that encoder's last hidden states"
        )
    if keep_text_encoder and not encoder:
        raise WeightsError(f"{path}: --text-encoder: the checkpoint holds no text encoder (nothing under text_model.)")
    shape = _infer_shape(tensors, heads, path)
    has_gd_units = any(key.startswith(("homo_gd.", "hetero_gd.")) for key in tensors)
    with torch.device("meta"):
        expected = DmdSystem(shape, gd_units=has_gd_units).state_dict()
    names = {ours: key for key in raw if (ours := published_key(key))}
    problems = [f"unexpected: {key}" for key in sorted(unexpected)]
    problems += [f"unexpected: {names[key]}" for key in sorted(tensors.keys() - expected.keys())]
    problems += [f"missing: {key}" for key in sorted(expected.keys() - tensors.keys())]
    problems += [
        f"misshapen: {names[key]} is {tuple(tensors[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & tensors.keys())
        if tensors[key].shape != expected[key].shape
    ]
    problems += [
        f"not finite: {names[key]}"
        for key in sorted(expected.keys() & tensors.keys())
        if not torch.isfinite(tensors[key]).all()
    ]
    if problems:
        raise WeightsError(
            f"{path}: {len(problems)} keys do not fit a DMD model of {shape.width} channels: " + "; ".join(problems)
        )
    kept = {key.removeprefix("dmd."): raw[key] for key in encoder} if keep_text_encoder else {}
    return PublishedWeights(shape, tensors, has_gd_units, tuple(ignored if kept else ignored + encoder), kept)
