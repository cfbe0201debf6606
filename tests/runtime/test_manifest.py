"""A manifest is read without trust: whatever it holds, the answer is a checked record or one BundleError."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmdkit.errors import BundleError
from dmdkit.model.dmd import GRAPH_ORDER
from dmdkit.model.gd_unit import EDGES
from dmdkit.runtime.manifest import MAX_MANIFEST_BYTES, Manifest, read_manifest, write_manifest
from tests.runtime.builders import edit_manifest


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_manifest(bundle)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert message.isprintable()
    return message


@pytest.fixture
def text(tiny_bundle: Path) -> str:
    return (tiny_bundle / "manifest.json").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.dmd").mkdir()
    return tmp_path / "x.dmd"


def test_a_manifest_survives_being_written_and_read(tiny_bundle: Path, folder: Path):
    manifest = read_manifest(tiny_bundle)
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest


def test_a_bundle_that_is_not_there_or_is_a_file_says_so(tmp_path: Path):
    assert "no such bundle" in refusal(tmp_path / "nothing.dmd")
    (tmp_path / "packed.dmd").write_bytes(b"")
    assert "is a file; a bundle is a directory" in refusal(tmp_path / "packed.dmd")
    assert "cannot be read" in refusal(tmp_path / ("x" * 500))


def test_a_directory_without_manifest_is_not_a_bundle(folder: Path):
    assert "not a bundle: manifest.json is missing" in refusal(folder)
    (folder / "manifest.json").mkdir()
    assert "not a bundle: manifest.json is missing" in refusal(folder)


def test_a_manifest_that_is_a_pipe_is_refused_without_waiting_for_it(folder: Path):
    os.mkfifo(folder / "manifest.json")
    assert "not a file of the bundle itself" in refusal(folder)


def test_a_manifest_that_links_out_of_the_bundle_is_refused(tiny_bundle: Path, folder: Path):
    (folder / "manifest.json").symlink_to(tiny_bundle / "manifest.json")
    assert "a link that leaves it" in refusal(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_manifest_without_read_permission_says_so(bundle_copy: Path):
    (bundle_copy / "manifest.json").chmod(0)
    assert "cannot be read" in refusal(bundle_copy)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -2])
def test_a_truncated_manifest_is_damaged(folder: Path, text: str, keep: float):
    end = int(len(text.rstrip()) * keep) if 0 < keep < 1 else int(keep)
    (folder / "manifest.json").write_text(text.rstrip()[:end])
    assert "damaged" in refusal(folder)


def test_a_twenty_megabyte_manifest_is_refused_unread(folder: Path, text: str):
    (folder / "manifest.json").write_text(text + " " * (20 << 20))
    assert f"larger than {MAX_MANIFEST_BYTES} bytes" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"null",
        b"[]",
        b"1",
        b'"text"',
        b"{}",
        b"[" * 200_000,
        b'{"schema_version": ' * 100_000,
        b'{"schema_version": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"schema_version": ' + b"1" * 5000 + b"}",
        b'{"schema_version": 1}',
        b'{"schema_version": NaN}',
        b'{"schema_version": 1, "schema_version": 1}',
        b'{"schema_version": 1, "name": "\\ud800"}',
        b'{"schema_version": 1, "' + b"k\\n\\u001b" * 10_000 + b'": 1}',
    ],
)
def test_what_is_no_manifest_is_one_short_error(folder: Path, content: bytes):
    (folder / "manifest.json").write_bytes(content)
    refusal(folder)


@pytest.mark.parametrize("version", [0, 2, 1.0, True, "1", None, [1], 10**30])
def test_only_the_integer_one_is_a_schema_version(bundle_copy: Path, version: object):
    edit_manifest(bundle_copy, lambda values: values.update(schema_version=version))
    assert "this dmdkit reads version 1" in refusal(bundle_copy)


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/passwd",
        "graphs/../../x",
        "graphs//x",
        "./x",
        ".hidden",
        "graphs/",
        "",
        "a\\b",
        "c:x",
        "a\n",
        "a\x00b",
        "~/x",
        "ü",
        "%2e%2e/x",
    ],
)
def test_file_names_cannot_leave_the_bundle(bundle_copy: Path, name: str):
    record = {"sha256": "0" * 64, "size_bytes": 0}
    edit_manifest(bundle_copy, lambda values: values["files"].update({name: record}))
    assert "not a plain relative path" in refusal(bundle_copy)


def first_graph(values: dict[str, Any]) -> dict[str, Any]:
    return values["graphs"]["fusion.fp32"]


def add_text(values: dict[str, Any]) -> None:
    """A text encoder's record and graph, on files that are there for other things."""
    graph = {**first_graph(values), "kind": "text"}
    values["graphs"]["text.fp32"] = graph
    values["text"] = {
        "tokenizer": graph["file"],
        "max_tokens": 6,
        "vocabulary_size": 100,
        "pad_id": 0,
        "padding_side": "left",
        "padded_steps": "zero",
        "fine_tuned": True,
        "encoder_sha256": "0" * 64,
    }


