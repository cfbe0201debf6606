"""Checks the model against recordings of the published code: ``python -m tests.reference_check DIR [--json]``.

A recording is a pair ``NAME.weights.safetensors`` and ``NAME.io.npz`` in the layout that the reference README describes.
Every output, loss term, edge and gradient norm is compared; each recording gets one line with its worst error.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from dmdkit.model import GRAPH_ORDER, DmdSystem, loss_terms, total_loss
from dmdkit.model.losses import orthogonality
from dmdkit.model.published import published_key, read_published

VALUE_TOLERANCE = 1e-5
"""Outputs, edges and loss terms, absolute or relative (the recordings' README)."""

GRADIENT_RELATIVE, GRADIENT_ABSOLUTE = 1e-4, 1e-8
GD_BIAS_NOISE = 1e-6
"""Both GD-Units' biases have zero gradient in truth and are recorded as rounding noise (the recordings' README)."""
LETTER = {"text": "l", "vision": "v", "audio": "a"}


@dataclass(frozen=True)
class Comparison:
    name: str
    error: float
    limit: float

    @property
    def ratio(self) -> float:
        return self.error / self.limit


@dataclass(frozen=True)
class RecordingResult:
    recording: str
    comparisons: tuple[Comparison, ...]

    def worst(self, prefix: str) -> Comparison:
        return max((c for c in self.comparisons if c.name.startswith(prefix)), key=lambda c: c.ratio)

    @property
    def passed(self) -> bool:
        return all(c.ratio <= 1 for c in self.comparisons)


def load_recording(weights: Path) -> tuple[DmdSystem, dict[str, np.ndarray]]:
    with safe_open(weights, "numpy") as stream:
        metadata = {key: json.loads(value) if value[0] in "[0123456789" else value for key, value in stream.metadata().items()}
    published = read_published(weights, heads=int(metadata["heads"]))
    system = DmdSystem(published.shape, gd_units=published.has_gd_units)
    system.load_state_dict(published.state)
    io = weights.with_name(weights.name.replace(".weights.safetensors", ".io.npz"))
    with np.load(io) as arrays:
        return system.eval(), {name: arrays[name] for name in arrays.files}


def _value(name: str, ours: torch.Tensor, recorded: np.ndarray) -> Comparison:
    found = ours.detach().numpy().astype(np.float64)
    if found.shape != recorded.shape:
        return Comparison(f"{name} (shape {found.shape}, recorded {recorded.shape})", float("inf"), VALUE_TOLERANCE)
    error = np.abs(found - recorded) / np.maximum(1.0, np.abs(recorded))
    return Comparison(name, float(error.max()), VALUE_TOLERANCE)


def check_recording(weights: Path) -> RecordingResult:
    system, recorded = load_recording(weights)
    text, audio, vision = (torch.from_numpy(recorded[f"in/{m}"]) for m in ("text", "audio", "vision"))
    labels = torch.from_numpy(recorded["in/labels"]).reshape(-1)
    out = system(text, audio, vision)
    model = out.model
    terms = loss_terms(out, labels, "released")
    total = total_loss(terms, "released")
    total.backward()

    found = {"out/output_logit": model.output, "out/logits_c": model.logit_common, "loss/total": total}
    found |= {
        "loss/margin": terms.margin,
        "loss/task/output_logit": terms.task["output"],
        "loss/task/logits_c": terms.task["common"],
    }
    for m in GRAPH_ORDER:
        k = LETTER[m]
        found |= {
            f"out/origin_{k}": model.projected[m].transpose(1, 2),
            f"out/recon_{k}": model.reconstructed[m].transpose(1, 2),
            f"out/s_{k}_r": model.exclusive_cycle[m].transpose(1, 2),
            f"out/s_{k}": model.exclusive[m].transpose(0, 1),
            f"out/c_{k}": model.common[m].transpose(0, 1),
            f"out/c_{k}_sim": model.align[m],
            f"out/last_h_{k}": model.last_hidden[m],
            f"loss/recon/{k}": terms.reconstruction[m],
            f"loss/cycle/{k}": terms.cycle[m],
            f"loss/ort_batch/{k}": terms.orthogonality[m],
            f"loss/ort_feature/{k}": orthogonality(model.exclusive[m], model.common[m], "paper"),
        }
        for space in ("homo", "hetero"):
            found[f"out/logits_{k}_{space}"] = getattr(model, f"logit_{space}")[m]
            found[f"out/repr_{k}_{space}"] = getattr(model, f"repr_{space}")[m]
            found[f"loss/task/logits_{k}_{space}"] = terms.task[f"{space}.{m}"]
    for space in ("homo", "hetero"):
        edges = out.edges_homo if space == "homo" else out.edges_hetero
        if edges is not None:
            found[f"edges/{space}"] = edges.transpose(0, 1)
            found |= {f"loss/{space}_gd/{name}": value for name, value in terms.distillation[space].items()}

    comparisons = [_value(name, value, recorded[name]) for name, value in found.items() if name in recorded]
    # proj_s_m enters no output and no loss; the model does not compute it (docs/model.md section 1).
    unseen = {
        n for n in recorded if n.startswith(("out/", "edges/", "loss/")) and not n.startswith("out/proj_s_")
    } - found.keys()
    comparisons += [Comparison(f"{name} (recorded, not computed)", float("inf"), VALUE_TOLERANCE) for name in sorted(unseen)]

    gradients = {name: parameter.grad for name, parameter in system.named_parameters()}
    for key in recorded:
        if not key.startswith("gradnorm/") or "proj_cosine_" in key:
            continue
        name = published_key(key.removeprefix("gradnorm/"))
        reference = float(recorded[key])
        gradient = gradients[name] if name is not None else None
        norm = 0.0 if gradient is None else float(gradient.double().norm())
        limit = GRADIENT_RELATIVE * reference + GRADIENT_ABSOLUTE
        if "_gd." in key and key.endswith(".bias"):
            # Zero in truth (a constant added to all six edges cancels in the softmax); recorded as rounding noise.
            limit = max(limit, GD_BIAS_NOISE)
        comparisons.append(Comparison(key, abs(norm - reference), limit))
    return RecordingResult(weights.name.removesuffix(".weights.safetensors"), tuple(comparisons))


def check_directory(directory: Path) -> list[RecordingResult]:
    found = sorted(directory.glob("*.weights.safetensors"))
    if not found:
        raise SystemExit(f"{directory}: no *.weights.safetensors here")
    return [check_recording(path) for path in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--all", action="store_true", help="print every comparison that exceeds its limit")
    arguments = parser.parse_args()
    results = check_directory(arguments.directory)
    if arguments.json:
        rows = [
            {
                p.rstrip("/"): {"name": (w := r.worst(p)).name, "error": w.error, "limit": w.limit}
                for p in ("out/", "edges/", "loss/", "gradnorm/")
            }
            | {"recording": r.recording, "compared": len(r.comparisons), "passed": r.passed}
            for r in results
        ]
        print(json.dumps(rows, indent=2))
        return 0 if all(r.passed for r in results) else 2
    for result in results:
        worst = "  ".join(
            f"{p}{w.name.removeprefix(p)} {w.error:.2e}"
            for p in ("out/", "edges/", "loss/", "gradnorm/")
            for w in [result.worst(p)]
        )
        print(
            f"{'passed' if result.passed else 'FAILED'}  {result.recording}: {len(result.comparisons)} compared; worst {worst}"
        )
        if arguments.all:
            for c in result.comparisons:
                if c.ratio > 1:
                    print(f"    {c.name}: {c.error:.3e} > {c.limit:.3e}")
    return 0 if all(r.passed for r in results) else 2


if __name__ == "__main__":
    sys.exit(main())
