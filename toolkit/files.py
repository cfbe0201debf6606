"""Files that are either whole or absent: atomic writes, content hashes, JSON that never holds NaN."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dmdkit.errors import DmdkitError
from dmdkit.printable import is_utf8, visible

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "atomic_directory",
    "atomic_path",
    "foreign_entries",
    "locked_directory",
    "sha256_of_bytes",
    "sha256_of_file",
    "write_bytes",
    "write_json",
    "write_text",
]

_CHUNK_BYTES = 1 << 20


def sha256_of_bytes(data: bytes) -> str:
    """The SHA-256 of ``data`` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's content as 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path, error: type[DmdkitError] = DmdkitError) -> Iterator[Path]:
    """Yields a temporary name beside ``path``; on a clean exit it is synced and renamed onto ``path``.

    The temporary keeps the suffix of ``path``, because several writers choose their format by it. Its permissions are those
    that the umask leaves, as of any other new file.

    Raises:
        DmdkitError: Of class ``error``, when the directory cannot be written, or ``path`` is a device or a pipe.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # renaming onto it would put a file in a device's place
        raise error(f"cannot write {path}: it is no regular file; choose another name")
    temporary = path.parent / f".{path.stem}-{secrets.token_hex(4)}.tmp{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as cause:
        raise error(f"cannot write {path}: {cause.strerror or cause}; choose a writable place") from cause
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
    except OSError as cause:
        raise error(f"cannot write {path}: {cause.strerror or cause}; choose a writable place with free space") from cause
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(
    path: Path, error: type[DmdkitError] = DmdkitError, *, replace: bool = False, keep: Sequence[str] = ()
) -> Iterator[Path]:
    """Yields a temporary directory beside ``path``; on a clean exit it becomes ``path``, otherwise it is removed.

    What a killed process left of an earlier attempt is removed first. Without ``replace``, nothing that appears at ``path``
    while the body runs is touched: only an empty directory gives way.

    Args:
        path: The directory to make.
        error: What to raise when it cannot be.
        replace: Whether an existing ``path`` gives way (it is moved aside first, so it survives a failure).
        keep: Names of entries of an existing ``path`` that move into the new directory.
    """
    if path.exists() and not replace:
        raise error(f"{path} exists; choose another name or pass --force to replace it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary, descriptor = _temporary_directory(path)
    except OSError as cause:
        raise error(f"cannot write {path}: {cause.strerror or cause}; choose a writable place") from cause
    try:
        yield temporary
        if replace and path.exists():
            _replace_directory(temporary, path, keep)
        else:
            _rename_to_nothing(temporary, path, error)
    except OSError as cause:
        raise error(f"cannot write {path}: {cause.strerror or cause}; choose a writable place with free space") from cause
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _temporary_directory(path: Path) -> tuple[Path, int | None]:
    """A new directory beside ``path``, and the descriptor whose lock says that its process lives, where there are locks."""
    while True:
        temporary = path.parent / f".{path.name}-{secrets.token_hex(4)}.tmp"
        temporary.mkdir()
        if fcntl is None:
            return temporary, None
        with suppress(FileNotFoundError):  # taken for abandoned before its lock was held
            descriptor = os.open(temporary, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if temporary.is_dir():
                return temporary, descriptor
            os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    """Removes temporary directories for ``path`` whose process ended without a chance to."""
    try:
        entries = list(path.parent.iterdir()) if fcntl is not None else []
    except OSError:  # a folder may be writable and not readable
        return
    for entry in entries:
        if not (entry.name.startswith(f".{path.name}-") and entry.name.endswith(".tmp") and entry.is_dir()):
            continue
        if len(entry.name) != len(f".{path.name}-01234567.tmp") or entry.is_symlink():
            continue
        with suppress(OSError):  # its process lives, or it is somebody else's
            descriptor = os.open(entry, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry, ignore_errors=True)
            finally:
                os.close(descriptor)


def _rename_to_nothing(temporary: Path, path: Path, error: type[DmdkitError]) -> None:
    try:
        temporary.rename(path)  # the system refuses any target but an empty directory
    except OSError as cause:
        if not (path.exists() or path.is_symlink()):
            raise
        raise error(f"{path} appeared while it was being written, and is left alone; choose another name") from cause


def _replace_directory(temporary: Path, path: Path, keep: Sequence[str]) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".old", dir=path.parent))
    old = aside / path.name
    try:
        path.replace(old)
        temporary.replace(path)
    except BaseException:  # an interrupt between the two must not lose the old directory either
        if old.exists() and not path.exists():
            old.replace(path)
        with suppress(OSError):
            aside.rmdir()
        raise
    finally:  # also where an interrupt came after the second rename: what is kept is nowhere else
        for name in keep if old.exists() else ():
            if (old / name).exists() and not (path / name).exists():
                (old / name).replace(path / name)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def locked_directory(path: Path, error: type[DmdkitError] = DmdkitError, *, busy: str | None = None) -> Iterator[None]:
    """Keeps other processes out of ``path`` while the body runs; it is made where it is not there, and goes if left empty.

    The lock lies on the directory itself: no file is left, and the system lets go of it however the process ends. Where the
    file system or the platform has no such locks, there is none.

    Args:
        path: The directory.
        error: What to raise.
        busy: What to say when another process holds it; None waits for that process instead.

    Raises:
        DmdkitError: Of class ``error``: the directory is held and ``busy`` was given, or it cannot be made or opened.
    """
    try:
        descriptor, made = _locked(path, wait=busy is None)
    except BlockingIOError as cause:
        raise error(f"{path}: {busy}") from cause
    except OSError as cause:
        raise error(f"cannot write {path}: {cause.strerror or cause}; choose a writable place") from cause
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # not empty
                path.rmdir()
        if descriptor is not None:
            os.close(descriptor)


def _locked(path: Path, *, wait: bool) -> tuple[int | None, bool]:
    """The descriptor that holds the lock on ``path``, and whether the directory was made for it."""
    while True:
        made = not path.is_dir()
        path.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return None, made
        descriptor = os.open(path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                pass  # a file system without locks
            # Who held it may have replaced or removed the directory: then this lock is on what is no longer there.
            if path.is_dir() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor, made
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _write(path: Path, error: type[DmdkitError], write: Callable[[Path], object]) -> None:
    with atomic_path(path, error) as temporary:
        write(temporary)


def write_bytes(path: Path, data: bytes, error: type[DmdkitError] = DmdkitError) -> None:
    """Writes ``data`` to ``path`` atomically."""
    _write(path, error, lambda temporary: temporary.write_bytes(data))


def _refuse_outside(path: Path, directory: Path, error: type[DmdkitError]) -> None:
    if not path.parent.resolve().is_relative_to(directory.resolve()):
        raise error(f"cannot write {path}: {path.parent} is a link that leaves {directory}; put a folder in its place")


def write_text(path: Path, text: str, error: type[DmdkitError] = DmdkitError, *, inside: Path | None = None) -> None:
    """Writes ``text`` to ``path`` as UTF-8, atomically.

    Args:
        path: The file.
        text: Its content.
        error: Class of the error to raise.
        inside: The directory that the file must lie in after every link to its folder was followed; None for anywhere.

    Raises:
        DmdkitError: As ``error``: it cannot be written, lies outside, or ``text`` is not UTF-8, as names of files may be.
    """
    if inside is not None:
        _refuse_outside(path, inside, error)
    if not is_utf8(text):
        found = next(line for line in text.splitlines() if not is_utf8(line)).strip()
        raise error(
            f"cannot write {visible(str(path))}: expected UTF-8, found {visible(found)[:200]}; rename what is named there"
        )
    _write(path, error, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any, error: type[DmdkitError] = DmdkitError, *, inside: Path | None = None) -> None:
    """Writes ``value`` as indented JSON, as :func:`write_text` does; what JSON lacks is refused: NaN, infinities."""
    text = json.dumps(value, indent=2, allow_nan=False)
    if "\\ud" in text:  # half a character, or a whole one beyond the first 65,536: only this spelling tells
        plain = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
        text = text if is_utf8(plain) else plain
    write_text(path, text + "\n", error, inside=inside)


def foreign_entries(directory: Path, known: Callable[[str], bool]) -> list[str]:
    """Files and links in a directory that whoever wrote it did not write, as sorted paths relative to it.

    Args:
        directory: An existing directory; links in it are not followed.
        known: Whether a relative path, its parts separated by ``/``, is one that the writer may have written.
    """
    found = []
    for folder, folders, files in os.walk(directory):
        inner = Path(folder)
        for entry in (*(inner / name for name in files), *(inner / name for name in folders if (inner / name).is_symlink())):
            relative = entry.relative_to(directory).as_posix()
            found += [] if known(relative) else [relative]
    return sorted(found)


def stays_inside(file: Path, directory: Path) -> bool:
    """Whether ``file`` is a regular file of ``directory`` after every link was followed.

    A bundle copied as links would otherwise read whatever they point at on the machine it arrives on.
    """
    return file.is_file() and file.resolve().is_relative_to(directory.resolve())
