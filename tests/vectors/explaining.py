"""Which graph explains, by the verdicts of a bundle: cases that both languages are held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmdkit.errors import BundleError
from dmdkit.runtime.choice import explain_graph
from dmdkit.runtime.manifest import GraphRecord, Manifest, VerdictRecord


def explains() -> list[dict[str, Any]]:
    """Which graph explains what another predicts."""
    passed, failed, unproven = "passed", "failed", "unverified"
    cases = [
        ("the same precision where it passed", "int8-cpu", False, {"fp32": passed, "int8-cpu": passed}),
        ("another that passed where the same failed", "int8-cpu", False, {"fp32": passed, "int8-cpu": failed}),
        ("another that passed where the same was never checked", "int8-cpu", False, {"fp32": passed, "int8-cpu": unproven}),
        ("int8 where fp32 failed", "fp32", False, {"fp32": failed, "int8-cpu": passed}),
        ("fp32 where fp32 predicts", "fp32", False, {"fp32": passed, "int8-cpu": passed}),
        ("fp32 where there is no other", "int8-cpu", False, {"fp32": passed}),
        ("none where none passed", "fp32", False, {"fp32": failed, "int8-cpu": unproven}),
        ("none where there is none", "fp32", False, {}),
        ("by name, whatever its verdict", "int8-cpu", True, {"fp32": passed, "int8-cpu": failed}),
        ("by name, fp32 where there is no other", "int8-cpu", True, {"fp32": failed}),
        ("by name, none where there is none", "int8-cpu", True, {}),
    ]
    found = []
    for name, precision, asked_for, verdicts in cases:
        case: dict[str, Any] = {"name": name, "precision": precision, "asked_for": asked_for, "verdicts": verdicts}
        try:
            case["graph"] = explain_graph(explain_manifest(verdicts), f"fusion.{precision}", asked_for=asked_for)
        except BundleError as cause:
            case["refusal"] = str(cause)
        found.append(case)
    return found


def explain_manifest(verdicts: Mapping[str, str]) -> Manifest:
    """A manifest of two fusion graphs and explain graphs with these verdicts by precision, and nothing else."""
    graphs = {}
    for name, verdict in {
        "fusion.fp32": "passed",
        "fusion.int8-cpu": "passed",
        **{f"explain.{precision}": verdict for precision, verdict in verdicts.items()},
    }.items():
        kind, precision = name.split(".")
        record = VerdictRecord.model_construct(status=verdict, reason="", samples=60)
        graphs[name] = GraphRecord.model_construct(kind=kind, precision=precision, verdict=record)
    return Manifest.model_construct(graphs=graphs)
