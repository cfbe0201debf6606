"""Which manifests this version reads: the rule that lets a deployed robot read what a later dmdkit wrote (docs/bundle.md).

Another major version is refused. Of a later minor version, what is unknown is left out; whatever must not be left out stands
in ``requires``, and a reader that does not know an entry there refuses the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "SCHEMA_MINOR",
    "SCHEMA_VERSION",
    "TEXT_LENGTHS_RECORD",
    "RequirementRecord",
    "in_oldest_minor",
    "version_problem",
    "without_unknown",
]

SCHEMA_VERSION = 1
SCHEMA_MINOR = 2
"""1.0 knew no ``schema_minor``; 1.1 added that, ``requires`` and verdicts on the native kernels; 1.2 step graphs, and text
graphs that take any length."""

_BACKENDS_OF_1_0 = frozenset({"openvino"})

REAL_STEPS = "real-steps"
"""Window graphs take ``steps`` (B,) int64: real steps come first, zeros behind, and the last real step is read."""


class RequirementRecord(BaseModel):
    """Something without which a reader would misunderstand the bundle's inputs or outputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="what a reader must know, such as `streams`")
    since: str = Field(description="the first version of dmdkit that knows it, such as `0.3.0`")


TEXT_LENGTHS_RECORD = RequirementRecord(name="text-lengths", since="0.1.0")
"""Of a bundle whose text graphs take sentences at their own length: a reader of 1.1 takes graphs of fixed sizes only."""

REAL_STEPS_RECORD = RequirementRecord(name=REAL_STEPS, since="0.1.0")
"""Of a bundle whose model was trained on real steps."""

KNOWN_REQUIREMENTS = frozenset({TEXT_LENGTHS_RECORD.name, REAL_STEPS})
"""Names in ``requires`` that this version fulfils."""


def version_problem(values: Any) -> str | None:
    """Why a manifest is not for this version, or None: another major version, or something unknown that it requires.

    Args:
        values: The parsed manifest, not checked yet; what has another form is left to the check.
    """
    found = values.get("schema_version") if isinstance(values, dict) else None
    if type(found) is not int or found != SCHEMA_VERSION:
        shown = f"{found!r:.40}" if isinstance(found, (int, str)) else "missing"  # a nested value may be too deep to print
        return (
            f"schema version {shown}, this dmdkit reads version {SCHEMA_VERSION}; "
            "use the dmdkit that wrote the bundle, or export it again"
        )
    entries = values.get("requires")
    for entry in entries if isinstance(entries, list) else []:
        name, since = (entry.get("name"), entry.get("since")) if isinstance(entry, dict) else (None, None)
        if isinstance(name, str) and isinstance(since, str) and name not in KNOWN_REQUIREMENTS:
            return f"it requires '{name:.60}', which this dmdkit does not know; use dmdkit {since:.20} or newer"
    return None


def in_oldest_minor(values: dict[str, Any]) -> dict[str, Any]:
    """A manifest to write, in the oldest minor version that says it all: a reader of 1.0 refuses keys it does not know."""
    verdicts = {name for graph in values["graphs"].values() for name in graph["backends"]}
    later = values["requires"] or verdicts - _BACKENDS_OF_1_0
    text = values.get("text")
    any_length = text is not None and text.get("lengths") == "dynamic"
    if text is not None and not any_length:
        values = {**values, "text": {key: value for key, value in text.items() if key != "lengths"}}
    minor = max(values["schema_minor"], 2 if values["stream"] or any_length else 1 if later else 0)
    added = {"schema_minor": minor} | ({"requires": values["requires"]} if values["requires"] else {})
    left_out = ("schema_minor", "requires", *(() if values["stream"] else ("stream",)))
    kept = {key: value for key, value in values.items() if key not in left_out}
    return {"schema_version": kept.pop("schema_version"), **(added if minor else {}), **kept}


def without_unknown(values: dict[str, Any], errors: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Takes what is unknown out of a manifest of a later minor version.

    That is: fields nobody here knows, graphs of an unknown kind or precision, and verdicts of an unknown backend.

    Args:
        values: The parsed manifest; changed in place.
        errors: Validation errors of the manifest.

    Returns:
        What was taken out, as ``graphs.fusion.fp8`` or ``inputs.text.rate``.
    """
    ignored: set[tuple[Any, ...]] = set()
    for error in errors:
        at = tuple(error["loc"])
        match at:
            case ("graphs", _, "kind" | "precision") if error["type"] == "literal_error":
                at = at[:2]
            case ("graphs", _, "backends", _, "[key]"):
                at = at[:4]
            case _ if error["type"] != "extra_forbidden":
                continue
        ignored.add(at)
    ignored = {at for at in ignored if not any(at[:depth] in ignored for depth in range(1, len(at)))}
    for at in ignored:
        inner: Any = values
        for key in at[:-1]:
            inner = inner[key]
        inner.pop(at[-1], None)
    return tuple(sorted(".".join(map(str, at)) for at in ignored))
