"""Where data files are kept: a cache folder that may be deleted at any time."""

import hashlib
import json
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import UInt8
from torch import Tensor

from nofreelunch.files import hold, replacing


def cache_folder() -> Path:
    """`NOFREELUNCH_CACHE`, else `nofreelunch` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    if own := os.environ.get("NOFREELUNCH_CACHE"):
        return Path(own).expanduser()
    general = os.environ.get("XDG_CACHE_HOME")
    return Path(general or "~/.cache").expanduser() / "nofreelunch"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Within the block no other process makes `path`: those that want to wait here.

    A dead process holds nothing, and what it has left half-written is removed. A block that fails leaves nothing.

    Raises:
        OSError: if nothing can be written to its folder.
    """
    lock = path.parent / f".{path.name}.lock"
    with hold(lock, wait=True):
        for leftover in set(path.parent.glob(f".{path.name}.*")) - {lock}:
            leftover.unlink()
        try:
            yield
        except BaseException:
            with suppress(OSError):
                lock.unlink()
                path.parent.rmdir()  # if it is empty
            raise


def mapped(file: BinaryIO) -> UInt8[Tensor, " bytes"]:
    """The bytes of an open file, mapped: read when first used, never written back, and of any size.

    Without MAP_NORESERVE, Linux refuses private mappings that are larger than its memory.
    """
    reserve_nothing = getattr(mmap, "MAP_NORESERVE", 0x4000) if sys.platform == "linux" else 0
    flags, prot = mmap.MAP_PRIVATE | reserve_nothing, mmap.PROT_READ | mmap.PROT_WRITE
    return torch.frombuffer(mmap.mmap(file.fileno(), 0, flags=flags, prot=prot), dtype=torch.uint8)


def is_verified(path: Path, digest: str) -> bool:
    """Whether this very file (its size, time of change and inode) has been found to have the digest before."""
    with suppress(OSError, ValueError):
        return bool(json.loads(_note_of(path).read_text()) == _identity(path, digest))
    return False


def note_verified(path: Path, digest: str) -> None:
    """Remember that the file has the digest, so that it need not be read whole again; not where no cache can be."""
    with suppress(OSError), replacing(_note_of(path)) as file:
        file.write(json.dumps(_identity(path, digest)).encode())


def _note_of(path: Path) -> Path:
    return cache_folder() / "verified" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"


def _identity(path: Path, digest: str) -> list[int | str]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino, digest]