def test_a_manifest_may_have_a_text_encoder_or_not_say_so(bundle_copy: Path):
    edit_manifest(bundle_copy, add_text)
    found = read_manifest(bundle_copy)
    assert found.text is not None
    assert found.text.max_tokens == 6
    edit_manifest(bundle_copy, lambda v: (v.pop("text"), v["graphs"].pop("text.fp32")))
    assert read_manifest(bundle_copy).text is None


TEXT_EDITS = {
    "a text record without its graph": lambda v: v["graphs"].pop("text.fp32"),
    "a text graph without its record": lambda v: v.update(text=None),
    "a text graph without the fp32 one": lambda v: (
        v["graphs"].update({"text.int8-cpu": {**v["graphs"].pop("text.fp32"), "precision": "int8-cpu"}}),
        v.update(text=None),
    ),
    "other tokens than steps": lambda v: v["text"].update(max_tokens=7),
    "a tokenizer that is not listed": lambda v: v["text"].update(tokenizer="tokenizer.json"),
    "a pad that is no token": lambda v: v["text"].update(pad_id=100),
    "a third side": lambda v: v["text"].update(padding_side="middle"),
    "an unknown key in the text record": lambda v: v["text"].update(surprise=1),
}


@pytest.mark.parametrize("what", TEXT_EDITS)
def test_a_text_record_that_does_not_fit_is_damaged(bundle_copy: Path, what: str):
    edit_manifest(bundle_copy, add_text)
    edit_manifest(bundle_copy, TEXT_EDITS[what])
    assert "damaged" in refusal(bundle_copy)


