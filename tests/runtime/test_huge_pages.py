"""Large weights on huge pages."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest

from dmdkit.runtime.backends import huge_pages
from dmdkit.runtime.backends.huge_pages import MIN_BYTES, weights_on_huge_pages

SIZE = 16 << 20


def _huge_kilobytes() -> int:
    found = re.search(r"AnonHugePages:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    assert found is not None
    return int(found[1])


def _written() -> mmap.mmap:
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"\1" * SIZE)
    return memory


@pytest.fixture
def huge() -> None:
    if huge_pages._page_bytes() is None:
        pytest.skip("this machine has no huge pages, or its owner switched them off")


@pytest.mark.usefixtures("huge")
def test_what_a_large_graph_allocates_is_on_huge_pages_and_keeps_its_values() -> None:
    before = _huge_kilobytes()
    with weights_on_huge_pages(MIN_BYTES):
        memory = _written()
    moved = _huge_kilobytes() - before
    assert memory[:] == b"\1" * SIZE
    memory.close()
    if moved == 0:
        pytest.skip("the kernel had no huge page to give")
    assert moved >= 2 << 10


@pytest.mark.usefixtures("huge")
def test_what_was_there_before_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = _written()
    asked: list[int] = []
    moved = huge_pages.on_huge_pages
    monkeypatch.setattr(huge_pages, "on_huge_pages", lambda before, page: asked.append(moved(before, page)))
    with weights_on_huge_pages(MIN_BYTES):
        pass
    assert asked
    assert asked[0] < SIZE
    memory.close()


def _machine(folder: Path, monkeypatch: pytest.MonkeyPatch, enabled: str, size: str) -> None:
    (folder / "enabled").write_text(enabled)
    (folder / "hpage_pmd_size").write_text(size)
    monkeypatch.setattr(huge_pages, "_SETTINGS", folder)


@pytest.mark.parametrize(
    ("enabled", "size"),
    [("always madvise [never]", "2097152"), ("always [madvise] never", "536870912"), ("always [madvise] never", "large")],
)
def test_a_machine_that_has_none_to_give_is_not_asked(
    enabled: str, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(tmp_path, monkeypatch, enabled, size)
    monkeypatch.setattr(huge_pages, "on_huge_pages", lambda *_: pytest.fail("asked"))
    with weights_on_huge_pages(MIN_BYTES):
        pass


def test_a_small_graph_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(tmp_path, monkeypatch, "[always] madvise never", "2097152")
    monkeypatch.setattr(huge_pages, "on_huge_pages", lambda *_: pytest.fail("asked"))
    with weights_on_huge_pages(MIN_BYTES - 1):
        pass


@pytest.mark.parametrize(
    ("ranges", "taken", "left"),
    [
        ([(0, 10)], [], [(0, 10)]),
        ([(0, 10)], [(0, 4)], [(4, 10)]),
        ([(0, 10)], [(2, 4), (6, 12)], [(0, 2), (4, 6)]),
        ([(0, 10), (20, 30)], [(0, 40)], []),
    ],
)
def test_only_what_is_new_is_left(
    ranges: list[tuple[int, int]], taken: list[tuple[int, int]], left: list[tuple[int, int]]
) -> None:
    assert huge_pages._without(ranges, taken) == left


def test_an_unreadable_list_of_mappings_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(tmp_path, monkeypatch, "[always] madvise never", "2097152")
    monkeypatch.setattr(huge_pages, "_MAPS", tmp_path / "absent")
    monkeypatch.setattr(huge_pages, "on_huge_pages", lambda *_: pytest.fail("asked"))
    with weights_on_huge_pages(MIN_BYTES):
        pass
