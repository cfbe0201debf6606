"""The parity ledger of a bundle: every hop, on held-out samples, written into the bundle with its verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from dmdkit.data.dataset import Split
from dmdkit.data.fingerprints import SeenAs
from dmdkit.data.subsets import modality_subsets
from dmdkit.errors import BundleError, DataError
from dmdkit.files import locked_directory, write_json
from dmdkit.metrics import classification_metrics, regression_metrics
from dmdkit.parity.compare import HopRecord, compare
from dmdkit.parity.cpp_runner import CppRunner, cpp_hop
from dmdkit.parity.held_out import HeldOut, held_out
from dmdkit.parity.length_records import LengthRecord, length_records, text_output_sd
from dmdkit.parity.stream_error import HeardError, stream_error
from dmdkit.parity.stream_hops import stream_hops
from dmdkit.parity.text_hops import text_hops
from dmdkit.parity.verdicts import judged
from dmdkit.parity.word_hops import words_in_cpp
from dmdkit.records import read_record
from dmdkit.runtime.backends.registry import BackendName, proof_name
from dmdkit.runtime.batching import infer_batched
from dmdkit.runtime.bundle import Bundle, Golden
from dmdkit.runtime.inputs import OUT_OF_RANGE_SHARE, RangeGuard
from dmdkit.runtime.manifest import Manifest, write_manifest
from dmdkit.runtime.open_graph import open_runner

__all__ = ["Ledger", "keep", "measure", "read_ledger", "record"]

Array = npt.NDArray[np.float32]
REPORT_FILE = "report/parity.json"
_MAX_REPORT_BYTES = 16 << 20
_BATCH = 32
UNLIKE_TRAINING_SHARE = 0.2
"""With so many values of a modality outside the training range a measurement proves nothing. Ten times the share that is worth
a warning: samples drawn like those of a small training set leave its range in every twentieth value."""
PYTORCH = "pytorch.fp32"
CHANGING = "another command is changing it; wait for that"
"""What a bundle that is locked is refused with."""


class Ledger(BaseModel):
    """``report/parity.json``.

    Attributes:
        samples: Number of samples measured on.
        calibration_samples: Number of samples left out because INT8 was calibrated on them.
        seen_samples: What the samples left out did otherwise -> how many did that: they trained or chose something.
        stream_cost: Metrics of padded windows and of streams over the same samples' own steps, of a model trained padded.
        stream_by_share: What streams are wrong by when a share of each sample was heard.
        stream_own_labels: Whether each of those answers was held against the label of its own step.
        named_alike: Number of samples measured on that have the name of one that made the model, with other features.
        sample_values: Whether scores and labels of single samples may stand in it.
        lengths: The text graphs on sentences of single lengths; empty where they have one length.
        subsets: Metrics of the fp32 graph with only some modalities there, by their names, as text+audio; empty without labels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    created: str
    data: str
    data_sha256: str | None
    split: str
    samples: int
    calibration_samples: int = 0
    seen_samples: dict[SeenAs, int] = Field(default_factory=dict)
    named_alike: int = 0
    out_of_range: dict[str, float]
    sample_values: bool = True
    subsets: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    stream_cost: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    lengths: list[LengthRecord] = Field(default_factory=list)
    stream_by_share: list[HeardError] = Field(default_factory=list)
    stream_own_labels: bool = False
    hops: list[HopRecord]

    @property
    def left_out(self) -> dict[SeenAs, int]:
        """What the samples left out did -> how many did that."""
        calibrated: dict[SeenAs, int] = {"calibrated": self.calibration_samples} if self.calibration_samples else {}
        return calibrated | self.seen_samples


def read_ledger(bundle_path: Path) -> Ledger | None:
    """The ledger of the last check; None where there was none.

    Raises:
        BundleError: It is there and cannot be read or believed.
    """
    path = bundle_path / REPORT_FILE
    if not path.exists():
        return None
    return read_record(
        path, Ledger, inside=bundle_path, max_bytes=_MAX_REPORT_BYTES, advice="run `dmdkit check` again", error=BundleError
    )


