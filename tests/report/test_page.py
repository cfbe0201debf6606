"""What the page says: the verdict of every state a bundle can be in, what is missing, and nothing that was smuggled in."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dmdkit.cli import main
from dmdkit.errors import BundleError
from dmdkit.parity.int8_report import read_int8_report, write_int8_report
from dmdkit.parity.ledger import read_ledger, record
from dmdkit.report import REPORT_PAGE, render, write_report
from dmdkit.report.facts import Facts, Latency, read_facts
from dmdkit.runtime.manifest import read_manifest
from tests.report.conftest import HOSTILE
from tests.runtime.builders import set_verdict


class _Elements(HTMLParser):
    """Every element with its attributes, and the text between."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def elements(page: str) -> _Elements:
    parser = _Elements()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def text(page: str) -> str:
    return " ".join(" ".join(elements(page).text).split())


def banner_of(page: str) -> str:
    return text(page[page.index("<section") : page.index("</section>") + len("</section>")])


def changed(facts: Facts, **change: Any) -> Facts:
    return dataclasses.replace(facts, **change)


def with_verdicts(facts: Facts, status: str, reason: str, *names: str) -> Facts:
    graphs = dict(facts.manifest.graphs)
    for name in names or graphs:
        verdict = graphs[name].verdict.model_copy(update={"status": status, "reason": reason})
        graphs[name] = graphs[name].model_copy(update={"verdict": verdict})
    return changed(facts, manifest=facts.manifest.model_copy(update={"graphs": graphs}))


def test_export_and_check_write_the_page_and_report_writes_it_again(
    tiny_bundle: Path, bundle_copy: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
):
    assert (tiny_bundle / REPORT_PAGE).is_file()
    for command in (["check", bundle_copy, "--data", tiny_data, "--backend", "onnxruntime"], ["report", bundle_copy]):
        (bundle_copy / REPORT_PAGE).unlink()
        assert main([str(part) for part in command]) in (0, 2)
        assert str(bundle_copy / REPORT_PAGE) in capsys.readouterr().err
        assert (bundle_copy / REPORT_PAGE).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not list((bundle_copy / "report").glob(".*"))


def test_every_section_has_its_figures(facts: Facts):
    page = render(facts)
    headings = re.findall(r"<h2>(?:<span.*?</span> )?([^<]+)", page)
    for heading in ("Every graph", "Task metrics", "Size and latency", "Which modality teaches which", "Parity, hop by hop"):
        assert heading in headings
    found = elements(page).found
    drawings = [attributes for tag, attributes in found if tag == "svg"]
    hops = [hop for hop in facts.hops if hop.evidence and any(hop.evidence.histogram.counts)]
    edge_graphs = 2 * (1 + sum(hop.source == "explain.fp32" for hop in facts.hops))
    assert len(drawings) >= 2 * len(hops) + edge_graphs + 2
    assert all(drawing["role"] == "img" and len(drawing["aria-label"] or "") > 20 for drawing in drawings)
    assert page.count("teaches") > 12 * 2


def test_the_page_is_one_file_that_names_no_other(facts: Facts):
    found = elements(render(facts))
    assert {tag for tag, _ in found.found} & {"script", "iframe", "object", "embed", "base", "img", "form"} == set()
    links = [value for _, attributes in found.found for name, value in attributes.items() if name in ("src", "href", "action")]
    assert links == ["data:,"]
    handlers = [name for _, attributes in found.found for name in attributes if name.startswith("on") or name == "style"]
    assert handlers == []
    assert "url(" not in render(facts)
    assert "@import" not in render(facts)


def test_a_hostile_sample_name_is_text_and_nothing_else(facts: Facts):
    page = render(facts)
    assert "<script" not in page
    assert "<img" not in page
    assert "\u202e" not in page
    assert "\x07" not in page
    assert '"><script>document.title="run"</script>' in text(page)
    assert any(hop.worst_sample == HOSTILE for hop in facts.hops)


