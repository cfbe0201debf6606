"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from dmdkit.errors import BundleError, DmdkitError
from dmdkit.files import (
    atomic_directory,
    atomic_path,
    locked_directory,
    sha256_of_bytes,
    sha256_of_file,
    write_bytes,
    write_json,
    write_text,
)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def write_half_a_file(path: Path, failure: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise failure


def write_half_a_directory(path: Path, failure: BaseException) -> None:
    with atomic_directory(path) as temporary:
        (temporary / "a").write_bytes(b"")
        raise failure


def test_a_write_makes_missing_directories_and_mode_0644(tmp_path: Path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "grüß\n")
    assert path.read_bytes() == "grüß\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert names(path.parent) == ["b.txt"]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        write_half_a_file(tmp_path / "a.bin", ZeroDivisionError())
    assert names(tmp_path) == []


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt])
def test_a_writer_that_fails_keeps_the_old_file(tmp_path: Path, failure: type[BaseException]):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(failure):
        write_half_a_file(path, failure())
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_write_replaces_the_whole_file(tmp_path: Path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"a long old content")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_the_temporary_keeps_the_suffix_and_the_directory(tmp_path: Path):
    with atomic_path(tmp_path / "a.npz") as temporary:
        assert temporary.suffix == ".npz"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"")


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"precious")
    link.symlink_to(target)
    write_bytes(link, b"new")
    assert target.read_bytes() == b"precious"
    assert not link.is_symlink()


@pytest.mark.parametrize("behind_a_link", [False, True])
def test_a_device_or_a_pipe_stays_one(tmp_path: Path, behind_a_link: bool):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    with pytest.raises(DmdkitError, match="it is no regular file; choose another name"):
        write_bytes(tmp_path / "link" if behind_a_link else pipe, b"new")
    assert pipe.is_fifo()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only directories")
def test_a_directory_without_write_permission_is_a_readable_error(tmp_path: Path):
    tmp_path.chmod(0o555)
    with pytest.raises(BundleError, match=r"cannot write .*choose a writable place"):
        write_bytes(tmp_path / "a", b"", BundleError)


def test_a_file_where_a_directory_should_be_is_a_readable_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match=r"cannot write .*choose a writable place"):
        write_bytes(tmp_path / "file" / "a", b"", BundleError)
    with pytest.raises(BundleError, match="cannot write"), atomic_directory(tmp_path / "file" / "a", BundleError):
        pytest.fail("the body must not run")


def test_a_directory_where_the_file_should_be_is_a_readable_error(tmp_path: Path):
    (tmp_path / "a").mkdir()
    with pytest.raises(BundleError, match="cannot write"):
        write_bytes(tmp_path / "a", b"x", BundleError)
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_json_refuses_numbers_that_json_lacks(tmp_path: Path, value: object):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", value)
    assert names(tmp_path) == []


def test_hashes_agree_with_each_other_and_the_standard(tmp_path: Path):
    data = os.urandom(3 << 20)
    write_bytes(tmp_path / "a", data)
    assert sha256_of_file(tmp_path / "a") == sha256_of_bytes(data) == hashlib.sha256(data).hexdigest()


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        write_half_a_directory(tmp_path / "d", ZeroDivisionError())
    assert names(tmp_path) == []
    with atomic_directory(tmp_path / "d") as temporary:
        (temporary / "a").write_bytes(b"")
        assert names(tmp_path) == [temporary.name]
    assert names(tmp_path) == ["d"]
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o755


def test_an_existing_directory_is_refused_unless_it_is_to_be_replaced(tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").write_bytes(b"")
    with (
        pytest.raises(BundleError, match="exists; choose another name or pass --force"),
        atomic_directory(tmp_path / "d", BundleError),
    ):
        pytest.fail("the body must not run")
    with atomic_directory(tmp_path / "d", BundleError, replace=True) as temporary:
        (temporary / "new").write_bytes(b"")
    assert names(tmp_path / "d") == ["new"]
    assert names(tmp_path) == ["d"]


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_the_old_directory_survives_a_failure_between_the_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
):
    target = tmp_path / "d"
    target.mkdir()
    (target / "old").write_bytes(b"")
    rename = Path.replace

    def fails_once(self: Path, to: Path) -> Path:
        if self.suffix == ".tmp":
            raise failure
        return rename(self, to)

    monkeypatch.setattr(Path, "replace", fails_once)
    expected = BundleError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected), atomic_directory(target, BundleError, replace=True) as temporary:
        (temporary / "new").write_bytes(b"")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["d"]


