"""Which manifests are read: those of today, of 0.1 and of the next minor version; and what a later dmdkit may add."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmdkit.errors import BundleError
from dmdkit.runtime import Runtime
from dmdkit.runtime.format_version import SCHEMA_MINOR, RequirementRecord
from dmdkit.runtime.manifest import read_manifest, write_manifest
from tests.conftest import ROOT
from tests.older_files import BUNDLES, assert_same_as_then, inputs_of
from tests.runtime.builders import edit_manifest

NEXT = SCHEMA_MINOR + 1


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLES / "features", tmp_path / "features"))


def add_later_fields(values: dict[str, Any]) -> None:
    values["sampling"] = {"rate": 30}
    values["inputs"]["text"]["rate"] = 30
    values["graphs"]["fusion.fp32"]["backends"] = {"another": values["graphs"]["fusion.fp32"]["verdict"]}
    values["graphs"]["fusion.fp4"] = values["graphs"]["fusion.fp32"] | {"precision": "fp4"}


def test_what_the_next_minor_version_adds_is_left_out_and_said_once(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_manifest(bundle, lambda values: (values.update(schema_minor=NEXT), add_later_fields(values)))
    samples = inputs_of("features")
    with Runtime.open(bundle, graph="fp32", backend="onnxruntime", device="cpu") as runtime:
        found = {"score": runtime.predict(**samples).score, "explain_score": runtime.explain(**samples).score}
        notes = runtime.notes
        assert "fusion.fp4" not in runtime.manifest.graphs
    assert_same_as_then("features", "fp32", found)
    said = f"of format 1.{NEXT}, this dmdkit reads 1.{SCHEMA_MINOR}: it leaves out "
    assert notes == (said + "graphs.fusion.fp32.backends.another, graphs.fusion.fp4, inputs.text.rate, sampling",)
    assert caplog.text.count("leaves out") == 1


def test_a_later_minor_version_must_still_be_whole(bundle: Path) -> None:
    edit_manifest(bundle, lambda values: (values.update(schema_minor=NEXT), values.pop("golden"), add_later_fields(values)))
    with pytest.raises(BundleError, match="damaged: golden: Field required"):
        read_manifest(bundle)


@pytest.mark.parametrize("minor", [None, 0, SCHEMA_MINOR])
def test_in_a_version_that_is_known_an_unknown_field_is_damage(bundle: Path, minor: int | None) -> None:
    edit_manifest(bundle, lambda values: values.update({} if minor is None else {"schema_minor": minor}))
    assert read_manifest(bundle).ignored == ()
    edit_manifest(bundle, add_later_fields)
    with pytest.raises(BundleError, match="damaged"):
        read_manifest(bundle)


@pytest.mark.parametrize("minor", [-1, 1.0, "1", None, True])
def test_a_minor_version_is_a_count(bundle: Path, minor: object) -> None:
    edit_manifest(bundle, lambda values: values.update(schema_minor=minor))
    with pytest.raises(BundleError, match="damaged: schema_minor"):
        read_manifest(bundle)


@pytest.mark.parametrize("minor", [SCHEMA_MINOR, NEXT])
def test_what_it_requires_and_is_not_known_is_refused_with_the_version_that_knows_it(bundle: Path, minor: int) -> None:
    entry = {"name": "streams", "since": "0.3.0"} | ({"why": "state"} if minor == NEXT else {})
    edit_manifest(bundle, lambda values: values.update(schema_minor=minor, requires=[entry]))
    with pytest.raises(BundleError, match=r"requires 'streams', which this dmdkit does not know; use dmdkit 0\.3\.0 or newer"):
        read_manifest(bundle)


def test_another_major_version_is_refused_whatever_its_minor(bundle: Path) -> None:
    edit_manifest(bundle, lambda values: values.update(schema_version=2, schema_minor=NEXT))
    with pytest.raises(BundleError, match="schema version 2, this dmdkit reads version 1"):
        read_manifest(bundle)


def written(bundle: Path, change: Callable[[Any], Any] = lambda manifest: manifest) -> dict[str, Any]:
    write_manifest(bundle, change(read_manifest(bundle)))
    return dict(json.loads((bundle / "manifest.json").read_text()))


def test_a_bundle_that_needs_nothing_new_is_written_for_the_oldest_reader(bundle: Path) -> None:
    before = json.loads((bundle / "manifest.json").read_text())
    assert written(bundle) == before
    assert not {"schema_minor", "requires"} & set(before)


def test_what_is_required_is_written_with_the_minor_version_that_knows_the_field(bundle: Path) -> None:
    needed = RequirementRecord(name="streams", since="0.3.0")
    values = written(bundle, lambda manifest: manifest.model_copy(update={"requires": [needed]}))
    assert (values["schema_minor"], values["requires"]) == (1, [{"name": "streams", "since": "0.3.0"}])


def test_a_manifest_with_something_unknown_is_not_written_over(bundle: Path) -> None:
    edit_manifest(bundle, lambda values: (values.update(schema_minor=NEXT), add_later_fields(values)))
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match=r"would lose graphs\.fusion\.fp32\.backends\.another"):
        write_manifest(bundle, read_manifest(bundle))
    assert (bundle / "manifest.json").read_bytes() == before


def test_the_published_schema_is_current_and_takes_every_bundle() -> None:
    from scripts.bundle_schema import SCHEMA, schema

    assert SCHEMA.read_text(encoding="utf-8") == schema(), "run python scripts/bundle_schema.py"
    properties = json.loads(schema())["properties"]
    for name in ("features", "words"):
        assert set(json.loads((BUNDLES / name / "manifest.json").read_text())) <= set(properties)
    assert SCHEMA.is_relative_to(ROOT / "docs/schema")
