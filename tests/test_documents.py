"""What the pages say can be typed and followed: commands, options, make targets, links; and what stands once stands once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from dmdkit.cli import app
from tests.cli.helpers import COMMANDS
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks/RESULTS.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
REFERENCES = {"architecture.md", "bundle.md", "data.md", "model.md"}
"""Pages one looks something up in; the others are guides."""

GUIDE_LINES = 110
FLAG = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
OURS = re.compile(rf"\bdmdkit ({'|'.join(sorted(COMMANDS, key=len, reverse=True))})(?![\w-])")
ANY = re.compile(r"(?:^|[\s`>|;(])dmdkit ([a-z][a-z-]*(?: [a-z][a-z-]*)?)")
NOT_TYPED = {"plan"}
"""The first line of a native backend's plan, shown as it stands in the file, begins with our name."""

OTHERS = re.compile(r"\b(?:cmake|ctest|pip|pytest|python|python3|tritonserver|apt-get|trtexec|opt_in_out|make)\b|\S+\.sh\b")


@cache
def flags_of(command: str) -> frozenset[str]:
    found = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]
    return frozenset(flag for parameter in found.params for flag in (*parameter.opts, *parameter.secondary_opts)) | {"--help"}


def runner_flags() -> set[str]:
    usage = (ROOT / "runtime/cpp/tools/arguments.cpp").read_text(encoding="utf-8")
    return set(FLAG.findall(usage.partition("kUsage")[2].partition(";\n\nbool")[0]))


def code_of(text: str) -> Iterator[str]:
    """Every line of a block of code without its comment, and every span in backticks."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        yield from (line.partition("#")[0] for line in block.splitlines())
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def commands_in(text: str) -> Iterator[str]:
    """The same, one command at a time."""
    for code in code_of(text):
        yield from re.split(r"(?<=\S) +(?=(?:\S+ )?dmdkit )", code)


def wrong_in(text: str) -> Iterator[str]:
    """What somebody would type in vain."""
    known = {flag for command in COMMANDS for flag in flags_of(command)}
    for code in commands_in(text):
        for found in ANY.finditer(code):
            first = found[1].split()[0]
            if found[1] not in COMMANDS and first not in {command.split()[0] for command in COMMANDS} | NOT_TYPED:
                yield f"dmdkit {found[1]}"
        named = OURS.search(code)
        if named is not None:
            yield from (
                f"dmdkit {named[1]} {flag}" for flag in FLAG.findall(code[named.end() :]) if flag not in flags_of(named[1])
            )
        elif "dmdkit-run" in code:
            yield from (f"dmdkit-run {flag}" for flag in FLAG.findall(code) if flag not in runner_flags())
        elif not OTHERS.search(code):
            command = next((name for name in COMMANDS if code.startswith(f"{name} ")), None)
            allowed = flags_of(command) if command else known | runner_flags()
            yield from (code for flag in FLAG.findall(code) if flag not in allowed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_of_a_page_exists(page: Path) -> None:
    assert list(wrong_in(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("`dmdkit fly`", ["dmdkit fly"]),
        ("`dmdkit export --triton models/`", ["dmdkit export --triton"]),
        ("`export --triton`", ["export --triton"]),
        ("pass `--no-such-flag`", ["--no-such-flag"]),
        ("```bash\ndmdkit build a.dmd --target list --fly  # --not this\n```\n", ["dmdkit build --fly"]),
        ("`dmdkit-run X --fly`", ["dmdkit-run --fly"]),
        ("`dmdkit data convert a b --nan-policy zero`, `cmake --preset asan`, `dmdkit-run X --bench`", []),
    ],
)
def test_what_does_not_exist_is_found(text: str, wrong: list[str]) -> None:
    assert list(wrong_in(text)) == wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_and_module_of_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {name for code in code_of(text) for name in re.findall(r"^make ([a-z][\w-]*)", code)} <= targets
    for name in re.findall(r"python3? -m (benchmarks(?:\.\w+)?|tests(?:\.\w+)+)", text):
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name


ROOMS = {"export": "export", "calibration": "calibration", "runtime": "runtime"}
ROOMS |= {name: f"toolkit/{name}" for name in ("parity", "training", "model", "data", "report", "cli")}


def is_there(dotted: str) -> bool:
    """Whether ``room.module`` or ``room.module.name`` is a package, a module, or something that a module defines."""
    room, *names = dotted.removeprefix("dmdkit.").split(".")
    path = ROOT / ROOMS[room]
    while names and (path / names[0]).is_dir():
        path /= names.pop(0)
    if not names:
        return path.is_dir()
    module = path / f"{names[0]}.py"
    if module.is_file():
        names.pop(0)
    text = (module if module.is_file() else path / "__init__.py").read_text(encoding="utf-8")
    return all(re.search(rf"\b{name}\b", text) for name in names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_module_that_a_page_names_is_there(page: Path) -> None:
    tracked = re.compile(r"(?:toolkit|export|calibration|runtime|tests|benchmarks|scripts|docs)/[\w./-]*[\w/]")
    prefix = r"(?:dmdkit\.)?" if page.name == "architecture.md" else r"dmdkit\."  # elsewhere `runtime.notes` is an object's
    module = re.compile(rf"{prefix}(?:{'|'.join(ROOMS)})(?:\.\w+)+")
    for span in code_of(page.read_text(encoding="utf-8")):
        if tracked.fullmatch(span) and span != "calibration/samples.json" and not re.search("[A-Z]{3}", span):  # of a bundle
            assert (ROOT / span).exists(), span
        if module.fullmatch(span) and not span.endswith((".json", ".html", ".safetensors")):
            assert is_there(span), span


@pytest.mark.parametrize(
    ("dotted", "there"),
    [("parity.ledger.measure", True), ("runtime.engines", True), ("parity.ledger.fly", False), ("export.fly", False)],
)
def test_a_module_that_is_not_there_is_found(dotted: str, there: bool) -> None:
    assert is_there(dotted) == there


def anchors_of(page: Path) -> set[str]:
    """The anchors that a heading gets: lower case, hyphens for spaces, punctuation left out."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors_of(linked), f"{page.name} links to {target}#{anchor}"


def test_guides_are_short() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        if page.name not in REFERENCES:
            count = len(page.read_text(encoding="utf-8").splitlines())
            assert count <= GUIDE_LINES, f"{page.name} has {count} lines; a guide shows how to do one thing"


def test_what_was_not_run_on_a_gpu_stands_in_one_place() -> None:
    near = r"[^.|]{0,60}\b"
    gap = re.compile(rf"\b(?:not|none|never|nothing){near}r[ua]n\b[^.|]{{0,30}}\bGPU\b|\bno GPU here\b|\bnot yet run\b", re.I)
    assert gap.search((ROOT / "docs/gpu.md").read_text(encoding="utf-8"))
    for page in PAGES:
        found = None if page.name == "gpu.md" else gap.search(" ".join(page.read_text(encoding="utf-8").split()))
        assert found is None, f"{page.name}: {found[0] if found else ''}: link to docs/gpu.md instead"


def test_the_picture_of_the_report_is_small_and_has_words_beside_it() -> None:
    (words, name) = re.findall(r"!\[([^\]]+)\]\(([^)]+\.png)\)", (ROOT / "README.md").read_text(encoding="utf-8"))[0]
    assert len(words) > 20
    assert (ROOT / name).stat().st_size < 150_000