@pytest.mark.parametrize("what", ["directory", "file", "link"])
def test_what_appears_in_its_place_meanwhile_is_left_alone(tmp_path: Path, what: str):
    target = tmp_path / "d"

    def write() -> None:
        with atomic_directory(target, BundleError) as temporary:
            (temporary / "new").write_bytes(b"")
            appear()

    def appear() -> None:
        if what == "directory":
            target.mkdir()
            (target / "notes").write_bytes(b"precious")
        elif what == "file":
            target.write_bytes(b"precious")
        else:
            target.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(BundleError, match="appeared while it was being written, and is left alone"):
        write()
    assert names(tmp_path) == ["d"]
    if what == "link":
        assert target.is_symlink()
    else:
        assert (target / "notes" if what == "directory" else target).read_bytes() == b"precious"


def test_what_is_to_be_kept_moves_into_the_directory_that_replaces(tmp_path: Path):
    (tmp_path / "d" / "engines").mkdir(parents=True)
    with atomic_directory(tmp_path / "d", BundleError, replace=True, keep=("engines", "absent")) as temporary:
        (temporary / "new").write_bytes(b"")
        (tmp_path / "d" / "engines" / "a.plan").write_bytes(b"built meanwhile")
    assert names(tmp_path) == ["d"]
    assert names(tmp_path / "d") == ["engines", "new"]
    assert names(tmp_path / "d" / "engines") == ["a.plan"]


def test_new_files_and_directories_have_the_permissions_that_the_umask_leaves(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"")
        with atomic_directory(tmp_path / "d"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path):
    (tmp_path / ".d-0badc0de.tmp").mkdir()
    (tmp_path / ".d-0badc0de.tmp" / "half").write_bytes(b"")
    (tmp_path / ".d-notes.tmp").mkdir()
    with atomic_directory(tmp_path / "d", replace=True) as living:
        assert names(tmp_path) == sorted([living.name, ".d-notes.tmp"])
        with atomic_directory(tmp_path / "d") as other:
            assert living.is_dir()
            assert other != living
    assert names(tmp_path) == [".d-notes.tmp", "d"]


def test_a_locked_directory_is_made_kept_if_used_and_gone_if_left_empty(tmp_path: Path):
    with locked_directory(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert names(tmp_path / "a") == []
    with locked_directory(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").write_bytes(b"")
    assert names(tmp_path / "a" / "b") == ["file"]
    (tmp_path / "empty").mkdir()
    with locked_directory(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir(), "what was there before is not removed"


def test_a_locked_directory_refuses_or_waits(tmp_path: Path):
    import threading

    entered, path = [], tmp_path / "d"

    def wait() -> None:
        with locked_directory(path):
            entered.append(path.is_dir())

    with locked_directory(path):
        with (
            pytest.raises(BundleError, match="d: come back later"),
            locked_directory(path, BundleError, busy="come back later"),
        ):
            pytest.fail("the body must not run")
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.2)
        assert not entered
    thread.join(10)
    assert entered == [True], "the directory went with the first lock and was made again for the second"


def test_a_directory_that_cannot_be_locked_is_a_readable_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(BundleError, match=r"cannot write .*choose a writable place"),
        locked_directory(tmp_path / "file", BundleError),
    ):
        pytest.fail("the body must not run")


def test_without_locks_in_the_file_system_a_directory_is_used_unlocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked_directory(tmp_path / "d", busy="never"):
        assert (tmp_path / "d").is_dir()


def test_text_that_is_not_utf8_is_refused_and_other_text_is_not(tmp_path: Path):
    for write in (write_text, lambda path, value, error: write_json(path, {"name": value}, error)):
        with pytest.raises(BundleError, match=r"expected UTF-8, found .*a\\udcff.*; rename what is named there"):
            write(tmp_path / "a.json", "a\udcff", BundleError)
    assert names(tmp_path) == []
    write_json(tmp_path / "a.json", {"name": "gef\u00fchl \U0001f600"})
    assert (tmp_path / "a.json").read_bytes() == b'{\n  "name": "gef\\u00fchl \\ud83d\\ude00"\n}\n'
