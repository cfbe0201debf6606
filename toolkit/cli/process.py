"""What the command needs of its process: standard streams that are there, and a Ctrl-C that nothing loses.

Libraries turn the ``KeyboardInterrupt`` of a Ctrl-C into errors of their own (PyTorch's exporter advises to open an issue,
an extension that is being imported fails to load), or drop it. So the handler remembers that the signal came.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any

from dmdkit.errors import DmdkitError

__all__ = [
    "OutputClosedError",
    "discard_output",
    "open_streams",
    "remembered_interrupts",
    "stop_if_interrupted",
    "was_interrupted",
]

_interrupt = threading.Event()


class OutputClosedError(DmdkitError):
    """The shell closed standard output (``>&-``), and there is an answer to write."""


class _ClosedOutput(io.TextIOBase):
    """Stands for a standard output that was closed before the command began."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OutputClosedError("standard output is closed, so the answer goes nowhere; leave it open, or use /dev/null")


def open_streams() -> None:
    """Puts something into the place of every standard stream that is closed.

    Its number would else go to the next file that is opened, and whatever prints would write into that.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = _ClosedOutput()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - lives as long as the process


def discard_output(stream: IO[str]) -> None:
    """Sends the rest of a standard stream nowhere: what it still holds cannot be written either.

    A reader that went away (``| head -1``) says nothing about the command, which goes on to its own exit code.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)


@contextmanager
def remembered_interrupts() -> Iterator[None]:
    """Until it ends, a Ctrl-C raises ``KeyboardInterrupt`` as ever and is remembered; one that is ignored stays so.

    A SIGTERM, which is how schedulers and service managers end a process, does the same.
    """
    _interrupt.clear()
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours = threading.current_thread() is threading.main_thread()
    taken = [number for number, handler in usual.items() if ours and signal.getsignal(number) is handler]

    def interrupted(number: int, frame: FrameType | None) -> None:
        _interrupt.set()
        signal.default_int_handler(number, frame)

    for number in taken:
        signal.signal(number, interrupted)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, usual[number])


def was_interrupted() -> bool:
    """Whether a Ctrl-C came since the command began, whatever became of it."""
    return _interrupt.is_set()


def stop_if_interrupted() -> None:
    """Raises again what a library dropped.

    Raises:
        KeyboardInterrupt: A Ctrl-C came since the command began.
    """
    if was_interrupted():
        raise KeyboardInterrupt