def test_every_string_of_the_bundle_is_escaped(facts: Facts):
    bad = "<b onload=x>&'\""
    manifest = facts.manifest.model_copy(
        update={
            "name": bad,
            "tools": {bad: bad},
            "source": facts.manifest.source.model_copy(update={"run": bad}),
        }
    )
    assert facts.ledger is not None
    hops = [hop.model_copy(update={"reason": bad, "status": "failed", "source": bad}) for hop in facts.hops]
    ledger = facts.ledger.model_copy(
        update={"data": bad, "split": bad, "created": bad, "hops": hops, "out_of_range": {bad: 0.5}}
    )
    page = render(
        changed(facts, manifest=manifest, ledger=ledger, machine={"cpu": bad}, latencies=[Latency("fusion.fp32", bad, 1)])
    )
    assert "<b onload" not in page
    assert page.count("&lt;b onload=x&gt;&amp;&#x27;&quot;") > 10
    elements(page)


@pytest.mark.parametrize("status", ["passed", "failed", "unverified"])
def test_the_banner_says_the_verdict_and_why(facts: Facts, status: str):
    found = with_verdicts(changed(facts, ledger=None), status, "p99 error 9 > 0.3")
    page = render(found)
    assert f'<section class="banner {status}">' in page
    banner = banner_of(page)
    assert banner.startswith({"passed": "✓ Passed", "failed": "✗ Failed", "unverified": "? Unverified"}[status])
    assert ("p99 error 9 > 0.3" in banner) == (status != "passed")
    assert ("never chosen automatically" in banner) == (status == "failed")


def test_one_failed_graph_is_named(facts: Facts):
    found = with_verdicts(with_verdicts(facts, "passed", ""), "failed", "edge change 0.1 > 0.02", "explain.int8-cpu")
    banner = banner_of(render(found))
    assert "✗ Failed" in banner
    assert "explain.int8-cpu: edge change 0.1 > 0.02." in banner


def test_before_the_first_check_the_page_shows_no_figure_of_parity_and_says_so(facts: Facts):
    page = render(changed(facts, ledger=None))
    assert "Parity has not been measured" in text(page)
    assert "Errors of single samples" not in page
    assert "Score before and after" not in page


def test_what_is_missing_is_said(facts: Facts):
    bare = changed(facts, ledger=None, int8=None, latencies=[])
    outputs = {name: item for name, item in facts.manifest.outputs.items() if not name.startswith("edges_")}
    graphs = {
        name: graph
        for name, graph in facts.manifest.graphs.items()
        if graph.precision == "fp32" and not graph.kind.startswith("gd_")
    }
    update = {"outputs": outputs, "graphs": graphs, "calibration": None}
    page = text(render(changed(bare, manifest=facts.manifest.model_copy(update=update))))
    for said in (
        "Latency in milliseconds has not been measured on the machine that wrote this report",
        "The bundle has no GD-Units",
        "the bundle has no INT8 graphs",
        "run dmdkit check",
    ):
        assert said in page


def test_simulated_graphs_and_recorded_hops_are_called_so(facts: Facts):
    page = text(render(facts))
    assert "fusion.int8-trt, explain.int8-trt: checked by a CPU that simulates the INT8 arithmetic" in page
    assert "explain.int8-trt (simulated)" in page
    assert "The first hop was not measured now" in page


def test_latencies_of_this_machine_are_drawn_and_the_machine_is_named(facts: Facts):
    latencies = [Latency("fusion.fp32", "onnxruntime", 2.0), Latency("fusion.int8-cpu", "onnxruntime", 1.5)]
    latencies += [Latency("fusion.int8-cpu", "openvino", 1.2), Latency("fusion.int8-trt", "onnxruntime", 9.0)]
    page = text(render(changed(facts, latencies=latencies, machine={"cpu": "Testing CPU", "cores": "2"})))
    assert "measured by dmdkit bench on Testing CPU" in page
    assert "fusion.int8-cpu 1.50 ms · 0.75×" in page
    assert "fusion.int8-cpu in openvino 1.20 ms · 0.60×" in page
    assert "9.00 ms" not in page  # a simulation's time says nothing
    assert "has not been measured on the machine" not in page


