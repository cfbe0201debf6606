"""Large weights on huge pages.

A text encoder reads all its weights for every sentence, however short. From small pages one core of a PC reads memory at about
half the rate: the processor's prefetching ends at every page, and the page tables have to be walked. ONNX Runtime allocates
from the heap and asks for nothing; so what it allocated while a session was opened is moved to huge pages afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MIN_BYTES", "on_huge_pages", "weights_on_huge_pages"]

MIN_BYTES = 8 << 20
"""Smaller graphs stay where they are: their weights stay in a cache."""

_SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
_MAPS = Path("/proc/self/maps")
_LARGEST_PAGE = 32 << 20
"""Where a huge page is larger (512 MB with 64 kB base pages), nothing of ours fills one."""

_HUGEPAGE, _COLLAPSE = 14, 25
"""MADV_HUGEPAGE and MADV_COLLAPSE of Linux's madvise(2)."""

Ranges = list[tuple[int, int]]


def _page_bytes() -> int | None:
    """Size of a huge page; None where there are none, or where the machine's owner switched them off (``never``)."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        allowed = "[never]" not in (_SETTINGS / "enabled").read_text()
        size = int((_SETTINGS / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return None
    return size if allowed and 0 < size <= _LARGEST_PAGE else None


def _anonymous() -> Ranges:
    """Private writable memory without a file behind it: the heap and what was allocated beside it, from low to high."""
    found = []
    try:
        for line in _MAPS.read_text().splitlines():
            place, rights, _, _, inode, *name = line.split(maxsplit=5)
            if rights == "rw-p" and inode == "0" and (not name or name[0] == "[heap]"):
                low, _, high = place.partition("-")
                found.append((int(low, 16), int(high, 16)))
    except (OSError, ValueError):
        return []
    return found


def _without(ranges: Ranges, taken: Ranges) -> Ranges:
    """What of ``ranges`` is not in ``taken``; both from low to high."""
    left = []
    for low, high in ranges:
        start = low
        for first, last in taken:
            if last <= start or first >= high:
                continue
            if first > start:
                left.append((start, first))
            start = last
        if start < high:
            left.append((start, high))
    return left


def on_huge_pages(before: Ranges, page: int) -> int:
    """Moves what was allocated since to huge pages; bytes that the kernel was asked for, 0 where it refused.

    Args:
        before: Memory that there was before, which stays as it is.
        page: Bytes of a huge page.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    asked = 0
    for low, high in _without(_anonymous(), before):
        start, end = -(-low // page) * page, high // page * page
        if end <= start:
            continue
        done: int = libc.madvise(start, end - start, _COLLAPSE)
        if done != 0 and ctypes.get_errno() == errno.EINVAL:  # before Linux 6.1: the kernel moves it when it finds the time
            done = libc.madvise(start, end - start, _HUGEPAGE)
        asked += end - start if done == 0 else 0
    return asked


@contextmanager
def weights_on_huge_pages(model_bytes: int) -> Iterator[None]:
    """Around the opening of a session: what it allocates goes to huge pages. Never an error: the weights stay where they are.

    Args:
        model_bytes: Size of the graph's file; below ``MIN_BYTES`` nothing is done.
    """
    page = _page_bytes() if model_bytes >= MIN_BYTES else None
    before = _anonymous() if page is not None else []
    yield
    if page is not None and before:
        on_huge_pages(before, page)
