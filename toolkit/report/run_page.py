"""The page of a run: what it reached, what simpler models reach, and how it got there epoch by epoch."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from dmdkit.errors import RunError
from dmdkit.files import write_text
from dmdkit.report.curves import Curve, curve_chart
from dmdkit.report.frame import document
from dmdkit.report.markup import Child, Markup, tag
from dmdkit.report.numbers import MISSING, number
from dmdkit.report.overview import METRIC_NAMES
from dmdkit.training.run import HISTORY_FILE, METRICS_FILE, metrics_of

__all__ = ["RUN_PAGE", "render_run", "write_run_report"]

RUN_PAGE = "report.html"

_FIGURES: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Total loss", "The total training loss and the validation loss", {"train_total": "training", "valid_loss": "validation"}),
    ("Task loss", "The training loss of the task", {"train_task": "eight heads together"}),
    (
        "Decoupling",
        "The loss terms of the decoupling",
        {"train_reconstruction": "reconstruction", "train_cycle": "cycle", "train_orthogonality": "orthogonality"},
    ),
    ("Margin", "The margin loss", {"train_margin": "margin"}),
    (
        "Distillation, common part",
        "The terms of the homogeneous GD-Unit",
        {"train_homo_reg": "regulariser", "train_homo_logit": "logits", "train_homo_repr": "representations"},
    ),
    (
        "Distillation, exclusive part",
        "The terms of the heterogeneous GD-Unit",
        {"train_hetero_reg": "regulariser", "train_hetero_logit": "logits", "train_hetero_repr": "representations"},
    ),
    ("Learning rate", "The learning rate", {"learning_rate": "learning rate"}),
    ("Gradient norm", "The norm of the gradients at a step", {"train_gradient_norm": "mean over the epoch's steps"}),
)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read(run: Path) -> tuple[list[dict[str, float | None]], dict[str, Any]]:
    try:
        with (run / HISTORY_FILE).open(encoding="utf-8", newline="") as stream:
            rows = [{name: _number(value) for name, value in row.items() if name} for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as cause:
        raise RunError(f"{run}: its {HISTORY_FILE} cannot be read: {cause}") from cause
    if not rows:
        raise RunError(f"{run}: {HISTORY_FILE} has no epochs, so there is nothing to show; an imported run has none")
    return rows, metrics_of(run) if (run / METRICS_FILE).is_file() else {}


def _curves(rows: list[dict[str, float | None]], best: int | None) -> list[Markup]:
    figures = []
    metric_figures = tuple(
        (title, f"{title} on the validation split", {f"valid_{name}": "validation"}) for name, title in METRIC_NAMES.items()
    )
    for title, alt, columns in (*_FIGURES, *metric_figures):
        curves = [Curve(name, [row.get(column) for row in rows]) for column, name in columns.items()]
        curves = [curve for curve in curves if any(value is not None for value in curve.values)]
        if curves:
            figures.append(curve_chart(title, alt, curves, mark=best))
    return figures


def _metrics_table(split: str, values: dict[str, Any], baselines: dict[str, Any]) -> Markup:
    names = [name for name in values if name != "samples"]
    heads = tag("tr", tag("th", "Metric"), *(tag("th", head, class_="num") for head in ("This run", *baselines)))
    rows = []
    for name in names:
        cells = [values.get(name), *(found.get(name) for found in baselines.values())]
        shown = [number(cell, 4) if isinstance(cell, (int, float)) else MISSING for cell in cells]
        rows.append(
            tag("tr", tag("th", METRIC_NAMES.get(name, name), scope="row"), *(tag("td", c, class_="num") for c in shown))
        )
    caption = tag("caption", f"{split}, {values.get('samples', '?')} samples")
    table = tag("table", caption, tag("thead", heads), tag("tbody", *rows))
    return tag("div", table, class_="scroll", tabindex="0")


def _subsets_table(split: str, subsets: dict[str, dict[str, Any]]) -> Markup:
    names = list(next(iter(subsets.values())))
    heads = tag("tr", tag("th", "Modalities there"), *(tag("th", METRIC_NAMES.get(n, n), class_="num") for n in names))
    rows = []
    for there, values in subsets.items():
        cells = [values.get(name) for name in names]
        shown = [number(cell, 4) if isinstance(cell, (int, float)) else MISSING for cell in cells]
        rows.append(tag("tr", tag("th", there.replace("+", ", "), scope="row"), *(tag("td", c, class_="num") for c in shown)))
    caption = tag("caption", f"{split}, the other modalities all zero")
    table = tag("table", caption, tag("thead", heads), tag("tbody", *rows))
    return tag("div", table, class_="scroll", tabindex="0")


def _subsets_section(metrics: dict[str, Any]) -> Markup | None:
    """What is left with only some modalities; None for a run that did not measure it, as those of earlier versions."""
    found = metrics.get("subsets", {})
    if not found:
        return None
    text = (
        "What is left where the other sensors fail. Trained for with training.modality_dropout; without it, a model was never "
        "shown samples that lack a modality, and the runtime refuses them."
    )
    tables = [_subsets_table(split, subsets) for split, subsets in found.items()]
    return tag("section", tag("h2", "With only some modalities"), tag("p", text), *tables)


def render_run(run: Path) -> str:
    """The page of a run directory as one HTML document.

    Raises:
        RunError: The run has no readable history.
    """
    rows, metrics = _read(run)
    best = metrics.get("best_epoch")
    worth: list[Child] = []
    for split, values in metrics.get("splits", {}).items():
        sentence = metrics.get("against_ridge", {}).get(split, {}).get("sentence")
        worth += [None if sentence is None else tag("p", f"{split}: {sentence}")]
        worth += [_metrics_table(split, values, metrics.get("baselines", {}).get(split, {}))]
    warnings = [tag("p", text, class_="warning") for text in metrics.get("warnings", [])]
    length = f"{len(rows)} epochs" + ("" if best is None else f"; the best one, {best}, is marked")
    sections = [
        tag("section", tag("h2", "What it is worth"), *warnings, *worth) if worth or warnings else None,
        _subsets_section(metrics),
        tag("section", tag("h2", "How it learnt"), tag("p", f"{length}."), tag("div", *_curves(rows, best), class_="figures")),
    ]
    return document(f"{run.resolve().name}: training report", "dmdkit training report", run.resolve().name, length, sections)


def write_run_report(run: Path) -> Path:
    """Writes ``report.html`` into a run directory.

    Raises:
        RunError: The run has no readable history, or the page cannot be written.
    """
    path = run / RUN_PAGE
    write_text(path, render_run(run), RunError)
    return path
