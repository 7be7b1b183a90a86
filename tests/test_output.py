"""One writer for a folder, tried before the work; bad input leaves the disk as it was."""

import errno
import fcntl
from pathlib import Path
from typing import IO

import pytest

from nofreelunch.errors import InputError, RunError
from nofreelunch.output import InUse, check_file, locked


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_disk_without_locks_is_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(RunError, match=r"cannot be locked \(No locks available\)"), locked(tmp_path):
        pass


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), locked(tmp_path / "file" / "out"):
        pass
    with pytest.raises(InputError, match=r"--json: .*file cannot be written"):
        check_file("--json", tmp_path / "file" / "numbers.json")


def test_trying_a_file_leaves_nothing(tmp_path: Path) -> None:
    check_file("--json", tmp_path / "a" / "b" / "numbers.json")
    assert not list(tmp_path.iterdir())


def test_bad_input_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bad"), locked(tmp_path / "a" / "b"):
        raise InputError("bad")
    assert not list(tmp_path.iterdir())


def test_bad_input_takes_nothing_that_was_there_or_is_written(tmp_path: Path) -> None:
    def written_then_bad(folder: Path) -> None:
        with locked(folder):
            (folder / "state").write_text("")
            raise InputError("bad")

    (tmp_path / "old").mkdir()
    with pytest.raises(InputError), locked(tmp_path / "old"):
        raise InputError("bad")
    with pytest.raises(InputError):
        written_then_bad(tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}


def test_a_run_that_fails_keeps_its_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError), locked(tmp_path / "out"):
        raise RunError("disk full")
    assert (tmp_path / "out").is_dir()


def test_a_lock_that_was_removed_meanwhile_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has opened the file before it was removed holds a file that nobody else will ever open."""
    locks, flock = [], fcntl.flock

    def first_removed(file: IO[str], kind: int) -> None:
        if not locks:
            (tmp_path / ".lock").unlink()
        locks.append(file.fileno())
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", first_removed)
    with locked(tmp_path):
        assert len(locks) == 2
        with pytest.raises(InUse), locked(tmp_path):
            pass
