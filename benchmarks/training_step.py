"""A training step against the published loop, interleaved in one process, in CPU time: ``python -m benchmarks.training_step``.

The step is forward, loss, backward, clipping and Adam on one batch of 16 with the recipe's dropout; the published loop is
benchmarks/published_loop.py. One thread. The ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.published_loop import PublishedModel, published_step
from dmdkit.config import load_run_config, recipe_path, shape_of
from dmdkit.model import DmdSystem, loss_terms, total_loss

MODALITIES = ("text", "audio", "vision")
SIZES = {
    "MOSI aligned": ("mosi-aligned", (50, 50, 50), (768, 5, 20)),
    "small, 20 steps": ("small", (20, 20, 20), (300, 74, 36)),
    "small, 8 steps": ("small", (8, 8, 8), (100, 73, 100)),
}
BATCH, CLIP = 16, 0.6


def steps_of(recipe: str, lengths: tuple[int, ...], widths: tuple[int, ...]) -> dict[str, Callable[[], None]]:
    """One step of each kind on the same batch, from the same weights."""
    torch.manual_seed(0)
    model = load_run_config(recipe_path(recipe)).model
    sizes = dict(zip(MODALITIES, widths, strict=True)), dict(zip(MODALITIES, lengths, strict=True))
    shape = shape_of(model, *sizes, 1)
    features = {m: torch.randn(BATCH, t, d) for m, t, d in zip(MODALITIES, lengths, widths, strict=True)}
    labels = torch.round(torch.randn(BATCH) * 7.5) / 5

    def ours(precision: str) -> Callable[[], None]:
        system = DmdSystem(shape, model.dropout).train()
        optimizer = torch.optim.AdamW(system.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                out = system(**features)
            total_loss(loss_terms(out, labels, "released"), "released").backward()
            torch.nn.utils.clip_grad_value_(system.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()

        return step

    weights = {n: v.detach().clone().requires_grad_() for n, v in DmdSystem(shape).named_parameters()}
    published = PublishedModel(weights, shape, model.dropout)
    adam = torch.optim.Adam(weights.values(), lr=1e-4)
    return {
        "published loop": lambda: published_step(published, adam, [(features, labels)], CLIP),
        "fp32": ours("fp32"),
        "bf16": ours("bf16"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| sizes | step | CPU time, ms | of the published loop |\n|---|---|---|---|")
    for name in options.sizes:
        steps = steps_of(*SIZES[name])
        spent: dict[str, list[float]] = {kind: [] for kind in steps}
        for number in range(options.rounds + 1):
            for kind, step in steps.items():
                begin = time.process_time()
                step()
                if number:  # the first round warms up
                    spent[kind].append(time.process_time() - begin)
        medians = {kind: statistics.median(values) for kind, values in spent.items()}
        for kind, value in medians.items():
            print(f"| {name} | {kind} | {1000 * value:.0f} | {value / medians['published loop']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
