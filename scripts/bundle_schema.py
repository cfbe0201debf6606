"""Writes the JSON Schema of a bundle's manifest (docs/schema/), from the records that read and write it.

python scripts/bundle_schema.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dmdkit.runtime.format_version import SCHEMA_MINOR, SCHEMA_VERSION
from dmdkit.runtime.manifest import Manifest

SCHEMA = Path(__file__).resolve().parents[1] / f"docs/schema/bundle-{SCHEMA_VERSION}.json"


def schema() -> str:
    """The schema as its file holds it."""
    values = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"manifest.json of a dmdkit bundle, format {SCHEMA_VERSION}.{SCHEMA_MINOR}",
        "description": "What a writer of this minor version may write; readers ignore what a later one added (docs/bundle.md).",
    }
    model = Manifest.model_json_schema(mode="validation")
    return json.dumps(values | {key: value for key, value in model.items() if key not in values}, indent=2) + "\n"


def main() -> int:
    """The command line."""
    SCHEMA.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(schema(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
