"""Where a command writes: tried before the work, held by one process, left as it was when the input is bad."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nofreelunch.errors import InputError, RunError
from nofreelunch.files import atomic_write, hold

_LOCK = ".lock"


class InUse(InputError):
    """Another process is writing there."""


def check_file(option: str, path: Path | None) -> None:
    """Fail now rather than after the work.

    Raises:
        InputError: if the option is given, and the file that it names cannot be written.
    """
    if path is None:
        return
    if os.path.isdir(path):
        raise InputError(f"{option} {path} is a folder; give a file in it")
    _unmake(_made(option, path.parent))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if need be, for one process; a dead process holds nothing (the system drops its lock).

    A block that finds the input bad before it has written anything leaves no new folder.

    Raises:
        InputError: if the folder cannot be written.
        InUse: if another process is writing there.
        RunError: if its file system cannot tell.
    """
    made = _made("--out", folder)
    try:
        lock = hold(folder / _LOCK, wait=False)
    except BlockingIOError:
        raise InUse(f"another process is writing to {folder}; wait for it or give another --out") from None
    except OSError as error:
        raise RunError(f"{folder} cannot be locked ({error.strerror}); give an --out on another disk") from None
    with lock:
        try:
            yield
        except InputError:
            if made and os.listdir(folder) == [_LOCK]:
                (folder / _LOCK).unlink()
                _unmake(made)
            raise


def write(path: Path, content: bytes, keep: bool = False) -> None:
    """Put the content into the file, and say so where there was another; that one is kept in `previous`, if asked."""
    if path.exists() and path.read_bytes() != content:
        before = path.parent / "previous" / path.name
        if keep:
            before.parent.mkdir(exist_ok=True)
            atomic_write(before, path.read_bytes())
        print(f"replaced {path}" + (f"; the one before is {before}" if keep else ""), file=sys.stderr)
    atomic_write(path, content)


def _made(option: str, folder: Path) -> Sequence[Path]:
    """The folders, innermost first, that were not there before; a file has been written in `folder` and removed."""
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        why = "a file is in the way" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        raise InputError(f"{option}: {folder} cannot be written ({why}); give a place that can") from None
    return missing


def _unmake(folders: Sequence[Path]) -> None:
    """Remove those that are empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
