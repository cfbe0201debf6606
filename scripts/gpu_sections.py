"""The Python sections of ``gpu_check.sh``: each prints one last line of figures and ends with 0, 77 (skipped) or 1 (failed)."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NoReturn

SKIPPED = 77
WARM_UP, ROUNDS = 50, 500
WORDS = ("good", "bad", "very", "not", "the", "a", "film", "plot", "was", "and")
ENCODER = {
    "vocab_size": 30_522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}
"""A MiniLM's sizes."""
TEXT_SETTINGS = ["--config", "small", "--set", "text_encoder.max_tokens=50"]


class Skip(Exception):  # noqa: N818 - not an error
    """The section cannot run on this machine; the text says why."""


def torch_cuda(_: Path) -> str:
    """Whether PyTorch sees the GPU."""
    try:
        import torch
    except ImportError as cause:
        raise Skip("torch is not installed (extra 'train')") from cause
    if not torch.cuda.is_available():
        raise Skip(f"torch {torch.__version__} sees no CUDA device")
    return f"torch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}"


def torch_parity(work: Path) -> str:
    """The trained model's outputs on the GPU against those on the CPU."""
    torch_cuda(work)
    import torch

    from dmdkit.data import load_dataset
    from dmdkit.export.reference import reference_outputs
    from dmdkit.model.system import stack
    from dmdkit.runtime.self_check import FP32_MAX_ERROR
    from dmdkit.training.evaluation import load_system
    from dmdkit.training.run import Run

    system = load_system(Run.open(work / "run"))
    split = load_dataset(work / "sample.npz").splits["test"]
    expected = reference_outputs(system, split)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        out = system.cuda().eval()(**{n: torch.from_numpy(a.copy()).cuda() for n, a in split.features().items()})
    found = {
        "score": out.model.output,
        "logit_homo": stack(out.model.logit_homo),
        "logit_hetero": stack(out.model.logit_hetero),
        "edges_homo": out.edges_homo,
        "edges_hetero": out.edges_hetero,
    }
    errors = {n: float(abs(t.cpu().numpy() - expected[n]).max()) for n, t in found.items() if t is not None}
    limit = FP32_MAX_ERROR * max(1.0, float(expected["score"].std()))
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= limit:
        raise AssertionError(f"{worst} differs by {errors[worst]:.2e} between CUDA and CPU, limit {limit:.2e}")
    return f"{len(split)} samples, {len(errors)} outputs: at most {errors[worst]:.2e} ({worst}), limit {limit:.2e}"


def onnxruntime_cuda(work: Path) -> str:
    """The golden samples through ONNX Runtime's CUDA provider."""
    from dmdkit.runtime import Runtime
    from dmdkit.runtime.backends.onnxruntime import available_devices
    from dmdkit.runtime.engines.gpu import NoGpuError, find_gpu
    from dmdkit.runtime.self_check import FP32_MAX_ERROR

    _bundle(work)
    if "cuda" not in available_devices():
        raise Skip("this ONNX Runtime has no CUDA provider (package onnxruntime-gpu)")
    try:
        find_gpu()
    except NoGpuError as cause:
        raise Skip(str(cause)) from cause
    with Runtime.open(work / "check.dmd", device="cuda", graph="fp32", backend="onnxruntime") as runtime:
        check = runtime.self_check()
        limit = FP32_MAX_ERROR * max(1.0, runtime.manifest.output_sd)
        backend = runtime.backend
    said = ", ".join(f"{item.graph} {item.max_error:.1e}" for item in check.graphs)
    if not all(item.max_error <= limit for item in check.graphs):
        raise AssertionError(f"{backend}: golden samples are off: {said}, limit {limit:.1e}")
    return f"{backend}: golden error {said}, limit {limit:.1e}"


def text_bundle(work: Path) -> str:
    """A bundle whose text encoder has a MiniLM's sizes and random weights, in every form that engines are built from."""
    from dmdkit.cli import main
    from dmdkit.errors import DmdkitError
    from dmdkit.runtime.bundle import Bundle
    from dmdkit.runtime.engines.gpu import find_gpu

    try:
        find_gpu()
    except DmdkitError as cause:
        raise Skip(str(cause)) from cause
    try:
        import modelopt  # noqa: F401
        import onnxscript  # noqa: F401
        import torch
        import transformers  # noqa: F401
        from tokenizers import BertWordPieceTokenizer
    except ImportError as cause:
        raise Skip(f"{cause.name} is not installed (extras 'text', 'export', 'quantize')") from cause

    from dataclasses import replace

    import numpy as np

    from dmdkit.data import write_dataset
    from dmdkit.data.sample import sample_dataset
    from dmdkit.model.text_encoder import BertShape, TextEncoder
    from dmdkit.training.encoder_directory import write_encoder_directory

    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertWordPieceTokenizer({word: index for index, word in enumerate(vocabulary)}, lowercase=True)
    write_encoder_directory(
        work / "encoder", TextEncoder(BertShape.model_validate(ENCODER), "zero"), tokenizer.to_str().encode()
    )
    dataset = sample_dataset()
    splits = {
        name: replace(split, raw_text=tuple(" ".join(generator.choice(WORDS, generator.integers(1, 25))) for _ in split.ids))
        for name, split in dataset.splits.items()
    }
    write_dataset(replace(dataset, splits=splits), work / "words.npz")
    data, run = str(work / "words.npz"), str(work / "words")
    settings = [*TEXT_SETTINGS, "--text-encoder", str(work / "encoder"), "--set", "text_encoder.fine_tune=false"]
    code = main(["train", "--data", data, "--out", run, "--device", "cpu", "--epochs", "1", "--force", *settings])
    if code != 0:
        raise AssertionError(f"dmdkit train ended with {code}")
    forms = ["--int8", "--int8-search", "none", "--fp16", "--force"]
    code = main(["export", run, "--out", str(work / "words.dmd"), *forms])
    if code not in (0, 2):
        raise AssertionError(f"dmdkit export ended with {code}")
    graphs = Bundle.open(work / "words.dmd").manifest.graphs
    said = ", ".join(f"{name} {graph.verdict.status}" for name, graph in graphs.items() if graph.kind == "text")
    return f"random weights after one epoch, on the CPU: {said}"


