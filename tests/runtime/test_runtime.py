"""The object an application holds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dmdkit.errors import AnswerError, BundleError, InputError
from dmdkit.runtime import Runtime, open_graph
from dmdkit.runtime.backends.base import Runner
from dmdkit.runtime.bundle import Bundle
from tests.runtime.builders import edit_manifest, golden_inputs, one_sample, put_file, set_verdict


@pytest.fixture
def runtime(tiny_bundle: Path) -> Any:
    with Runtime.open(tiny_bundle) as opened:
        yield opened


def test_predictions_equal_the_recorded_outputs_of_the_chosen_graph(runtime: Runtime, tiny_bundle: Path):
    golden = Bundle.open(tiny_bundle).golden()
    found = runtime.predict(**golden.inputs)
    assert (found.graph, runtime.graph) == ("fusion.int8-cpu",) * 2
    assert np.allclose(found.score, golden.recorded["fusion.int8-cpu"]["score"], atol=1e-6)
    assert found.score.shape == (16, 1)
    assert found.latency_ms > 0
    assert runtime.backend.startswith("onnxruntime")


def test_one_sample_is_answered_without_batch_axis_like_in_its_batch(runtime: Runtime, tiny_bundle: Path):
    one, many = runtime.predict(**one_sample(tiny_bundle, 3)), runtime.predict(**golden_inputs(tiny_bundle))
    assert one.score.shape == (1,)
    assert np.allclose(one.score, many.score[3], atol=1e-6)


def test_explanations_carry_every_output_in_the_manifests_order(runtime: Runtime, tiny_bundle: Path):
    golden = Bundle.open(tiny_bundle).golden()
    found, one = runtime.explain(**golden.inputs), runtime.explain(**one_sample(tiny_bundle))
    recorded = golden.recorded["explain.int8-cpu"]
    for name, array in recorded.items():
        assert np.allclose(getattr(found, name), array, atol=1e-6), name
        assert np.allclose(getattr(one, name), array[0], atol=1e-6), name
    assert found.graph == "explain.int8-cpu"
    assert found.edges_homo is not None
    assert np.allclose(found.edges_homo.sum(1), 1, atol=1e-5)
    assert found.modality_order == ("text", "vision", "audio")
    assert found.edge_order[0] == ("text", "vision")
    assert one.logit_homo.shape == (3, 1)


class NotANumber(Runner):
    """A runner one of whose outputs overflowed."""

    def __init__(self, runner: Runner, output: str) -> None:
        super().__init__(runner.name)
        self._runner, self._output = runner, output

    backend = property(lambda self: self._runner.backend)
    inputs = property(lambda self: self._runner.inputs)
    outputs = property(lambda self: self._runner.outputs)

    def _infer(self, feed: Any) -> dict[str, np.ndarray]:
        found = dict(self._runner.infer(feed))
        found[self._output] = np.full_like(found[self._output], np.nan)
        return found


def test_what_is_not_finite_is_no_answer(runtime: Runtime, tiny_bundle: Path):
    sample = one_sample(tiny_bundle)
    runtime.explain(**sample)
    assert runtime._explain_runner is not None
    runtime._explain_runner = NotANumber(runtime._explain_runner, "edges_homo")
    with pytest.raises(AnswerError, match=r"^explain.int8-cpu: edges_homo is not finite for inputs that are"):
        runtime.explain(**sample)
    runtime._runner = NotANumber(runtime._runner, "score")
    with pytest.raises(AnswerError, match=r"^fusion.int8-cpu: score is not finite for inputs that are.*dmdkit check"):
        runtime.predict(**sample)


def test_the_caller_may_name_a_precision_or_a_graph(tiny_bundle: Path):
    for asked, name in (("fp32", "fusion.fp32"), ("fusion.int8-trt", "fusion.int8-trt")):
        with Runtime.open(str(tiny_bundle), graph=asked) as runtime:
            assert runtime.graph == name


@pytest.mark.parametrize("asked", ["fp64", "explain.fp32", "gd_homo.fp32", "", "../x"])
def test_a_graph_that_is_not_there_is_an_error_that_lists_those_that_are(tiny_bundle: Path, asked: str):
    with pytest.raises(BundleError, match=r"no fusion graph .*; the bundle has fusion.fp32, fusion.int8-cpu"):
        Runtime.open(tiny_bundle, graph=asked)


@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"threads": -1}, {"threads": "2"}, {"device": "tpu"}, {"graph": ["fp32"]}, {"path": None}]
)
def test_options_that_cannot_be_are_input_errors(tiny_bundle: Path, options: dict[str, Any]):
    with pytest.raises(InputError, match="expected"):
        Runtime.open(**{"path": tiny_bundle, **options})


def test_a_number_of_threads_may_be_one_of_numpy(tiny_bundle: Path):
    with Runtime.open(tiny_bundle, graph="fp32", threads=np.int64(2)) as runtime:
        assert runtime.graph == "fusion.fp32"


def test_a_device_this_onnx_runtime_lacks_is_an_error(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dmdkit.runtime.backends.onnxruntime.available_devices", lambda: ["cpu"])
    with pytest.raises(InputError, match="this ONNX Runtime has only cpu"):
        Runtime.open(tiny_bundle, device="cuda")


@pytest.mark.parametrize("status", ["failed", "unverified"])
def test_auto_never_picks_a_graph_that_has_not_passed(bundle_copy: Path, status: str):
    set_verdict(bundle_copy, status, "fusion.int8-cpu")
    with Runtime.open(bundle_copy) as runtime:
        assert runtime.graph == "fusion.fp32"
    set_verdict(bundle_copy, status, "fusion.fp32")
    with pytest.raises(BundleError, match=f"has passed parity .*fusion.fp32 {status}.*dmdkit check"):
        Runtime.open(bundle_copy)  # int8-trt has passed, but a CPU only simulates it
    with Runtime.open(bundle_copy, graph="fp32") as runtime:
        assert runtime.graph == "fusion.fp32"


def test_only_a_proven_graph_explains_what_auto_predicted(bundle_copy: Path):
    set_verdict(bundle_copy, "failed", "explain.int8-cpu")
    with Runtime.open(bundle_copy) as runtime:
        assert runtime.graph == "fusion.int8-cpu"
        assert runtime.explain(**one_sample(bundle_copy)).graph == "explain.fp32"
    set_verdict(bundle_copy, "failed", "explain.fp32")
    with Runtime.open(bundle_copy) as runtime:
        runtime.predict(**one_sample(bundle_copy))
        with pytest.raises(BundleError, match="no explain graph of this bundle has passed parity"):
            runtime.explain(**one_sample(bundle_copy))


def test_a_graph_the_caller_named_is_explained_by_its_own_precision(bundle_copy: Path):
    set_verdict(bundle_copy, "unverified")
    with Runtime.open(bundle_copy, graph="int8-trt") as runtime:
        assert runtime.explain(**one_sample(bundle_copy)).graph == "explain.int8-trt"


def test_a_bundle_without_gd_units_explains_without_edges(bundle_copy: Path):
    model = onnx.load(bundle_copy / "graphs/explain.fp32.onnx")
    kept = [output for output in model.graph.output if not output.name.startswith("edges")]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    put_file(bundle_copy, "graphs/explain.fp32.onnx", model.SerializeToString())
    edit_manifest(bundle_copy, lambda v: [v["outputs"].pop(name) for name in ("edges_homo", "edges_hetero")])
    with Runtime.open(bundle_copy, graph="fp32") as runtime:
        found = runtime.explain(**one_sample(bundle_copy))
    assert (found.edges_homo, found.edges_hetero) == (None, None)


Damage = Callable[[Path], object]


def swap(bundle: Path) -> None:
    put_file(bundle, "graphs/fusion.int8-cpu.onnx", (bundle / "graphs/gd_homo.onnx").read_bytes())


def rename_output(bundle: Path) -> None:
    model = onnx.load(bundle / "graphs/fusion.int8-cpu.onnx")
    for node in model.graph.node:
        node.output[:] = ["other" if name == "score" else name for name in node.output]
    model.graph.output[0].name = "other"
    put_file(bundle, "graphs/fusion.int8-cpu.onnx", model.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: put_file(b, "graphs/fusion.int8-cpu.onnx", b"\0" * 100), "cannot load fusion.int8-cpu"),
        (lambda b: put_file(b, "graphs/fusion.int8-cpu.onnx", b""), "cannot load fusion.int8-cpu"),
        (swap, "takes logits .* not what the manifest says"),
        (rename_output, "gives other, not what the manifest says"),
    ],
    ids=["zeros", "empty", "another graph", "another output"],
)
def test_a_damaged_graph_with_its_hash_rewritten_is_one_error_on_opening(bundle_copy: Path, damage: Damage, message: str):
    damage(bundle_copy)
    with pytest.raises(BundleError, match=message) as caught:
        Runtime.open(bundle_copy)
    assert "\n" not in str(caught.value)


def test_wrong_inputs_are_refused_and_the_runtime_stays_usable(runtime: Runtime, tiny_bundle: Path):
    sample = one_sample(tiny_bundle)
    for call in (runtime.predict, runtime.explain):
        with pytest.raises(InputError, match="'vision' has shape"):
            call(**{**sample, "vision": sample["text"]})
        with pytest.raises(InputError, match="'audio' is absent, but this model was not trained without it"):
            call(text=sample["text"], vision=sample["vision"])
        with pytest.raises(InputError, match="'text' holds nan"):
            call(**{**sample, "text": sample["text"] * np.float32("nan")})
    assert runtime.predict(**sample).score.shape == (1,)


def test_a_modality_trained_absent_may_be_absent_and_means_zeros(bundle_copy: Path):
    edit_manifest(bundle_copy, lambda values: values["inputs"]["audio"].update(trained_absent=True))
    sample = one_sample(bundle_copy)
    with Runtime.open(bundle_copy) as runtime:
        absent = runtime.predict(text=sample["text"], audio=None, vision=sample["vision"])
        zeros = runtime.predict(**{**sample, "audio": np.zeros_like(sample["audio"])})
    assert np.array_equal(absent.score, zeros.score)
    assert absent.out_of_range == {}


def test_features_far_outside_the_training_range_reach_counter_result_and_callback(tiny_bundle: Path):
    heard: list[dict[str, float]] = []
    sample = one_sample(tiny_bundle)
    with Runtime.open(tiny_bundle, on_out_of_range=heard.append) as runtime:
        assert runtime.predict(**sample).out_of_range == {}
        assert (runtime.out_of_range_count, heard) == (0, [])
        strange = {**sample, "audio": sample["audio"] * np.float32(30)}
        found = runtime.predict(**strange)
        runtime.explain(**strange)
        assert set(found.out_of_range) == {"audio"}
        assert heard == [found.out_of_range] * 2
        assert runtime.out_of_range_count == 2


def test_a_callback_may_use_the_runtime_and_its_error_does_not_cost_the_answer(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
):
    sample = one_sample(tiny_bundle)
    strange = {name: array * np.float32(30) for name, array in sample.items()}

    def callback(_: dict[str, float]) -> None:
        runtime.predict(**sample)
        runtime.explain(**sample)
        raise ZeroDivisionError("in the application")

    with Runtime.open(tiny_bundle, on_out_of_range=callback) as runtime, Runtime.open(tiny_bundle) as silent:
        found, expected = runtime.predict(**strange), silent.predict(**strange)
        assert np.array_equal(found.score, expected.score)
        assert found.out_of_range == expected.out_of_range
        assert np.array_equal(runtime.explain(**strange).score, silent.explain(**strange).score)
        assert runtime.out_of_range_count == 2
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "on_out_of_range raised; predicting nevertheless"
    ] * 2
    assert "ZeroDivisionError: in the application" in caplog.text


def test_a_callback_that_predicts_what_alarmed_is_not_called_for_that(tiny_bundle: Path):
    strange = {name: array * np.float32(30) for name, array in one_sample(tiny_bundle).items()}
    heard = []

    def callback(alarms: dict[str, float]) -> None:
        heard.append(alarms)
        runtime.predict(**strange)

    with Runtime.open(tiny_bundle, on_out_of_range=callback) as runtime:
        for count in (1, 2):
            runtime.predict(**strange)
            assert (len(heard), runtime.out_of_range_count) == (count, 2 * count)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_callback_may_end_the_program(tiny_bundle: Path, stop: type[BaseException]):
    def callback(_: dict[str, float]) -> None:
        raise stop

    strange = {name: array * np.float32(30) for name, array in one_sample(tiny_bundle).items()}
    with Runtime.open(tiny_bundle, on_out_of_range=callback) as runtime, pytest.raises(stop):
        runtime.predict(**strange)


def test_a_bundle_opened_by_a_relative_path_explains_and_checks_itself_after_chdir(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sample = one_sample(bundle_copy)
    monkeypatch.chdir(bundle_copy.parent)
    with Runtime.open(bundle_copy.name) as runtime:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert runtime.explain(**sample).logit_homo.shape == (3, 1)
        assert runtime.self_check(every_graph=True).passed


def test_eight_threads_get_the_same_answers_as_one(runtime: Runtime, tiny_bundle: Path):
    samples = [one_sample(tiny_bundle, index) for index in range(10)]
    samples[0] = {name: array * np.float32(30) for name, array in samples[0].items()}
    expected = [runtime.predict(**sample).score for sample in samples]
    edges = runtime.explain(**samples[1]).edges_homo
    before = runtime.out_of_range_count

    def work(_: int) -> bool:
        same = all(np.array_equal(runtime.predict(**samples[i % 10]).score, expected[i % 10]) for i in range(50))
        return same and np.array_equal(runtime.explain(**samples[1]).edges_homo, edges)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert runtime.out_of_range_count == before + 8 * 5


def test_threads_that_explain_first_open_the_graph_once(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    real = open_graph.open_runner

    def counted(bundle: Bundle, graph: str, **options: Any) -> Runner:
        opened.append(graph)
        return real(bundle, graph, **options)

    monkeypatch.setattr(open_graph, "open_runner", counted)
    sample = one_sample(tiny_bundle)
    with Runtime.open(tiny_bundle) as runtime, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: runtime.explain(**sample), range(8)))
    assert opened == ["fusion.int8-cpu", "explain.int8-cpu"]


def test_two_runtimes_do_not_share_anything_that_closes(tiny_bundle: Path):
    sample = one_sample(tiny_bundle)
    with Runtime.open(tiny_bundle) as first:
        with Runtime.open(tiny_bundle, graph="fp32") as second:
            one, two = first.predict(**sample), second.predict(**sample)
            assert (one.graph, two.graph) == ("fusion.int8-cpu", "fusion.fp32")
        assert np.array_equal(first.predict(**sample).score, one.score)


def test_after_closing_every_call_says_closed_and_closing_again_does_nothing(tiny_bundle: Path):
    sample = one_sample(tiny_bundle)
    runtime = Runtime.open(tiny_bundle)
    runtime.explain(**sample)
    runtime.close()
    runtime.close()
    for call in (lambda: runtime.predict(**sample), lambda: runtime.explain(**sample), runtime.self_check):
        with pytest.raises(InputError, match="closed"):
            call()


def test_closing_while_threads_work_ends_each_call_with_an_answer_or_closed(tiny_bundle: Path):
    sample = one_sample(tiny_bundle)
    runtime = Runtime.open(tiny_bundle)
    expected = runtime.predict(**sample).score
    started = threading.Event()

    def work(number: int) -> str:
        try:
            for _ in range(10_000):
                assert np.array_equal(runtime.predict(**sample).score, expected)
                if number % 2:
                    runtime.explain(**sample)
                started.set()
        except InputError as error:
            return str(error)
        return "never closed"

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, number) for number in range(4)]
        started.wait(30)
        runtime.close()
        assert all("closed" in future.result() and "never" not in future.result() for future in futures)


def test_an_explanation_that_loses_the_race_with_close_opens_nothing(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    runtime = Runtime.open(tiny_bundle)
    monkeypatch.setattr(runtime, "_note_range", lambda _: runtime.close())  # between the first check and the graph
    with pytest.raises(InputError, match="this runtime is closed"):
        runtime.explain(**one_sample(tiny_bundle))
    assert runtime._explain_runner is None
