"""Where the worst points of an evaluation lie while it is under way."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nofreelunch.errors import RunError
from nofreelunch.evaluation.source import Source

_FILE = "examples.npy"


def storage(source: Source, folder: Path | None) -> Tensor:
    """Room for a point (n, ...) per example; if there is a folder, a mapped file with what an earlier run left.

    Raises:
        RunError: if the folder cannot be written.
    """
    shape = (len(source), *source.images(torch.arange(1)).shape[1:])
    if folder is None:
        return torch.zeros(shape)
    path = folder / _FILE
    mode = "r+" if _shape_of(path) == shape else "w+"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return torch.from_numpy(np.lib.format.open_memmap(path, mode=mode, dtype=np.float32, shape=shape))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _shape_of(path: Path) -> tuple[int, ...] | None:
    """Of the array in a file, if there is one."""
    try:
        found: tuple[int, ...] = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return None
    return found