def run_graph(
    bundle: Bundle,
    name: str,
    features: dict[str, Array],
    on_step: Callable[[], None],
    backend: BackendName = "onnxruntime",
) -> dict[str, Array]:
    """A graph's outputs on all samples, in batches, with one thread."""
    with open_runner(bundle, name, backend=backend) as runner:
        found = infer_batched(runner.infer, features, _BATCH)
    on_step()
    return found


def _check_split(bundle: Bundle, split: Split, source: str) -> None:
    for name, record in bundle.manifest.inputs.items():
        shape = split.features()[name].shape[1:]
        if shape != (record.steps, record.features):
            raise DataError(
                f"{source}: {name} has {shape[0]} steps of {shape[1]} features, "
                f"the bundle {bundle.path} takes {record.steps} of {record.features}"
            )


def _judged_on(bundle: Bundle, split: Split | None, source: str) -> HeldOut | None:
    """What is left of a split without the samples that made the model, and what those did."""
    if split is None:
        return None
    _check_split(bundle, split, source)
    return held_out(bundle, split)


def measure(
    bundle: Bundle,
    *,
    split: Split | None,
    split_name: str,
    source: str,
    data_sha256: str | None,
    reference: Callable[[Split], dict[str, Array]] | None = None,
    backends: Sequence[BackendName] = ("onnxruntime",),
    sample_values: bool | None = None,
    native: CppRunner | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Ledger:
    """Measures every hop of a bundle.

    Args:
        bundle: An opened bundle.
        split: Samples with labels; those that trained, chose or calibrated something are left out. None, or when none is
            left, uses the golden samples, which prove nothing but show drift.
        split_name: Name of the split.
        source: Where the samples came from, for the report.
        data_sha256: Hash of that file.
        reference: The PyTorch model's outputs (score, logit_*, edges_*) on the samples; None: only the outputs recorded
            with the golden samples are there, and the first hop is reported as recorded.
        backends: What to run the graphs with. ONNX Runtime always does; another backend adds a hop from its fp32 graph to
            each graph there, named ``fusion.fp32@openvino``. Graphs that only ONNX Runtime takes are left out.
        sample_values: Whether scores and labels of single samples may stand in the ledger; None: where the golden samples are
            real, because a bundle whose golden samples are synthetic keeps its data to itself.
        native: The C++ runtime; adds a hop from each graph that a CPU runs to the same graph there, named
            ``fusion.fp32@cpp``.
        on_step: Called after each graph.

    Raises:
        DataError: The samples do not fit the bundle.
        BundleError: A graph is damaged.
        RunnerError: ``native`` gave no usable answer.
    """
    manifest = bundle.manifest
    golden = bundle.golden()
    judged_on = _judged_on(bundle, split, source) or HeldOut(None)
    split, left_out, distinct = judged_on.split, dict(judged_on.left_out), judged_on.distinct
    if split is None and left_out:
        split_name, source, data_sha256 = "golden", "golden samples", None
    features = golden.inputs if split is None else split.inputs()
    labels = None if split is None else split.labels
    ids = tuple(manifest.golden.ids) if split is None else split.ids
    hops: list[HopRecord] = []
    keep_values = manifest.golden.kind == "real" if sample_values is None else sample_values

    for kind in ("fusion", "explain"):
        outputs = {
            name: run_graph(bundle, name, features, on_step) for name, graph in manifest.graphs.items() if graph.kind == kind
        }
        base = f"{kind}.fp32"
        if base not in outputs:
            raise BundleError(f"{bundle.path}: {base} is missing")

        def hop(
            source_name: str,
            name: str,
            before: dict[str, Array],
            after: dict[str, Array],
            hop_kind: Literal["measured", "recorded", "simulated"],
            *,
            on_golden: bool = False,
        ) -> HopRecord:
            return compare(
                source_name,
                name,
                before,
                after,
                precision=manifest.graphs[name].precision,
                task=manifest.task,
                label_range=manifest.label_range,
                labels=None if on_golden else labels,
                ids=manifest.golden.ids if on_golden else ids,
                kind=hop_kind,
                distinct=None if on_golden else distinct,
            )

        if reference is not None and split is not None:
            truth = reference(split)
            hops.append(hop(PYTORCH, base, {k: truth[k] for k in outputs[base] if k in truth}, outputs[base], "measured"))
        else:
            now = outputs[base] if split is None else run_graph(bundle, base, golden.inputs, lambda: None)
            recorded = {k: golden.reference[k] for k in now if k in golden.reference}
            hops.append(hop(PYTORCH, base, recorded, now, "recorded", on_golden=True))
        for name, found in outputs.items():
            if name != base:
                simulated = manifest.graphs[name].simulated_on_cpu
                hops.append(hop(base, name, outputs[base], found, "simulated" if simulated else "measured"))
        for backend in backends:
            for name in outputs:
                if backend == "onnxruntime" or not manifest.graphs[name].runs_in(backend):
                    continue
                found = run_graph(bundle, name, features, on_step, backend)
                elsewhere = hop(base, name, outputs[base], found, "measured")
                proof = proof_name(backend, manifest.graphs[name].precision)
                hops.append(elsewhere.model_copy(update={"target": f"{name}@{proof}"}))
        for name, here in outputs.items():
            if native is not None and not manifest.graphs[name].simulated_on_cpu:
                there = native.run(bundle, name, features, batch=_BATCH)
                hops.append(cpp_hop(name, here, there, manifest=manifest, labels=labels, ids=ids, distinct=distinct))
                on_step()

    hops += _unit_failures(bundle, golden, on_step)
    hops += _text_hops(bundle, golden, split, distinct, reference, on_step)
    hops += words_in_cpp(bundle, golden, split, native, distinct, on_step)
    hops += stream_hops(bundle, split, reference, PYTORCH, distinct, on_step, backends)
    shares = RangeGuard(manifest.inputs).shares(features)
    hops = _judged_inside(hops, shares)
    return Ledger(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        data=source,
        data_sha256=data_sha256,
        split=split_name,
        samples=len(ids),
        calibration_samples=left_out.pop("calibrated", 0),
        seen_samples=left_out,
        named_alike=judged_on.named_alike,
        out_of_range={name: share for name, share in shares.items() if share >= OUT_OF_RANGE_SHARE},
        sample_values=keep_values,
        subsets={} if split is None else _subset_metrics(bundle, split, on_step),
        **stream_error(bundle, split).model_dump(),
        lengths=length_records(bundle, golden, split, native, on_step, output_sd=text_output_sd(hops)),
        hops=hops if keep_values else [hop.without_sample_values() for hop in hops],
    )


def _judged_inside(hops: list[HopRecord], shares: dict[str, float]) -> list[HopRecord]:
    """``hops``; none proves anything with features unlike those of training, on which no one will run the model."""
    far = ", ".join(f"{share:.0%} of the {name} values" for name, share in shares.items() if share >= UNLIKE_TRAINING_SHARE)
    if not far:
        return hops
    reason = f"{far} lie outside the training range, so nothing is proven; were the features made as those of training?"
    return [
        hop.model_copy(update={"status": "unverified", "reason": reason}) if hop.status == "passed" else hop for hop in hops
    ]


def _subset_metrics(bundle: Bundle, split: Split, on_step: Callable[[], None]) -> dict[str, dict[str, float | None]]:
    """Metrics with only some modalities there, of samples that all have labels."""
    if not np.isfinite(split.labels).all() or (split.labels.dtype.kind == "i" and (split.labels < 0).any()):
        return {}
    found = {}
    for there, part in modality_subsets(split):
        scores = run_graph(bundle, "fusion.fp32", part.inputs(), on_step)["score"]
        if bundle.manifest.task == "classification":
            found[there] = classification_metrics(scores, split.labels)
        else:
            found[there] = regression_metrics(scores[:, 0], split.labels, bundle.manifest.label_range)
    return found


def _text_hops(
    bundle: Bundle,
    golden: Golden,
    split: Split | None,
    distinct: int | None,
    reference: Callable[[Split], dict[str, Array]] | None,
    on_step: Callable[[], None],
) -> list[HopRecord]:
    """The hops of the text graphs, on the split where it has tokens; without PyTorch, the first is that of the golden samples.

    Features alone say nothing about a text graph: then there is no hop, and its verdict stays as it was.
    """
    manifest = bundle.manifest
    if manifest.text is None or (split is not None and split.tokens is None):
        return []

    def score(graph: str, features: dict[str, Array]) -> Array:
        return run_graph(bundle, graph, features, lambda: None)["score"]

    hops: list[HopRecord] = []
    if split is None or reference is None:
        fed = golden.unit_inputs["text"]
        hops += text_hops(
            bundle,
            tokens=np.stack([fed["input_ids"], fed["attention_mask"]], axis=1),
            features=golden.inputs,
            truth=golden.reference["score"],
            truth_is_recorded=True,
            lowerings=split is None,
            labels=None,
            ids=tuple(manifest.golden.ids),
            score=score,
            on_step=on_step,
        )
    if split is not None and split.tokens is not None:
        hops += text_hops(
            bundle,
            tokens=split.tokens,
            features=split.features(),
            truth=reference(split)["score"] if reference is not None else None,
            labels=split.labels,
            ids=split.ids,
            distinct=distinct,
            score=score,
            on_step=on_step,
        )
    return hops


def _unit_failures(bundle: Bundle, golden: Golden, on_step: Callable[[], None]) -> list[HopRecord]:
    """Failed hops of the GD-Unit graphs alone, on the golden samples: their inputs are recorded nowhere else.

    So few samples prove nothing, and the same edges are proven in the explain graph; only a failure says something new.
    """
    hops = []
    for name, graph in bundle.manifest.graphs.items():
        if not graph.kind.startswith("gd_"):
            continue
        edges = f"edges_{graph.kind.removeprefix('gd_')}"
        if edges not in golden.reference:
            raise BundleError(f"{bundle.path}: the golden samples hold no {edges} for {name}; export the bundle again")
        found = run_graph(bundle, name, golden.inputs_of(graph.kind), on_step)
        hops.append(
            compare(
                PYTORCH,
                name,
                {"score": golden.reference[edges]},
                {"score": found["edges"]} if "edges" in found else {},
                precision=graph.precision,
                task="regression",
                label_range=None,
                labels=None,
                ids=bundle.manifest.golden.ids,
                kind="recorded",
            )
        )
    return [hop for hop in hops if hop.status == "failed"]


def record(bundle_path: Path, manifest: Manifest, ledger: Ledger) -> Manifest:
    """Writes the ledger and its verdicts into the bundle; returns the new manifest, as :func:`judged` makes it.

    Raises:
        BundleError: The bundle cannot be written.
    """
    updated = judged(manifest, ledger)
    write_json(bundle_path / REPORT_FILE, ledger.model_dump(mode="json"), BundleError, inside=bundle_path)
    write_manifest(bundle_path, updated)
    return updated


def keep(bundle: Bundle, ledger: Ledger) -> Manifest:
    """Writes what was measured on ``bundle`` into it, as :func:`record` does, unless it is another bundle by now.

    Verdicts that a check beside this one wrote meanwhile stay.

    Raises:
        BundleError: Its files changed, another command is changing them, or it cannot be written.
    """
    with locked_directory(bundle.path, BundleError, busy=CHANGING):
        now = Bundle.open(bundle.path).manifest
        if now.files != bundle.manifest.files:
            raise BundleError(f"{bundle.path} was changed while it was measured; check it again")
        return record(bundle.path, now, ledger)
