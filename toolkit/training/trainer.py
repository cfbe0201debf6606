"""Training as published (docs/model.md section 7), on any device, resumable to the byte.

A text encoder is trained with the model, by the same rule, or was applied to the data before.
Gradients of ``accumulate_batches`` batches are summed, clipped by value after every backward, and an incomplete group
at an epoch's end is dropped, or makes a step of its own where the recipe says so; the learning rate halves and training
stops on the validation loss, or on its mean over some epochs, and the best epoch is kept; or all planned epochs are trained
and the last is kept. Test data chooses nothing.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdkit.config import RunConfig, shape_of
from dmdkit.data.dataset import Dataset, Split
from dmdkit.data.real_steps import with_real_steps
from dmdkit.errors import RunError
from dmdkit.files import locked_directory, write_text
from dmdkit.model import DmdSystem, LossTerms, LossWeights, absence_distance, loss_terms, total_loss
from dmdkit.model.text_encoder import TextEncoder
from dmdkit.training.averaging import WeightAverage
from dmdkit.training.batches import (
    DeviceSplit,
    batches_of,
    check_finite,
    drop_modalities,
    drop_stretches,
    epoch_seed,
    term_names,
    term_values,
)
from dmdkit.training.checkpoint import TrainingState, keep_previous, save_state
from dmdkit.training.devices import fabric_on, readable_memory_errors
from dmdkit.training.encoder_directory import TrainingEncoder, encoded_split, text_facts
from dmdkit.training.evaluation import predict, task_metrics
from dmdkit.training.finishing import finish
from dmdkit.training.folds import cross_validate, pooled, require_samples, with_chosen_epochs
from dmdkit.training.history import csv_text
from dmdkit.training.planning import resolved, schedule_of
from dmdkit.training.progress import Progress, SilentProgress
from dmdkit.training.resuming import left_state
from dmdkit.training.run import CHECKPOINT_FILE, HISTORY_FILE, PREVIOUS_FILE, Run, RunFacts
from dmdkit.training.run_directory import (
    WRITING,
    check_resumable,
    check_target,
    remove_leftovers,
    start_directory,
    take_over,
    write_config,
)
from dmdkit.training.statistics import dropped_share, input_facts, standardisation

__all__ = ["LiveTraining", "Progress", "SilentProgress", "train"]

_ENCODER_PREFIX = "text_encoder."

_READ_EVERY = 16
"""Batches after which an accelerator's losses are read: reading waits for it. A CPU's are read at once."""


class LiveTraining:
    """The live training; ``encoder`` is the text encoder where it is fine-tuned."""

    def __init__(
        self, config: RunConfig, facts: RunFacts, dataset: Dataset, device: str, encoder: TextEncoder | None = None
    ) -> None:
        settings = config.training
        self.config, self.settings, self.facts, self.dataset = config, settings, facts, dataset
        train_split = dataset.splits["train"]
        self.schedule = schedule_of(settings, len(train_split), len(dataset.splits.get("valid", ())))
        self.fabric = fabric_on(device, settings.precision)
        self.reads_every = 1 if self.fabric.device.type == "cpu" else _READ_EVERY
        torch.manual_seed(settings.seed)
        self.system = DmdSystem(facts.shape, config.model.dropout, standardised=facts.standardised, gd_units=facts.gd_units)
        if facts.standardised:
            statistics = standardisation(train_split)
            self.system.dmd.set_statistics(
                {name: (torch.from_numpy(mean), torch.from_numpy(scale)) for name, (mean, scale) in statistics.items()}
            )
        self.parts: dict[str, nn.Module] = {"": self.system}
        groups: list[dict[str, Any]] = [{"params": list(self.system.parameters())}]
        self.encode: nn.Module | None = None
        if encoder is not None:
            assert config.text_encoder is not None
            rate = config.text_encoder.learning_rate or self.schedule.learning_rate
            groups.append({"params": list(encoder.parameters()), "lr": rate})
            self.parts[_ENCODER_PREFIX] = encoder
            self.encode = self.fabric.setup_module(encoder)
        optimizer = torch.optim.AdamW(
            groups,
            lr=self.schedule.learning_rate,
            weight_decay=settings.weight_decay,
            fused=self.fabric.device.type in ("cpu", "cuda"),
        )
        self.model, self.optimizer = self.fabric.setup(self.system, optimizer)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=self.schedule.plateau_patience
        )
        decay = self.schedule.weight_average
        parameters = [parameter for part in self.parts.values() for parameter in part.parameters()]
        self.average = WeightAverage(parameters, decay) if decay else None
        self.train_data = DeviceSplit.of(train_split, self.fabric.device)
        self.weights = LossWeights(settings.distillation_weight, settings.decoupling_weight)
        self.classes = facts.task == "classification"

    def batches_per_epoch(self) -> int:
        """Batches of one pass over the training split; the last may be smaller."""
        return math.ceil(len(self.dataset.splits["train"]) / self.schedule.batch_size)

    def _step(self, indices: Tensor, steps: Tensor | None) -> tuple[Tensor, LossTerms]:
        """One batch, cut to its longest sample where ``steps`` (B,) says how many each has."""
        longest = None if steps is None else int(steps.max())
        steps = None if steps is None else steps.to(self.fabric.device)
        indices = indices.to(self.fabric.device)
        features = {name: tensor[indices, :longest] for name, tensor in self.train_data.features.items()}
        if self.encode is not None:
            assert self.train_data.tokens is not None
            tokens = self.train_data.tokens[indices]
            features["text"] = self.encode(tokens[:, 0], tokens[:, 1])
        left = drop_stretches(features, self.settings.stretch_dropout)
        left, absent = drop_modalities(left, self.settings.modality_dropout, self.settings.most_absent)
        present, heard = (None, {}) if steps is None else (self.system.dmd.present_steps(steps, longest), {"steps": steps})
        out = self.model(**left, **heard)
        labels = self.train_data.labels_of(indices, steps)
        terms = loss_terms(out, labels, self.settings.losses, classes=self.classes, present=present)
        total = total_loss(terms, self.settings.losses, self.weights)
        if absent is not None and self.settings.absence_weight:
            teacher = self._with_everything({**features, **heard})
            total = total + self.settings.absence_weight * absence_distance(out.model.output, teacher, absent)
        self.fabric.backward(total)
        for part in self.parts.values():
            torch.nn.utils.clip_grad_value_(part.parameters(), self.settings.clip_value)
        return total, terms

    @torch.no_grad()
    def _with_everything(self, features: dict[str, Tensor]) -> Tensor:
        """The outputs (B, C) with nothing dropped, neither modalities nor weights of attention: the teacher's."""
        self.model.eval()
        output: Tensor = self.model(**features).model.output
        self.model.train()
        return output

    def run_epoch(self, epoch: int, progress: Progress) -> dict[str, float]:
        """One pass over the training split; returns the mean of each group of loss terms."""
        seed = epoch_seed(self.settings.seed, epoch)
        torch.manual_seed(seed)
        self.model.train()
        if self.encode is not None:
            self.encode.train()
        self.optimizer.zero_grad()
        split = self.dataset.splits["train"]
        steps = self.train_data.drawn_steps(self.settings.random_prefix, self.facts.shape.kernels.text)
        group = min(self.schedule.accumulate_batches, self.batches_per_epoch())
        batches = batches_of(len(split), self.schedule.batch_size, seed, steps, group)
        drops_rest = self.settings.incomplete_group == "drop"
        names: list[str] = []
        waiting: list[Tensor] = []
        seen: list[Tensor] = []
        norms: list[Tensor] = []
        for index, indices in enumerate(batches):
            total, terms = self._step(indices, None if steps is None else steps[indices])
            names = term_names(terms)
            waiting.append(term_values(total, terms))
            ends = index + 1 == len(batches)
            if (index + 1) % group == 0 or (ends and not drops_rest):
                norms.append(self._gradient_norm())
                self.optimizer.step()
                self.optimizer.zero_grad()
                if self.average is not None:
                    self.average.step()
            if ends or len(waiting) == self.reads_every:
                for number, values in enumerate(torch.stack(waiting).cpu(), start=index + 1 - len(waiting)):
                    ids = [split.ids[int(i)] for i in batches[number]]
                    step = epoch * (len(batches) // group if drops_rest else -(-len(batches) // group)) + number // group + 1
                    check_finite(values, names, f"epoch {epoch + 1}, batch {number + 1}, step {step}", ids)
                    seen.append(values)
                waiting.clear()
                progress.batch(epoch, index + 1, float(seen[-1][0]))
        self.optimizer.zero_grad()  # what is left of an incomplete group is dropped, as published
        means = torch.stack(seen).double().mean(0).tolist()
        return {**dict(zip(names, means, strict=True)), "gradient_norm": float(torch.stack(norms).mean())}

    def _gradient_norm(self) -> Tensor:
        parameters = (parameter for part in self.parts.values() for parameter in part.parameters())
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def features_of(self, split: str) -> Split:
        """``split`` as the model takes it: through the text encoder where that is trained with it."""
        part = self.dataset.splits[split]
        return part if self.encode is None else encoded_split(part, self.encode, self.fabric.device)

    def predict(self, split: str) -> npt.NDArray[np.float32]:
        """The outputs (N, C) for ``split``, of the weights as they are now."""
        return predict(self.model, self.features_of(split), self.fabric.device)

    def validate(self, split: str) -> tuple[float, dict[str, float | None]]:
        """The validation loss (mean absolute error, or cross-entropy) and every metric of ``split``."""
        part, predicted = self.dataset.splits[split], self.predict(split)
        metrics = task_metrics(predicted, part.labels, self.facts.task, self.facts.label_range)
        if self.classes:
            loss = float(F.cross_entropy(torch.from_numpy(predicted), torch.from_numpy(part.labels)))
        else:
            loss = float(np.abs(predicted[:, 0].astype(np.float64) - part.labels).mean())
        return loss, metrics

    def weights_now(self) -> dict[str, Tensor]:
        """A copy of the weights of the model and of a fine-tuned encoder."""
        return {
            prefix + name: value.detach().cpu().clone()
            for prefix, part in self.parts.items()
            for name, value in part.state_dict().items()
        }

    def averaged(self) -> AbstractContextManager[None]:
        """The context in which the weights are those a run would keep: their average, where the recipe has one."""
        return nullcontext() if self.average is None else self.average.in_place()

    def capture(self, state: TrainingState) -> None:
        """Copies the live state into ``state``."""
        state.model = self.weights_now()
        state.optimizer = self.optimizer.state_dict()
        state.scheduler = self.scheduler.state_dict()
        state.average = {} if self.average is None else self.average.state()
        state.config = self.config.model_dump(mode="json")

    def restore(self, state: TrainingState) -> None:
        """Makes ``state`` the live one."""
        try:
            self.load(state.model)
            self.optimizer.load_state_dict(state.optimizer)
            self.scheduler.load_state_dict(state.scheduler)
            if self.average is not None:
                self.average.restore(state.average)
        except (RuntimeError, ValueError, KeyError) as cause:
            raise RunError("last.ckpt does not belong to this run's config; start it anew with --force") from cause

    def load(self, state: dict[str, Tensor]) -> None:
        """Makes ``state`` the weights of the model and of a fine-tuned encoder."""
        encoder = {k.removeprefix(_ENCODER_PREFIX): v for k, v in state.items() if k.startswith(_ENCODER_PREFIX)}
        self.system.load_state_dict(self.of_model(state))
        if _ENCODER_PREFIX in self.parts:
            self.parts[_ENCODER_PREFIX].load_state_dict(encoder)

    @staticmethod
    def of_model(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """``state`` without the weights of a fine-tuned encoder."""
        return {name: value for name, value in state.items() if not name.startswith(_ENCODER_PREFIX)}

    def fit(self, out: Path, state: TrainingState, progress: Progress) -> None:
        """Trains from ``state`` on, saving after every epoch."""
        chooses = self.schedule.schedule == "validation"
        progress.start(self.schedule.epochs, self.batches_per_epoch(), state.next_epoch)
        while state.next_epoch < self.schedule.epochs and not state.stopped_early:
            epoch = state.next_epoch
            rate = self.optimizer.param_groups[0]["lr"]
            losses = self.run_epoch(epoch, progress)
            measured: dict[str, float | int | None] = {}
            with self.averaged():
                averaged = None if self.average is None else self.weights_now()
                if "valid" in self.dataset.splits:
                    valid_loss, metrics = self.validate("valid")
                    measured = {"valid_loss": valid_loss, **{f"valid_{name}": value for name, value in metrics.items()}}
            recent = [float(row.get("valid_loss") or 0) for row in (measured, *reversed(state.history))]
            recent = recent[: self.schedule.validation_window]
            smoothed = sum(recent) / len(recent)
            best = chooses and smoothed < state.best_loss
            if chooses:
                self.scheduler.step(smoothed)
            keeps = best or not chooses
            if keeps:
                state.best_epoch, state.best_loss = epoch, smoothed
            row: dict[str, float | int | None] = {"epoch": epoch + 1, "learning_rate": rate}
            row |= {f"train_{name}": value for name, value in losses.items()}
            row |= measured
            state.history.append(row)
            state.next_epoch = epoch + 1
            state.stopped_early = chooses and epoch - state.best_epoch >= self.schedule.early_stop_patience
            self.capture(state)
            if keeps:  # without an average these are the live ones, which then stand in the checkpoint once
                state.best_model = state.model if averaged is None else averaged
            keep_previous(out / CHECKPOINT_FILE, out / PREVIOUS_FILE)
            save_state(state, out / CHECKPOINT_FILE)
            write_text(out / HISTORY_FILE, csv_text(state.history), RunError)
            progress.epoch(row, best=best)


def _fold_curve(
    config: RunConfig, facts: RunFacts, device: str, dataset: Dataset
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """The validation split's losses (epochs, N) and outputs (epochs, N, C) over a training on the other split."""
    live, losses, outputs = LiveTraining(config, facts, dataset, device), [], []
    labels = torch.from_numpy(dataset.splits["valid"].labels)
    for epoch in range(live.schedule.epochs):
        live.run_epoch(epoch, SilentProgress())
        with live.averaged():
            predicted = live.predict("valid")
        outputs.append(predicted)
        output = torch.from_numpy(predicted).double()
        each = F.cross_entropy(output, labels, reduction="none") if live.classes else (output[:, 0] - labels).abs()
        losses.append(each.numpy())
    return np.stack(losses), np.stack(outputs)


def train(
    config: RunConfig,
    dataset: Dataset,
    out: Path,
    *,
    device: str = "auto",
    force: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Trains ``config`` on ``dataset`` into the run directory ``out``.

    Args:
        config: The recipe; its data section must already name ``dataset``'s file and hash.
        dataset: Splits train and, unless folds choose, valid; and test where the run shall be measured on it; with
            transcripts or tokens where the recipe has a text encoder.
        out: The run directory.
        device: auto, cpu, cuda, cuda:N or mps.
        force: Whether an existing run gives way, once this one has finished.
        resume: Whether to go on from ``out``'s last.ckpt.
        progress: Callbacks for every batch and epoch.

    Raises:
        DmdkitError: One readable message; a run directory that was not there before is left only once training began,
            and then it can be resumed.
    """
    require_samples(config, dataset)
    if config.data.steps == "real":
        dataset = with_real_steps(dataset, config.model.kernels)
    config, _ = resolved(config, len(dataset.splits["train"]), len(dataset.splits.get("valid", ())))
    if resume:
        check_resumable(out)
    else:
        check_target(out, force=force)
    text = TrainingEncoder.of(config)
    if text is not None:
        config, dataset = text.prepare(config, dataset, resume=resume)
    settings = config.training
    if settings.folds:
        dataset = pooled(dataset)
    standardised = config.data.normalisation == "standardise"
    facts = RunFacts(
        origin="train",
        shape=shape_of(config.model, dataset.feature_dims, dataset.lengths, dataset.num_outputs),
        task=dataset.task,
        label_range=dataset.label_range,
        standardised=standardised,
        gd_units=True,
        train_samples=len(dataset.splits["train"]),
        steps=config.data.steps,
        inputs=input_facts(dataset, dropped_share(settings)),
        notes=list(dataset.notes),
        text=text_facts(config.text_encoder) if config.text_encoder is not None else None,
    )
    progress = progress or SilentProgress()
    with ExitStack() as held, readable_memory_errors("lower training.batch_size or model.width"):
        fine_tuned = text.encoder if text is not None and text.settings.fine_tune else None
        trainer = LiveTraining(config, facts, dataset, device, fine_tuned)
        held.enter_context(locked_directory(out, RunError, busy=WRITING))
        if resume:
            place, state = left_state(out, config, facts)
        else:
            place, state = start_directory(out, config, facts, force=force), TrainingState()
        if settings.folds:
            if not state.model:
                cross_validate(config, dataset, place, partial(_fold_curve, config, facts, device), progress.fold)
            trainer = LiveTraining(with_chosen_epochs(config, place), facts, dataset, device)
        if state.model:  # not killed before the end of the first epoch
            trainer.restore(state)
            remove_leftovers(place)
            write_config(place, config)
            write_text(place / HISTORY_FILE, csv_text(state.history), RunError)
        try:
            trainer.fit(place, state, progress)
        finally:
            progress.stop()
        finish(trainer, state, place, text)
        if place != out:
            take_over(out)
        return Run.open(out)
