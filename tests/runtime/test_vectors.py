"""The vectors that C++ is held to say what Python's rules say today (runtime/cpp/tests/vectors_test.cpp reads the same)."""

import json

import numpy as np
import pytest

from dmdkit.errors import BundleError, InputError
from dmdkit.runtime.choice import explain_graph
from dmdkit.runtime.inputs import RangeGuard, check_inputs, is_for_text_encoder
from dmdkit.runtime.manifest import InputRecord
from dmdkit.runtime.self_check import check_outputs
from dmdkit.runtime.text.lengths import length_groups
from dmdkit.runtime.text.tokenizer import Layout, lay_out, without_padding
from tests.vectors.arrivals import outcomes_of
from tests.vectors.explaining import explain_manifest
from tests.vectors.generate import FOLDER, vectors

FILES = sorted(path.name for path in FOLDER.glob("*.json"))


def cases(kind: str) -> list[object]:
    found = [(name, case) for name in FILES for case in json.loads((FOLDER / name).read_text()).get(kind, [])]
    return [pytest.param(case, id=f"{name}: {case['name']}") for name, case in found]


def tensor(item: dict) -> np.ndarray:
    return np.array([float(value) for value in item["values"]], np.float32).reshape(item["shape"])


def test_the_files_are_current() -> None:
    expected = vectors()
    assert sorted(expected) == FILES
    for name, text in expected.items():
        # Parsed, because a sum's last digit may be another on another CPU; what is rounded is compared below.
        now, then = json.loads((FOLDER / name).read_text()), json.loads(text)
        for kind in {*now, *then}:
            names = [case["name"] for case in now[kind]]
            assert names == [case["name"] for case in then[kind]], f"{name}: run python -m tests.vectors.generate"
            assert len(set(names)) == len(names)
            for left, right in zip(now[kind], then[kind], strict=True):
                given = {key for key in left if key not in ("alarms", "verdict")}
                assert {key: left[key] for key in given} == {key: right.get(key) for key in given}, (
                    f"{name}: {left['name']}: run python -m tests.vectors.generate"
                )


@pytest.mark.parametrize("case", cases("inputs"))
def test_inputs(case: dict) -> None:
    records = {name: InputRecord.model_validate(record) for name, record in case["records"].items()}
    values = {
        name: None
        if numbers is None
        else tensor({"values": numbers, "shape": (case["batch"], records[name].steps, records[name].features)})
        for name, numbers in case["values"].items()
    }
    guard = RangeGuard(records)
    if "refusal" in case:
        with pytest.raises(InputError) as refused:
            check_inputs(values, records, guard)
        assert str(refused.value) == case["refusal"]
        return
    assert guard.alarms(check_inputs(values, records, guard).feed) == pytest.approx(case["alarms"], abs=1e-12)


@pytest.mark.parametrize("case", cases("arrivals"))
def test_arrivals(case: dict) -> None:
    assert outcomes_of(case["options"], case["pushes"]) == case["outcomes"]


@pytest.mark.parametrize("case", cases("self_checks"))
def test_self_checks(case: dict) -> None:
    found, recorded = ({name: tensor(item) for name, item in case[key].items()} for key in ("found", "recorded"))
    how = {key: case[key] for key in ("only_stores_int8", "engine")}
    verdict = check_outputs("g", case["precision"], found, recorded, case["output_sd"], **how)
    expected = case["verdict"]
    assert (verdict.passed, verdict.worst_output) == (expected["passed"], expected["worst_output"])
    assert verdict.max_error == pytest.approx(float("inf") if expected["max_error"] is None else expected["max_error"])
    assert verdict.tolerance == pytest.approx(expected["tolerance"])
    assert verdict.correlation == (None if expected["correlation"] is None else pytest.approx(expected["correlation"]))


@pytest.mark.parametrize("case", cases("explains"))
def test_explain_graphs(case: dict) -> None:
    manifest, predicting = explain_manifest(case["verdicts"]), f"fusion.{case['precision']}"
    if "refusal" in case:
        with pytest.raises(BundleError) as refused:
            explain_graph(manifest, predicting, asked_for=case["asked_for"])
        assert str(refused.value) == case["refusal"]
        return
    assert explain_graph(manifest, predicting, asked_for=case["asked_for"]) == case["graph"]


@pytest.mark.parametrize("case", cases("kinds"))
def test_what_is_words_ids_and_features(case: dict) -> None:
    assert is_for_text_encoder(case["value"]) == (case["kind"] != "features")


@pytest.mark.parametrize("case", cases("rows"))
def test_rows_of_ids(case: dict) -> None:
    tokens = without_padding(case["ids"], case["pad_id"])
    layout = Layout(case["max_tokens"], case["pad_id"], "left", case["vocabulary_size"])
    if "refusal" in case:
        with pytest.raises(InputError) as refused:
            lay_out([tokens], layout)
        assert str(refused.value) == case["refusal"]
        return
    assert tokens == case["tokens"]
    assert lay_out([tokens], layout).attention_mask.sum() == len(tokens)


@pytest.mark.parametrize("case", cases("groups"))
def test_groups_of_sentences(case: dict) -> None:
    assert length_groups(case["lengths"]) == case["groups"]