def test_private_samples_leave_neither_scores_nor_labels(bundle_copy: Path, tiny_data: Path):
    command = ["check", str(bundle_copy), "--data", str(tiny_data), "--backend", "onnxruntime", "--no-sample-values"]
    assert main(command) in (0, 2)
    ledger = read_ledger(bundle_copy)
    assert ledger is not None
    assert not ledger.sample_values
    for hop in ledger.hops:
        assert hop.evidence is not None
        assert hop.evidence.points == []
        assert all(sample.before is None and sample.label is None for sample in hop.evidence.worst)
    page = (bundle_copy / REPORT_PAGE).read_text(encoding="utf-8")
    assert "Score before and after" not in page
    assert "left out to keep the data private" in text(page)
    assert "Errors of single samples" in page


def test_a_ledger_of_an_earlier_version_still_makes_a_page(facts: Facts):
    assert facts.ledger is not None
    hops = []
    for hop in facts.hops:
        edges = [edge.model_copy(update={"before": [], "after": []}) for edge in hop.edges]
        hops.append(hop.model_copy(update={"evidence": None, "limits": {}, "edges": edges}))
    page = text(render(changed(facts, ledger=facts.ledger.model_copy(update={"hops": hops}))))
    assert "written by an earlier dmdkit" in page
    assert "recorded no edges" in page


def test_a_graph_without_usable_outputs_has_a_card_with_the_reason(facts: Facts):
    assert facts.ledger is not None
    broken = facts.hops[1].model_copy(
        update={
            "status": "failed",
            "reason": "score holds values that are not finite",
            "evidence": None,
            "metrics": {},
            "edges": [],
            "limits": {},
            **dict.fromkeys(("max_error", "mean_error", "p99_error", "correlation", "cosine", "sqnr_db", "output_sd")),
        }
    )
    hops = [facts.hops[0], broken, *facts.hops[2:]]
    page = text(render(changed(facts, ledger=facts.ledger.model_copy(update={"hops": hops}))))
    assert "score holds values that are not finite" in page
    assert re.search(r"\bnan\b", page.lower()) is None


def test_class_models_show_agreement_in_place_of_sign_flips(facts: Facts):
    assert facts.ledger is not None
    hops = [
        hop.model_copy(
            update={
                "top1_agreement": 0.985,
                "limits": {"top1_agreement": 0.98, "edge_change": 0.02},
                "metrics": {"accuracy": hop.metrics["mae"]} if hop.metrics else {},
            }
        )
        for hop in facts.hops
    ]
    manifest = facts.manifest.model_copy(update={"task": "classification", "label_range": None})
    page = text(render(changed(facts, manifest=manifest, ledger=facts.ledger.model_copy(update={"hops": hops}))))
    assert "same top class 0.9850 (≥ 0.980)" in page
    assert "Change in Accuracy" in page
    assert "sign flips" not in page


damaged = pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"created": 1}', b"\xff\xfe", b"[" * 100_000, b"0" * ((16 << 20) + 1)],
    ids=["empty", "half", "list", "wrong types", "not UTF-8", "deep", "too large"],
)


@damaged
def test_without_a_readable_int8_report_the_rest_is_drawn_and_the_page_says_so(
    bundle_copy: Path, content: bytes, capsys: pytest.CaptureFixture[str]
):
    (bundle_copy / "report/int8.json").write_bytes(content)
    assert main(["report", str(bundle_copy)]) == 0
    assert "int8.json: " in capsys.readouterr().err
    page = (bundle_copy / REPORT_PAGE).read_text()
    assert "report/int8.json is damaged" in page
    assert "fusion.int8-cpu" in page


