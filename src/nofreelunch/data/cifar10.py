"""CIFAR-10: from a file of the user's, or downloaded; a sample of 400 images lies in the package."""

import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nofreelunch.data import npz, store
from nofreelunch.data.bundled import unpack
from nofreelunch.data.dataset import Dataset, Split, content_digest
from nofreelunch.data.packed import cache_path, through_cache
from nofreelunch.errors import InputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.49139967861519607, 0.4821584083946078, 0.4465309144454658)
STD = (0.24703223246328201, 0.24348512800005556, 0.2615878417279645)
DIGEST = "0cf52e74fc2e8197066bb154eb25d7fbab5308fe54a9751529dabc71ad96c832"
SAMPLE_SIZES = (200, 200)

_NPZ, _BATCHES = "cifar10.npz", "cifar-10-batches-py"
_SECONDS_OF_SILENCE = 10  # after which a download is given up


def load_cifar10(root: Path | None = None) -> Dataset:
    """The 60,000 images of CIFAR-10 (Krizhevsky 2009), memory-mapped from the cache after the first time.

    Args:
        root: a folder with `cifar10.npz` (arrays as in `npz.py`, the official order) or torchvision's
            `cifar-10-batches-py`; without it, or where neither is in it, torchvision downloads the data.

    Raises:
        InputError: if a file is damaged or holds other images, or there is none and the download fails.
    """
    return through_cache("cifar10", DIGEST, lambda: _checked(*_find(root)))


def load_cifar10_sample() -> Dataset:
    """The first 20 images of each class of CIFAR-10's training and of its test set; mean and std are those of all."""
    train, test = unpack("cifar10_sample.xz", (3, 32, 32), SAMPLE_SIZES, len(CLASSES))
    return Dataset("cifar10-sample", CLASSES, MEAN, STD, train, test, ("400 of the 60,000 images of CIFAR-10",))


def place(root: Path | None) -> Path | None:
    """Where CIFAR-10 lies under `root`, if it does."""
    places = [] if root is None else [root / _NPZ, root / _BATCHES]
    return next((path for path in places if path.exists()), None)


def is_here(root: Path | None) -> bool:
    """Whether CIFAR-10 lies under `root` or in the cache."""
    return place(root) is not None or cache_path("cifar10", DIGEST).exists()


def _find(root: Path | None) -> tuple[Path, Split, Split]:
    found = place(root)
    if found is not None and found.name == _NPZ:
        data = npz.load_npz(found)
        return found, data.train, data.test
    if found is not None:
        return found, *_torchvision(found.parent)
    folder = root or store.cache_folder()
    return folder / _BATCHES, *_downloaded(folder)


def _downloaded(folder: Path) -> tuple[Split, Split]:
    """The splits as torchvision downloads them into `folder`.

    Raises:
        InputError: if that fails; says which file to put where instead.
    """
    from torchvision.datasets import CIFAR10

    try:
        with _impatient():
            CIFAR10(str(folder), download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"cifar10 is not on this machine and cannot be downloaded ({error}); put {_NPZ}, or torchvision's folder "
            f"{_BATCHES}, into a folder and name that in --data-root or NOFREELUNCH_DATA"
        ) from None
    return _torchvision(folder)


def _torchvision(folder: Path) -> tuple[Split, Split]:
    """The splits from torchvision's files, which are pickles: read by torchvision, which checks MD5 sums first."""
    from torchvision.datasets import CIFAR10

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, on the age of these pickles
            train, test = (_split(CIFAR10(str(folder), train=train)) for train in (True, False))
    except RuntimeError as error:
        raise InputError(
            f"{folder / _BATCHES} is damaged or incomplete; delete it and fetch it again ({error})"
        ) from None
    return train, test


def _split(part: Any) -> Split:
    x = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
    return Split(torch.from_numpy(x), torch.tensor(part.targets), tuple(range(len(CLASSES))))


def _checked(path: Path, train: Split, test: Split) -> Dataset:
    """CIFAR-10 of these splits, if they are the official ones."""
    found = content_digest(train, test)
    if found != DIGEST:
        raise InputError(f"{path} does not hold CIFAR-10 in its official order: digest {found}, not {DIGEST}")
    return Dataset("cifar10", CLASSES, MEAN, STD, train, test, known_digest=found)


@contextmanager
def _impatient() -> Iterator[None]:
    """Connections fail after some seconds of silence, instead of hanging."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS_OF_SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
