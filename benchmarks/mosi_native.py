"""The native kernels on a small real set: ``python -m benchmarks.mosi_native FILE``.

Trains the ``small`` recipe on the file for each seed, exports with INT8 and proves both fusion graphs on the native kernels
(``DMDKIT_NATIVE_LIBRARY``): the verdict of ``fusion.fp32 -> fusion.int8-cpu@native``, and how far fp32 answers lie from ONNX
Runtime's on every sample of the test split and on random features. Prints one Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from dmdkit.cli.export import export_run
from dmdkit.cli.run import train_run
from dmdkit.data import load_dataset
from dmdkit.parity.ledger import measure
from dmdkit.runtime.backends.native import native_version
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.open_graph import open_runner
from dmdkit.training.run import MODEL_FILE, Run

SEEDS = (1, 2, 3)
RANDOM_SAMPLES = 256
_GRAPH = "fusion.fp32"


def _largest_difference(bundle: Bundle, features: dict[str, np.ndarray]) -> float:
    """Of native fp32 answers from ONNX Runtime's."""
    found = []
    for backend in ("onnxruntime", "native"):
        with open_runner(bundle, _GRAPH, backend=backend) as runner:
            found.append(runner.infer(features)["score"])
    return float(np.abs(found[0] - found[1]).max())


def rows_of(path: Path, seeds: tuple[int, ...], work: Path) -> list[str]:
    """A line of the table a seed and hop."""
    data = load_dataset(path)
    test = data.splits["test"]
    random = np.random.default_rng(0)
    rows = []
    for seed in seeds:
        out = work / f"seed{seed}.dmd"
        if not out.exists():
            trained = work / f"seed{seed}"
            run = (
                Run.open(trained)
                if (trained / MODEL_FILE).is_file()
                else train_run(path, "small", trained, [f"training.seed={seed}"], device="cpu", quiet=True)
            )
            export_run(run, out, int8=True, int8_search="none", calib=path, parity_data=path)
        bundle = Bundle.open(out)
        ledger = measure(
            bundle,
            split=test,
            split_name="test",
            source=path.name,
            data_sha256=data.sha256,
            backends=("onnxruntime", "native"),
            sample_values=False,
        )
        features = test.features()
        noise = {name: random.normal(size=(RANDOM_SAMPLES, *array.shape[1:])) for name, array in features.items()}
        apart = [
            _largest_difference(bundle, given)
            for given in (features, {name: array.astype(np.float32) for name, array in noise.items()})
        ]
        for hop in ledger.hops:
            if hop.target.startswith("fusion.") and ("@native" in hop.target or hop.target == "fusion.int8-cpu"):
                interval = hop.metrics["mae"].interval
                change = "-" if interval is None else f"{interval[0]:+.4f} .. {interval[1]:+.4f}"
                rows.append(
                    f"| {seed} | {hop.source} -> {hop.target} | {hop.status} | {hop.max_error or 0:.1e} | "
                    f"{hop.p99_error or 0:.1e} | {hop.correlation or 0:.6f} | {change} | {apart[0]:.1e}, {apart[1]:.1e} |"
                )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--work", type=Path, help="keep runs and bundles here, and use those that are there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dmdkit-mosi-") as directory:
        rows = rows_of(arguments.data, tuple(arguments.seeds), arguments.work or Path(directory))
    print(f"{native_version()}\n")
    print("| seed | hop | verdict | max | p99 | correlation | change in MAE, 95 % | fp32 from ONNX Runtime: test, random |")
    print("|---" * 8 + "|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