def engine(work: Path, precision: str = "fp16", name: str = "check.dmd") -> str:
    """Builds with whatever TensorRT is here, proves the plan, and measures a batch of one through ``Runtime``.

    Where the bundle has a text encoder, the plan that is looked at is the encoder's, and words are what is predicted from.
    """
    from dmdkit.cli import main
    from dmdkit.errors import DmdkitError
    from dmdkit.export.targets import GRAPH_PRECISION, RTX_CAPABILITIES
    from dmdkit.runtime import Runtime
    from dmdkit.runtime.bundle import Bundle
    from dmdkit.runtime.engines.cuda import load_cuda
    from dmdkit.runtime.engines.gpu import find_gpu
    from dmdkit.runtime.engines.record import engines_of
    from dmdkit.runtime.engines.tensorrt_api import installed_flavours

    path = _bundle(work, name)
    try:
        gpu = find_gpu()
        load_cuda()
    except DmdkitError as cause:
        raise Skip(str(cause)) from cause
    flavours = installed_flavours()
    if not flavours:
        raise Skip("neither tensorrt nor tensorrt_rtx is installed")
    if flavours == ["tensorrt_rtx"] and gpu.capability not in RTX_CAPABILITIES:
        raise Skip(f"TensorRT-RTX does not compile for {gpu.name} (compute capability {gpu.capability})")
    words = Bundle.open(path).manifest.text is not None
    graphs = ["--graph", "fusion", "--graph", "text" if words else "explain"]
    code = main(["build", str(path), "--target", "auto", "--precision", precision, *graphs])
    form, kind = GRAPH_PRECISION[precision], "text" if words else "fusion"
    bundle = Bundle.open(path)
    record = next((e.record for e in engines_of(bundle) if e.record.graph == f"{kind}.{form}"), None)
    if record is None:
        raise AssertionError("no engine was built; this section's log has the reason")
    with Runtime.open(path, backend="tensorrt", graph=form) as runtime:
        sample: dict[str, object] = {name: array[:1] for name, array in bundle.golden().inputs.items()}
        if words:
            sample["text"] = [" ".join(WORDS)]
        for _ in range(WARM_UP):
            runtime.predict(**sample)
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            runtime.predict(**sample)
            times.append((time.perf_counter() - start) * 1e3)
        notes, backend = runtime.notes, f"text on {runtime.text_backend}" if words else runtime.backend
    times.sort()
    check = record.check
    error = "not checked" if check is None or check.max_error is None else f"golden error {check.max_error:.1e}"
    proof = record.precision.reason if record.precision is not None else "no precision proof"
    said = f"{backend}: p50 {times[ROUNDS // 2]:.3f} ms, p99 {times[ROUNDS * 99 // 100]:.3f} ms; {error}; {proof}"
    if code != 0 or notes or check is None or record.precision is None:
        raise AssertionError("; ".join([said, f"dmdkit build ended with {code}", *notes]))
    return said


def _bundle(work: Path, name: str = "check.dmd") -> Path:
    if not (work / name).is_dir():
        raise Skip(f"no bundle: the section '{'export' if name == 'check.dmd' else 'a text encoder'}' did not make one")
    return work / name


SECTIONS = {
    "torch_cuda": torch_cuda,
    "torch_parity": torch_parity,
    "onnxruntime_cuda": onnxruntime_cuda,
    "text_bundle": text_bundle,
    "engine": engine,
}


def run(name: str, work: Path, *arguments: str) -> int:
    """Runs one section; any failure is one line, after its traceback in the log."""
    import traceback

    try:
        print(SECTIONS[name](work, *arguments))
    except Skip as why:
        print(why)
        return SKIPPED
    except Exception as cause:
        traceback.print_exc()
        print(f"{type(cause).__name__}: {' '.join(str(cause).split())}")
        return 1
    return 0


def _main() -> NoReturn:
    name, work, *arguments = sys.argv[1:]
    sys.exit(run(name, Path(work), *arguments))


if __name__ == "__main__":
    _main()
