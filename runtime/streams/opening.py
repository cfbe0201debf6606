"""Which step graph a stream runs, and the stream over it."""

from __future__ import annotations

from dmdkit.errors import BundleError, MissingLibraryError
from dmdkit.runtime.backends.base import Runner
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.choice import has_passed
from dmdkit.runtime.manifest import StreamRecord
from dmdkit.runtime.streams.state import open_step_runner, stream_record

__all__ = ["PADDED_NOTE", "chosen_step_graph", "open_step"]

PADDED_NOTE = (
    "streams: the model was trained on padded windows, and a stream computes it on the steps there are, so its answers are not "
    "those of a padded window; `dmdkit check` says by how much, and data.steps=real trains a model for streams"
)


def chosen_step_graph(record: StreamRecord, predicting: str, *, asked_for: bool) -> str:
    """The precision of the step graph that goes with a predicting graph of precision ``predicting``.

    Where that was asked for by name, the same or else fp32, whatever its verdict; otherwise the first that passed parity.

    Raises:
        BundleError: None has passed.
    """
    order = [name for name in (predicting, "fp32") if name in record.graphs]
    verdicts = {name: graph.verdict.status for name, graph in record.graphs.items()}
    for name in order:
        if asked_for or verdicts.get(name) == "passed":
            return name
    said = ", ".join(f"stream.{name} {status}" for name, status in verdicts.items())
    raise BundleError(
        f"no step graph of this bundle has passed parity ({said}); prove one with `dmdkit check`, or name a precision yourself "
        "when opening (graph='fp32')"
    )


def open_step(bundle: Bundle, predicting: str, *, asked_for: bool, threads: int, native: bool = False) -> tuple[Runner, str]:
    """The step graph that goes with a predicting graph, and what needs saying of its answers or backend, or "".

    Args:
        bundle: An opened bundle.
        predicting: Precision of the predicting graph.
        asked_for: Whether that was asked for by name.
        threads: Threads inside one call.
        native: Whether the native kernels are wanted: where the graph was asked for by name they run it if they can, otherwise
            if it was proven on them, and else ONNX Runtime does.

    Raises:
        BundleError: There is none, none has passed, or it is damaged.
    """
    record, notes = stream_record(bundle), [] if bundle.manifest.real_steps else [PADDED_NOTE]
    order = [name for name in (predicting, "fp32") if name in record.graphs] if native else []
    usable = [name for name in order if asked_for or has_passed(record.graphs[name], "native")]
    if usable:
        from dmdkit.runtime.streams.native import open_native_steps

        try:
            return open_native_steps(bundle, usable[0]), "; ".join(notes)
        except (BundleError, MissingLibraryError) as cause:
            notes.append(f"streams: {cause}; using onnxruntime")
    precision = chosen_step_graph(record, predicting, asked_for=asked_for)
    return open_step_runner(bundle, precision, threads=threads), "; ".join(notes)
