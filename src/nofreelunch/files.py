"""Files that are whole or not there, and the lock by which one process at a time writes them."""

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from nofreelunch.errors import InputError, RunError

_UMASK = os.umask(0)
os.umask(_UMASK)  # it cannot be asked for without being set


def read_bytes(path: Path, most: int = sys.maxsize, what: str = "it") -> bytes:
    """The content of a file.

    Raises:
        InputError: if it cannot be read, or has more bytes than the most that `what` it should be can need.
    """
    try:
        if (size := path.stat().st_size) > most:
            raise InputError(f"{path} has {size} bytes, more than {what} can need")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing and reading, that takes the place of `path` when the block ends without an error.

    Until then it has a temporary name in the same folder; if the block fails it is removed and `path` is as before.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def atomic_write(path: Path, content: bytes) -> None:
    """Write the whole of `content` to `path`, or leave `path` as it was; on return it is on the disk.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
    """
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; nothing of it was left behind") from error


def sync_folder(folder: Path) -> None:
    """Return when the names in the folder are on the disk, as far as its file system can say."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems know no such thing for folders
            raise
    finally:
        os.close(handle)


def hold(lock: Path, *, wait: bool) -> IO[str]:
    """The file of this name, made if need be, and no other process's until it is closed or this process is dead.

    Raises:
        BlockingIOError: if another process holds it, and it is not to be waited for.
        OSError: if the folder cannot be written, or its file system has no locks.
    """
    import fcntl

    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as closing:
            file = closing.enter_context(open(lock, "w"))
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    closing.pop_all()
                    return file
        # Whoever held it has removed it since: who comes now would hold another file.
