"""``dmdkit predict --stream``: the score by step, and how far it is from the label by the share of a sample heard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmdkit.cli.console import print_table
from dmdkit.cli.score_rows import known_label, score_heads, write_rows
from dmdkit.errors import InputError

if TYPE_CHECKING:
    from dmdkit.data import Dataset, Split
    from dmdkit.runtime import Runtime
    from dmdkit.runtime.manifest import Manifest
    from dmdkit.runtime.streams.stream import Stream, StreamAnswer

__all__ = ["print_stream", "shares_of", "stream_rows", "streamed_split", "write_stream"]

_SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)


def streamed_split(dataset: Dataset, name: str, runtime: Runtime) -> Split:
    """The samples of a split without their padding, as a stream hears them.

    Raises:
        DataError: A sample is shorter than the kernel, or the modalities do not go together.
    """
    from dmdkit.data.real_steps import with_real_steps

    return with_real_steps(dataset, runtime.manifest.model.kernels).splits[name]


def stream_rows(
    stream: Stream, part: Split, limit: int | None, source: Path, manifest: Manifest, *, explain: bool = False
) -> list[dict[str, Any]]:
    """Of each sample what a stream says of it, step by step.

    Returns:
        Per sample ``id``, ``label``, ``out_of_range`` (modality -> share, of the last answer) and ``steps``: for every step
        that has an answer ``heard`` (steps so far), of classes the ``class``, ``score``, ``latency_ms``, where the file has
        labels by step ``label``, None where the step has none, and with ``explain`` what each modality says alone and which
        teaches which.
    """
    assert part.steps is not None
    classes, rows = manifest.task == "classification", []
    for index in range(min(len(part), limit or len(part))):
        stream.reset()
        steps, strange = [], dict[str, float]()
        for at in range(int(part.steps[index])):
            try:
                found = stream.push(**{name: array[index, at] for name, array in part.features().items()})
            except InputError as cause:
                raise InputError(f"{source}: sample {part.ids[index]!r}, step {at}: {cause}") from cause
            if found is not None:
                score = [float(value) for value in found.score]
                strange = found.out_of_range
                own = {} if part.step_labels is None else {"label": known_label(part.step_labels[index, at])}
                known = {"class": int(found.score.argmax())} if classes else {}
                why = {"explanation": _explanation(found, manifest)} if explain else {}
                took = round(found.latency_ms, 4)
                steps.append({"heard": found.heard, **known, "score": score, **own, "latency_ms": took, **why})
        label = known_label(part.labels[index])
        rows.append({"id": part.ids[index], "label": label, "out_of_range": strange, "steps": steps})
    return rows


def _explanation(found: StreamAnswer, manifest: Manifest) -> dict[str, dict[str, Any]]:
    logits = zip(manifest.modality_order, found.logit_hetero, strict=True)
    why: dict[str, dict[str, Any]] = {"logit_hetero": {name: [float(value) for value in row] for name, row in logits}}
    if found.edges_hetero is not None:
        edges = zip(manifest.edge_order, found.edges_hetero, strict=True)
        why["edges_hetero"] = {f"{student}<-{teacher}": float(value) for (student, teacher), value in edges}
    return why


def shares_of(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, int]]:
    """Share of the steps heard, mean absolute error of the score then, and of how many samples; of a regression's rows.

    A step's own label counts where the file has labels by step, else the sample's. Samples without one, or without an answer
    yet at a share, are left out of it.
    """
    from dmdkit.parity.stream_error import error_by_share

    def errors(row: Mapping[str, Any]) -> list[tuple[int, float | None]]:
        labels = [step.get("label", row["label"]) for step in row["steps"]]
        scores = [step["score"][0] for step in row["steps"]]
        wrong = [None if label is None else abs(score - label) for score, label in zip(scores, labels, strict=True)]
        return [(step["heard"], error) for step, error in zip(row["steps"], wrong, strict=True)]

    return [(found.share, found.error, found.samples) for found in error_by_share(map(errors, rows), _SHARES)]


def print_stream(rows: Sequence[Mapping[str, Any]], *, classes: bool) -> None:
    """The last answer of each sample, and of a regression the table of :func:`shares_of`."""
    heads = ["id", "steps", *(["class", "logit"] if classes else ["score"]), "label"]
    cells = []
    for row in rows:
        last, label = row["steps"][-1], "-" if row["label"] is None else f"{row['label']:g}"
        known = [str(last["class"])] if classes else []
        cells.append([row["id"], str(last["heard"]), *known, f"{max(last['score']):+.3f}", label])
    print_table(heads, cells, right=heads[1:])
    if not classes:
        cells = [[f"{share:.0%}", f"{error:.3f}", str(count)] for share, error, count in shares_of(rows)]
        print_table(["heard", "MAE", "samples"], cells, right=["heard", "MAE", "samples"])


def write_stream(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows as JSON, or as CSV with a line a step."""
    classes = ["class"] if rows and "class" in rows[0]["steps"][0] else []
    heads = ["id", "heard", *classes, *score_heads(len(rows[0]["steps"][0]["score"]) if rows else 1), "label", "latency_ms"]
    lines = []
    for row in rows:
        for step in row["steps"]:
            known, label = [step[key] for key in classes], step.get("label", row["label"])
            lines.append([row["id"], step["heard"], *known, *step["score"], label, step["latency_ms"]])
    write_rows(path, rows, heads, lines)