@damaged
def test_a_damaged_ledger_is_one_readable_error_and_the_old_page_stays(bundle_copy: Path, content: bytes):
    before = (bundle_copy / REPORT_PAGE).read_bytes()
    (bundle_copy / "report/parity.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"parity\.json: .*again"):
        write_report(bundle_copy)
    assert main(["report", str(bundle_copy)]) == 1
    assert (bundle_copy / REPORT_PAGE).read_bytes() == before


def test_a_link_that_leaves_the_bundle_is_not_followed(bundle_copy: Path, tmp_path: Path):
    report = bundle_copy / "report/parity.json"
    report.rename(tmp_path / "elsewhere.json")
    report.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleError, match="leaves it"):
        write_report(bundle_copy)


def test_nothing_is_written_through_a_folder_that_leaves_the_bundle(bundle_copy: Path, tmp_path: Path, capsys):
    manifest, ledger, int8 = read_manifest(bundle_copy), read_ledger(bundle_copy), read_int8_report(bundle_copy)
    before, outside = (bundle_copy / "manifest.json").read_bytes(), tmp_path / "outside"
    assert ledger is not None
    assert int8 is not None
    shutil.rmtree(bundle_copy / "report")
    outside.mkdir()
    for name in ("report.html", "int8.json"):
        (outside / name).write_text("{}")
    (bundle_copy / "report").symlink_to(outside)
    for write in (lambda: record(bundle_copy, manifest, ledger), lambda: write_int8_report(bundle_copy, int8)):
        with pytest.raises(BundleError, match=f"report is a link that leaves {bundle_copy}; put a folder in its place"):
            write()
    assert main(["report", str(bundle_copy)]) == 1
    assert "report is a link that leaves" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"report.html": "{}", "int8.json": "{}"}
    assert (bundle_copy / "manifest.json").read_bytes() == before


def test_a_report_folder_that_is_a_link_within_the_bundle_is_written(bundle_copy: Path):
    (bundle_copy / "report").rename(bundle_copy / "kept")
    (bundle_copy / "report").symlink_to("kept")
    assert write_report(bundle_copy).is_file()


def test_a_bundle_that_is_not_there_or_cannot_be_written_is_an_error(tmp_path: Path, bundle_copy: Path):
    assert main(["report", str(tmp_path / "absent.dmd")]) == 1
    (bundle_copy / REPORT_PAGE).unlink()
    (bundle_copy / REPORT_PAGE).mkdir()
    (bundle_copy / REPORT_PAGE / "full").write_bytes(b"")
    with pytest.raises(BundleError, match="cannot write"):
        write_report(bundle_copy)


def test_the_page_depends_on_what_is_known_alone(checked_bundle: Path):
    assert render(read_facts(checked_bundle)) == render(read_facts(checked_bundle))


def test_unknown_kinds_of_graphs_get_their_own_cards(facts: Facts):
    assert facts.ledger is not None
    names = ("text.int8-cpu", "text.int8-cpu+fusion.int8-cpu")
    other = [facts.hops[1].model_copy(update={"target": name, "source": "text.fp32"}) for name in names]
    page = text(render(changed(facts, ledger=facts.ledger.model_copy(update={"hops": [*facts.hops, *other]}))))
    assert "text.fp32 → text.int8-cpu" in page
    assert "text.fp32 → text.int8-cpu+fusion.int8-cpu" in page
    assert page.index("The text encoder") < page.index("The explanation: ")


def test_set_verdicts_of_a_file_show_in_its_page(bundle_copy: Path):
    set_verdict(bundle_copy, "failed", "fusion.int8-cpu")
    page = text(write_report(bundle_copy).read_text(encoding="utf-8"))
    assert "✗ Failed: not every graph answers like the model it came from" in page
    json.loads((bundle_copy / "manifest.json").read_text())
