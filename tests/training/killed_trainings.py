"""Trains once for every moment below and kills that training there with SIGKILL; the tests run it in a process.

``python -m tests.training.killed_trainings DATA OUT`` writes OUT/<moment>/, each as a power cut would leave it.
Children are forked before anything is computed, so the imports are paid for once.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dmdkit.cli import main
from dmdkit.files import write_json
from dmdkit.training import checkpoint, finishing, run_directory, trainer

SETTINGS = [
    "model.width=8",
    "model.heads=2",
    "model.levels=1",
    "training.epochs=3",
    "training.accumulate_batches=2",
    "training.learning_rate=0.01",
    "training.modality_dropout=0.2",
]


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner: Any, name: str, number: int, instead: Callable[..., Any] = die) -> Callable[[], None]:
    """Puts ``instead`` in the place of the ``number``-th call (from 1) of ``owner.name``."""

    def arm() -> None:
        original, calls = getattr(owner, name), [0]

        def counted(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            return (instead if calls[0] == number else original)(*arguments, **options)

        setattr(owner, name, counted)

    return arm


def die_half_way_through_saving(values: Any, path: Path) -> None:
    """Leaves half a checkpoint under its temporary name."""
    REAL_SAVE(values, path)
    os.truncate(path, path.stat().st_size // 2)
    die()


def die_once_written(*arguments: Any, **options: Any) -> None:
    write_json(*arguments, **options)
    die()


REAL_SAVE = torch.save
BATCHES = 4  # 64 samples of the tiny set by 16

MOMENTS: dict[str, Callable[[], None]] = {
    "before-facts": at_call(run_directory, "write_json", 1),
    "first-epoch": at_call(trainer.LiveTraining, "_step", 2),
    "saving-first-checkpoint": at_call(torch, "save", 1, die_half_way_through_saving),
    "after-first-checkpoint": at_call(trainer, "write_text", 1),
    "mid-epoch": at_call(trainer.LiveTraining, "_step", BATCHES + 2),
    "validating": at_call(trainer.LiveTraining, "validate", 2),
    "saving-checkpoint": at_call(torch, "save", 2, die_half_way_through_saving),
    "after-last-checkpoint": at_call(trainer, "write_text", 3),
    "before-metrics": at_call(finishing, "write_json", 1),
    "before-weights": at_call(finishing, "write_json", 1, die_once_written),
}


FOLDS_MOMENT = "second-fold"
FOLDS_FLAGS = ["--folds", "3"]
MOMENTS_OF_FOLDS = {FOLDS_MOMENT: at_call(trainer, "LiveTraining", 3)}  # one for all samples, one for each fold

FLAGS = [part for setting in SETTINGS for part in ("--set", setting)]


def train_and_die(moment: str, data: str, out: Path) -> int:
    child = os.fork()
    if child == 0:
        {**MOMENTS, **MOMENTS_OF_FOLDS}[moment]()
        folds = FOLDS_FLAGS if moment in MOMENTS_OF_FOLDS else []
        os._exit(main(["train", "--data", data, "--out", str(out), "--device", "cpu", *FLAGS, *folds]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at_random(data: str, folder: Path, kills: int, seed: int) -> None:
    """Trains into ``folder``/0, 1, ... in processes killed at random moments, each training resumed until it is finished.

    A training that was done before its kill came is followed by another, so that there are ``kills`` kills on any machine.
    """
    chance, done, number, longest = random.Random(seed), 0, 0, 0.0
    while done < kills or not (folder / str(number) / "model.safetensors").is_file():
        out, begin, child = folder / str(number), time.monotonic(), os.fork()
        if child == 0:
            command = ["--resume"] if (out / "config.yaml").is_file() else ["--data", data, *FLAGS, "--force"]
            os._exit(main(["train", "--out", str(out), "--device", "cpu", *command]))
        if done < kills:
            if longest:
                time.sleep(chance.uniform(0, longest))
            while not longest and not (out / "last.ckpt").is_file():  # the first one shows how long an epoch takes
                time.sleep(0.01)
            longest = longest or time.monotonic() - begin
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), f"{out}: exit {status}"
        done += status != 0
        if status == 0 and done < kills:
            number, longest = number + 1, longest / 2


if __name__ == "__main__":
    assert checkpoint.torch is torch
    if len(sys.argv) > 3:
        killed_at_random(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        sys.exit()
    for name in (*MOMENTS, *MOMENTS_OF_FOLDS):
        assert train_and_die(name, sys.argv[1], Path(sys.argv[2]) / name) == -signal.SIGKILL, name
