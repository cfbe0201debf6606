"""What an engine is built from and for: its flags, its cache key and its sidecar, the same in dmdkit and in a device kit."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmdkit.runtime.engines.gpu import Gpu
    from dmdkit.runtime.engines.tensorrt_build import Built

__all__ = ["EngineIdentity", "machine"]


def machine() -> str:
    """Operating system and processor, which a plan depends on."""
    return f"{platform.system()}-{platform.machine()}".lower()


@dataclass(frozen=True)
class EngineIdentity:
    """Everything a plan depends on.

    Attributes:
        target: Name of the device.
        graph: Name of the graph.
        graph_sha256: SHA-256 of its ONNX file.
        flavour: Package that builds: tensorrt or tensorrt_rtx.
        version: Exact version of that package.
        capabilities: Compute capabilities the plan is for.
        gpu: Name of the GPU the plan is bound to; None: any of those capabilities.
        batch: Smallest, tuned and largest batch.
        workspace_mib: Limit of the workspace pool.
        lengths: Smallest, tuned and largest number of tokens of a text graph that takes any; None: its inputs are of one size.
    """

    target: str
    graph: str
    graph_sha256: str
    flavour: str
    version: str
    capabilities: Sequence[str]
    gpu: str | None
    batch: tuple[int, int, int]
    workspace_mib: int
    lengths: tuple[int, int, int] | None = None

    @property
    def name(self) -> str:
        """``TARGET.KIND.PRECISION``, the stem of the engine's files."""
        return f"{self.target}.{self.graph}"

    @property
    def flags(self) -> dict[str, str | int | bool]:
        """Builder settings."""
        return {"strongly_typed": True, "tf32": False, "workspace_mib": self.workspace_mib, "profiling_verbosity": "detailed"}

    @property
    def cache_key(self) -> str:
        """SHA-256 over all of it but the target's name."""
        parts = {
            "graph": self.graph_sha256,
            "flavour": self.flavour,
            "version": self.version,
            "capabilities": list(self.capabilities),
            "gpu": self.gpu,
            "platform": machine(),
            "batch": list(self.batch),
            "flags": self.flags,
            **({"lengths": list(self.lengths)} if self.lengths is not None else {}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def sidecar(
        self, built: Built, *, model_sha256: str, gpu: Gpu | None, seconds: float, notes: Sequence[str]
    ) -> dict[str, Any]:
        """The sidecar of a finished plan, without what is measured afterwards.

        Args:
            built: The plan and what the builder said of it.
            model_sha256: SHA-256 of the run's weights.
            gpu: The GPU that built; None: built without one.
            seconds: Duration of the build.
            notes: Sentences for whoever reads the sidecar.
        """
        return {
            "schema_version": 1,
            "target": self.target,
            "graph": self.graph,
            "graph_sha256": self.graph_sha256,
            "model_sha256": model_sha256,
            "flavour": self.flavour,
            "version": self.version,
            "compute_capabilities": list(self.capabilities),
            "platform": machine(),
            "gpu": self.gpu,
            "driver": gpu.driver if gpu is not None else None,
            "plan": f"{self.name}.plan",
            "plan_sha256": hashlib.sha256(built.plan).hexdigest(),
            "plan_bytes": len(built.plan),
            "batch": list(self.batch),
            **({"lengths": list(self.lengths)} if self.lengths is not None else {}),
            "flags": self.flags,
            "inputs": [{**asdict(item), "shape": list(item.shape)} for item in built.inputs],
            "outputs": [{**asdict(item), "shape": list(item.shape)} for item in built.outputs],
            "products": [asdict(item) for item in built.products],
            "cache_key": self.cache_key,
            "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "build_seconds": round(seconds, 3),
            "notes": list(notes),
        }
