"""An epoch on real steps with length buckets, beside one without: ``python -m benchmarks.length_buckets FILE``.

FILE is a feature file with transcripts; their numbers of words are the samples' lengths. Features are random, of the published
word-aligned MOSI sizes: 50 steps, of which a sample has as many as words, at least the 5 that its kernel needs. One thread,
epochs in turn, CPU time.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np


def main(arguments: list[str] | None = None) -> int:
    """Prints the CPU time of both and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.length_buckets", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the benchmark itself")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    from torch import Tensor

    from benchmarks.models import mosi_shape
    from dmdkit.config import ModelConfig, RunConfig, TrainingConfig
    from dmdkit.data import Dataset, Split, load_dataset
    from dmdkit.model import LossTerms, loss_terms, total_loss
    from dmdkit.training import batches, trainer
    from dmdkit.training.progress import SilentProgress
    from dmdkit.training.run import RunFacts

    torch.set_num_threads(1)
    transcripts = load_dataset(options.data).splits["train"].raw_text
    if transcripts is None:
        parser.error(f"{options.data} has no transcripts (raw_text)")
    shape = mosi_shape(tiny=options.tiny)
    generator = np.random.default_rng(0)
    words = np.array([len(text.split()) for text in transcripts])
    steps = np.clip(generator.choice(words, options.samples), shape.kernels.text, shape.lengths.text).astype(np.int64)
    arrays = {}
    for name, width in shape.feature_dims.as_dict().items():
        arrays[name] = generator.normal(size=(options.samples, shape.lengths.text, width)).astype(np.float32)
        arrays[name][np.arange(shape.lengths.text) >= steps[:, None]] = 0.0
    labels = generator.uniform(-3, 3, options.samples).astype(np.float32)
    split = Split(tuple(map(str, range(options.samples))), **arrays, labels=labels, steps=steps)
    sides = dict.fromkeys(arrays, "right")
    dataset = Dataset("random", "0" * 64, "regression", (-3.0, 3.0), None, sides, {"train": split})  # type: ignore[arg-type]
    facts = RunFacts(
        origin="train", shape=shape, task="regression", label_range=(-3.0, 3.0), standardised=False, gd_units=True, steps="real"
    )
    config = RunConfig(
        data={"steps": "real"},  # type: ignore[arg-type]
        model=ModelConfig(**shape.chosen),
        training=TrainingConfig(batch_size=16, accumulate_batches=10, schedule="fixed", epochs=1),
    )

    class Uncut(trainer.LiveTraining):
        """Every batch has the file's number of steps, in any order, as before there were buckets."""

        def _step(self, indices: Tensor, steps: Tensor | None) -> tuple[Tensor, LossTerms]:
            assert steps is not None
            features = {name: tensor[indices] for name, tensor in self.train_data.features.items()}
            out = self.model(**features, steps=steps)
            present = self.system.dmd.present_steps(steps)
            terms = loss_terms(out, self.train_data.labels[indices], self.settings.losses, present=present)
            total = total_loss(terms, self.settings.losses, self.weights)
            self.fabric.backward(total)
            torch.nn.utils.clip_grad_value_(self.system.parameters(), self.settings.clip_value)
            return total, terms

    lives = {"without": Uncut(config, facts, dataset, "cpu"), "with": trainer.LiveTraining(config, facts, dataset, "cpu")}
    taken: dict[str, list[float]] = {name: [] for name in lives}
    for epoch in range(options.rounds + 1):
        for name, live in lives.items():
            begin = time.process_time()
            live.run_epoch(epoch, SilentProgress())
            if epoch:  # the first one only warms up
                taken[name].append(time.process_time() - begin)
    before, after = (float(np.median(taken[name])) for name in lives)
    found = batches.batches_of(options.samples, 16, 0, torch.from_numpy(steps), 10)
    cut = sum(int(steps[batch].max()) * len(batch) for batch in found) / (options.samples * shape.lengths.text)
    mean, most = steps.mean(), shape.lengths.text
    print(f"{options.samples} samples of {mean:.1f} steps in the mean, of {most}; batches keep {cut:.2f} of the steps")
    print(f"epoch without buckets {before:.2f} s CPU, with {after:.2f} s, {after / before:.2f} of it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