EDITS = {
    "an unknown key": lambda v: v.update(surprise=1),
    "an unknown nested key": lambda v: v["inputs"]["text"].update(surprise=1),
    "a missing key": lambda v: v.pop("golden"),
    "a number as text": lambda v: v["inputs"]["text"].update(steps="6"),
    "a truth value as number": lambda v: v["golden"].update(samples=True),
    "a fraction as count": lambda v: v["inputs"]["text"].update(steps=6.5),
    "a huge count": lambda v: v["inputs"]["text"].update(steps=10**40),
    "a huge size": lambda v: v["files"][v["golden"]["file"]].update(size_bytes=10**400),
    "a negative size": lambda v: v["files"][v["golden"]["file"]].update(size_bytes=-1),
    "a number beyond float32": lambda v: v["inputs"]["text"].update(minimum=[-1e39] * 7),
    "null for a list": lambda v: v.update(edge_order=None),
    "a list for an object": lambda v: v.update(graphs=[]),
    "an upper-case hash": lambda v: v["source"].update(model_sha256="A" * 64),
    "a hash with a newline": lambda v: v["source"].update(model_sha256="a" * 64 + "\n"),
    "another precision": lambda v: first_graph(v).update(precision="fp64"),
    "a graph under another's name": lambda v: v["graphs"].update({"explain.fp32": first_graph(v)}),
    "a graph without file": lambda v: first_graph(v).update(file="graphs/nothing.onnx"),
    "golden samples without file": lambda v: v["golden"].update(file="golden/nothing.safetensors"),
    "more golden ids than samples": lambda v: v["golden"]["ids"].append("one more"),
    "an input too few": lambda v: v["inputs"].pop("audio"),
    "an input too many": lambda v: v["inputs"].update(smell=v["inputs"]["audio"]),
    "steps other than the model's": lambda v: v["inputs"]["text"].update(steps=7),
    "a range of another width": lambda v: v["inputs"]["text"].update(minimum=[0.0]),
    "half a range": lambda v: v["inputs"]["text"].update(minimum=None),
    "a range upside down": lambda v: v["inputs"]["text"].update(minimum=[1e9] * 7),
    "an empty label range": lambda v: v.update(label_range=[3, -3]),
    "regression without label range": lambda v: v.update(label_range=None),
    "classes with label range": lambda v: v.update(task="classification"),
    "a modality twice": lambda v: v.update(modality_order=["text", "text", "audio"]),
    "an edge twice": lambda v: v["edge_order"].__setitem__(0, v["edge_order"][1]),
    "an edge of something else": lambda v: v["edge_order"].__setitem__(0, ["text", "smell"]),
    "modalities in another order than the graphs'": lambda v: v["modality_order"].reverse(),
    "edges in another order than the graphs'": lambda v: v["edge_order"].reverse(),
    "edges from teacher to student": lambda v: [edge.reverse() for edge in v["edge_order"]],
    "an edge from a modality to itself": lambda v: v["edge_order"].__setitem__(0, ["text", "text"]),
    "a session option that loads something": lambda v: first_graph(v).update(
        session_options={"session.model_external_initializers_file_folder_path": "/etc"}
    ),
    "session options that are no text": lambda v: first_graph(v).update(session_options={"session.disable_quant_qdq": 1}),
    "an unknown verdict": lambda v: first_graph(v)["verdict"].update(status="excellent"),
    "a share above one": lambda v: first_graph(v).update(weights_stored_int8=1.5),
    "heads that do not divide the width": lambda v: v["model"].update(heads=3),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_manifest_with_wrong_content_is_damaged(bundle_copy: Path, what: str):
    edit_manifest(bundle_copy, EDITS[what])
    assert "damaged" in refusal(bundle_copy)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_lacks_are_refused(folder: Path, text: str, number: str):
    value = json.loads(text)["output_sd"]
    (folder / "manifest.json").write_text(text.replace(f'"output_sd": {value}', f'"output_sd": {number}'))
    assert "damaged" in refusal(folder)


def test_a_key_that_occurs_twice_deep_inside_is_refused(folder: Path, text: str):
    (folder / "manifest.json").write_text(text.replace('"steps": 6,', '"steps": 6, "steps": 6,', 1))
    assert "a key occurs twice" in refusal(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_the_bytes_gives_a_manifest_or_a_bundle_error(folder: Path, text: str, data: st.DataObject):
    damaged = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        length = data.draw(st.integers(0, 30))
        damaged[at : at + length] = data.draw(
            st.one_of(st.binary(max_size=12), st.text('{}[]",:0-9e.tn', max_size=8).map(str.encode))
        )
    (folder / "manifest.json").write_bytes(damaged)
    try:
        assert isinstance(read_manifest(folder), Manifest)
    except BundleError:
        refusal(folder)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_gives_a_manifest_or_a_bundle_error(folder: Path, text: str, data: st.DataObject):
    values = json.loads(text)
    node: Any = values
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        child = node[key]
        if not isinstance(child, dict | list) or not child or data.draw(st.booleans()):
            break
        node = child
    scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20))
    node[key] = data.draw(
        st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
    )
    (folder / "manifest.json").write_text(json.dumps(values))
    try:
        assert isinstance(read_manifest(folder), Manifest)
    except BundleError:
        refusal(folder)


def test_a_read_only_bundle_cannot_be_written_and_says_so(tiny_bundle: Path, tmp_path: Path):
    manifest = read_manifest(tiny_bundle)
    shutil.copy(tiny_bundle / "manifest.json", tmp_path / "file")
    with pytest.raises(BundleError, match="cannot write"):
        write_manifest(tmp_path / "file", manifest)


def test_the_orders_are_those_of_the_graphs(tiny_bundle: Path):
    found = read_manifest(tiny_bundle)
    assert (tuple(found.modality_order), tuple(found.edge_order)) == (GRAPH_ORDER, EDGES)
