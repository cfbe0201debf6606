"""The C++ runtime as one more program to prove: ``dmdkit-run`` as a subprocess, safetensors in and out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dmdkit.errors import RunnerError
from dmdkit.files import write_bytes
from dmdkit.parity.compare import CPP_MAX_ERROR, HopRecord, compare
from dmdkit.parity.text_hops import pair_of
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.manifest import Manifest

__all__ = ["CppRunner", "NativeAnswers", "cpp_hop"]

Array = npt.NDArray[np.float32]

_MAX_PRINTED_BYTES = 1 << 16
_MAX_ANSWER_BYTES = 1 << 30
"""Scores, logits and edges are under 100 bytes a sample; more is no answer."""


@dataclass(frozen=True)
class NativeAnswers:
    """What the program gave for one graph.

    Attributes:
        backend: What ran the graph, with its version: "onnxruntime 1.31.1".
        outputs: Output name -> float32 array with the samples first; values are not judged here.
    """

    backend: str
    outputs: dict[str, Array]


class CppRunner:
    """A ``dmdkit-run`` program. It comes from the caller alone; nothing that a bundle names is ever run.

    Args:
        tool: Path of the program.
        timeout_s: How long it may take for one graph.

    Raises:
        RunnerError: There is no such file, or it may not be executed.
    """

    def __init__(self, tool: Path, *, timeout_s: float = 600.0) -> None:
        self._tool, self._timeout_s = tool.absolute(), timeout_s
        if not self._tool.is_file():
            raise RunnerError(f"{tool}: no such runner; build one with `make native` and pass build/native/bin/dmdkit-run")
        if not os.access(self._tool, os.X_OK):
            raise RunnerError(f"{tool}: not executable; pass the program dmdkit-run itself")

    def run(self, bundle: Bundle, graph: str, features: Mapping[str, Array], *, batch: int) -> NativeAnswers:
        """Runs one graph (fusion or explain) on samples, with one thread.

        Args:
            bundle: An opened bundle.
            graph: Key in the manifest's graphs.
            features: Modality -> (N, T, D) raw features.
            batch: Samples per call, as whoever is compared with it ran them: sums may depend on it.

        Raises:
            RunnerError: The program cannot be started, fails, does not end in time, or its answers cannot be read.
        """
        record = bundle.manifest.graphs[graph]
        options = ["--explain"] if record.kind == "explain" else []
        answers = self._run(bundle, graph, record.precision, features, batch, options)
        if record.kind == "explain":  # of the two graphs that were run, the explaining one
            answers.outputs["score"] = answers.outputs.pop("explain_score", np.empty(0, np.float32))
        return answers

    def run_words(
        self, bundle: Bundle, precision: str, words: Sequence[str] | Sequence[Sequence[int]], features: Mapping[str, Array]
    ) -> NativeAnswers:
        """Runs the text and the fusion graph of a precision on sentences, one at a time, with one thread.

        Args:
            bundle: A bundle with a text encoder.
            precision: Of both graphs.
            words: N sentences, or the token ids of each.
            features: Audio and vision features of the samples, (N, T, D).

        Raises:
            RunnerError: As :meth:`run`.
        """
        return self._run(bundle, pair_of(precision), precision, features, 1, [], json.dumps(list(words)))

    def _run(
        self,
        bundle: Bundle,
        graph: str,
        precision: str,
        features: Mapping[str, Array],
        batch: int,
        more: Sequence[str],
        words: str | None = None,
    ) -> NativeAnswers:
        options = ["--graph", precision, "--batch", str(batch), "--threads", "1", "--device", "cpu", *more]
        try:
            with tempfile.TemporaryDirectory(prefix="dmdkit-") as name:
                folder = Path(name)
                given, answered = folder / "features.safetensors", folder / "answers.safetensors"
                write_bytes(given, save({key: np.ascontiguousarray(array) for key, array in features.items()}), RunnerError)
                files = ["--input", str(given), "--output", str(answered)]
                if words is not None:
                    write_bytes(folder / "words.json", words.encode(), RunnerError)
                    files += ["--words", str(folder / "words.json")]
                command = [str(self._tool), str(bundle.path.absolute()), *files, *options]
                backend = self._backend(graph, self._printed(command, graph, folder))
                outputs = self._answers(graph, answered)
        except OSError as cause:
            raise RunnerError(
                f"no temporary folder for --runner: {cause.strerror or cause}; free space or set TMPDIR"
            ) from cause
        return NativeAnswers(backend, outputs)

    def _printed(self, command: Sequence[str], graph: str, folder: Path) -> str:
        """Runs the command to its end; returns the beginning of its standard output."""
        out, err = folder / "stdout", folder / "stderr"
        with out.open("wb") as out_stream, err.open("wb") as err_stream:
            try:
                # A session of its own, so that on a timeout whatever it started ends with it.
                process = subprocess.Popen(  # noqa: S603 - the caller's own program
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out_stream,
                    stderr=err_stream,
                    cwd=folder,
                    start_new_session=True,
                )
            except OSError as cause:
                raise RunnerError(
                    f"{self._tool}: cannot be run: {cause.strerror or cause}; build it for this machine"
                ) from cause
            try:
                code = process.wait(self._timeout_s)
            except subprocess.TimeoutExpired as cause:
                raise RunnerError(
                    f"{self._tool} did not finish {graph} within {self._timeout_s:g} s; allow more with --runner-timeout"
                ) from cause
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if code < 0:
            raise RunnerError(
                f"{self._tool} was ended by {_signal_name(-code)} while it ran {graph}; run it by hand to see why"
            )
        if code != 0:
            said = (_beginning(err).strip().splitlines() or ["it said nothing"])[0]
            raise RunnerError(f"{self._tool} failed on {graph} with exit code {code}: {said:.400}")
        return _beginning(out)

    def _backend(self, graph: str, printed: str) -> str:
        try:
            summary: Any = json.loads(printed)
        except (ValueError, RecursionError):
            summary = None
        if not isinstance(summary, dict) or not isinstance(summary.get("backend"), str):
            raise RunnerError(
                f"{self._tool} printed {printed.strip()[:60]!r} for {graph}; expected JSON with 'backend': "
                "pass the dmdkit-run of this version"
            )
        return str(summary["backend"])

    def _answers(self, graph: str, path: Path) -> dict[str, Array]:
        problem = f"{self._tool}: its answers for {graph} "
        try:
            if path.stat().st_size > _MAX_ANSWER_BYTES:
                raise RunnerError(f"{problem}are larger than {_MAX_ANSWER_BYTES} bytes")
            answers = load(path.read_bytes())
        except OSError as cause:
            raise RunnerError(f"{problem}cannot be read: {cause.strerror or cause}") from cause
        except (SafetensorError, KeyError, ValueError) as cause:
            raise RunnerError(f"{problem}are damaged: {cause!s:.200}") from cause
        for name, array in answers.items():
            if array.dtype != np.float32:
                raise RunnerError(f"{problem}hold {name[:40]!r} as {array.dtype}, expected float32")
        return answers


def _beginning(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(_MAX_PRINTED_BYTES).decode("utf-8", "replace")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def cpp_hop(
    graph: str,
    here: dict[str, Array],
    there: NativeAnswers,
    *,
    manifest: Manifest,
    labels: npt.NDArray[np.float32] | npt.NDArray[np.int64] | None,
    ids: tuple[str, ...] | list[str],
    distinct: int | None = None,
) -> HopRecord:
    """The hop from a graph in Python to the same graph in C++, every output within ``CPP_MAX_ERROR``.

    That limit is for one ONNX Runtime in both. With two versions the numbers are reported, but neither prove nor disprove.

    Args:
        graph: Key in the manifest's graphs, or a pair of them (``text.fp32+fusion.fp32``).
        here: Outputs of the graph in Python.
        there: Those in C++, on the same samples.
        manifest: The bundle's manifest.
        labels: (N,) or None.
        ids: N sample names.
        distinct: Number of different samples; None: all of them.
    """
    hop = compare(
        graph,
        f"{graph}@cpp",
        here,
        there.outputs,
        precision=graph.rsplit(".", 1)[-1],
        task=manifest.task,
        label_range=manifest.label_range,
        labels=labels,
        ids=ids,
        max_error=CPP_MAX_ERROR,
        distinct=distinct,
    )
    backend = f"onnxruntime {ort.__version__}"
    if there.backend == backend:
        return hop.model_copy(update={"reason": f"{hop.reason}; {backend} in both"})
    if hop.max_error is None:  # nothing that another version explains
        return hop
    reason = f"C++ has {there.backend}, Python {backend}: give both one library to prove the language; {hop.reason}"
    return hop.model_copy(update={"status": "unverified", "reason": reason})
