"""Data sets: named ones, and the user's own files."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from nofreelunch.data import cifar10
from nofreelunch.data.cifar10 import load_cifar10, load_cifar10_sample
from nofreelunch.data.dataset import Dataset, Split
from nofreelunch.data.folder import list_folder
from nofreelunch.data.imagenet import has_tree, list_restricted_imagenet
from nofreelunch.data.mnist import load_mnist, load_mnist_5v7
from nofreelunch.data.npz import load_npz
from nofreelunch.data.packed import read_packed
from nofreelunch.data.tree import Tree, load_tree
from nofreelunch.errors import InputError
from nofreelunch.names import check_data

__all__ = ["DATASETS", "FORMATS", "Dataset", "Split", "load_data", "open_source"]

Source: TypeAlias = Dataset | Tree

_INSIDE, _TREE = "in the package", "an ImageNet tree of yours (train/WNID, val/WNID)"


@dataclass(frozen=True)
class Named:
    """A data set that goes by a name, and what is told of it before it is loaded.

    Args:
        load: from the folder in which data sets lie.
        images: number of images in train and test, where it is fixed.
        classes: how many.
        shape: of one image, (c, h, w).
        where: where it comes from.
        present: whether it can be loaded from that folder without a download.
    """

    load: Callable[[Path | None], Source]
    images: str
    classes: int
    shape: str
    where: str = _INSIDE
    present: Callable[[Path | None], bool] = lambda root: True


DATASETS: dict[str, Named] = {
    "mnist": Named(lambda root: load_mnist(), "60,000 + 10,000", 10, "1 x 28 x 28"),
    "mnist-5v7": Named(lambda root: load_mnist_5v7(), "11,686 + 1,920", 2, "1 x 28 x 28"),
    "cifar10": Named(
        load_cifar10, "50,000 + 10,000", 10, "3 x 32 x 32", "a file of yours, or download", cifar10.is_here
    ),
    "cifar10-sample": Named(lambda root: load_cifar10_sample(), "200 + 200", 10, "3 x 32 x 32"),
    **{
        name: Named(
            partial(list_restricted_imagenet, preset=preset), "of the tree", 9, "3 x 224 x 224", _TREE, has_tree
        )
        for name, preset in {"restricted-imagenet": "paper", "restricted-imagenet:release": "release"}.items()
    },
}
"""By name."""

FORMATS: dict[str, Callable[[Path], Source]] = {
    "npz": load_npz,
    "folder": list_folder,
}
"""Kind of the user's own file -> function of its path; the spec is KIND:PATH."""


def load_data(
    spec: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    size: int | None = None,
    strict: bool = False,
) -> Dataset:
    """The data set that `spec` names.

    Args:
        spec: a name of `DATASETS`; "npz:FILE" or "folder:DIR"; or the path of a packed file, FILE.safetensors.
        root: folder in which data sets lie; default: the variable NOFREELUNCH_DATA.
        size: for image files: side of the square that they are brought to; default: as they are (ImageNet: 224).
        strict: for image files: stop at one that cannot be read, instead of naming and skipping it.

    Raises:
        InputError: if there is no such data set, or it is not on this machine, damaged or not as it should be.
    """
    source = open_source(spec, root)
    if isinstance(source, Tree):
        return load_tree(source, size, strict)
    if size is not None:
        raise InputError(f"{spec} has images of {_sides(source)} pixels; size={size} is for folders of images only")
    return source


def open_source(spec: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Source:
    """A data set, or the list of its image files where these are still to be decoded; arguments as in `load_data`."""
    spec = str(spec)
    if spec in DATASETS:
        return DATASETS[spec].load(data_root(root))
    check_data(spec)
    kind, _, path = spec.partition(":")
    if kind in FORMATS:
        return FORMATS[kind](Path(os.path.expanduser(path)))
    return read_packed(Path(os.path.expanduser(spec)))


def present(root: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """The names of the data sets that can be loaded without a download; `root` as in `load_data`."""
    folder = data_root(root)
    return tuple(name for name, data in DATASETS.items() if data.present(folder))


def data_root(root: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder in which data sets lie: `root`, else the variable NOFREELUNCH_DATA, else none.

    Raises:
        InputError: if it is named and does not exist.
    """
    named = root or os.environ.get("NOFREELUNCH_DATA")
    if not named:
        return None
    folder = Path(os.path.expanduser(named))
    if not os.path.isdir(folder):
        raise InputError(f"the folder of data sets, {folder}, does not exist; correct --data-root or NOFREELUNCH_DATA")
    return folder


def _sides(data: Dataset) -> str:
    height, width = data.train.x.shape[2:]
    return f"{width} x {height}"
