"""What `nofreelunch data` prints: the data sets there are, one that was fetched, one that was packed."""

from pathlib import Path

import torch

from nofreelunch.data import DATASETS, Dataset, load_data, open_source, present
from nofreelunch.data.packed import read_packed, stream, write_packed
from nofreelunch.data.tree import Tree, pack_tree, written
from nofreelunch.errors import InputError
from nofreelunch.names import PACKED


def table(root: Path | None = None) -> str:
    """The named data sets as text; `root` as in `load_data`."""
    head = ("data set", "train + test", "classes", "image", "here", "from")
    here = present(root)
    lines = [
        (name, data.images, str(data.classes), data.shape, "yes" if name in here else "no", data.where)
        for name, data in DATASETS.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rows = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *lines)
    ]
    own = "Your own: npz:FILE, folder:DIR (train/CLASS/*.png, test/CLASS/*.png), or what `nofreelunch data pack` makes."
    return "\n".join([*rows, "", own])


def fetch(name: str, root: Path | None = None) -> str:
    """Load a data set once, downloading it where needed, and say what it is."""
    return summary(load_data(name, root))


def pack(spec: str, out: Path, root: Path | None = None, size: int | None = None, strict: bool = False) -> str:
    """Write a data set into one memory-mapped file, and say what is in it.

    Args:
        spec: a folder of images, or any spec of `load_data`.
        out: the file to write; must not exist yet.
        root: as in `load_data`, like the others.
        size: as there.
        strict: as there.

    Raises:
        InputError: if `out` exists or has another ending, or as in `load_data`.
        RunError: if the file cannot be written.
    """
    if out.suffix != PACKED:
        raise InputError(f"--out {out} must end in {PACKED}, by which packed files are known")
    if out.exists():
        raise InputError(f"--out {out} exists already; delete it or give another name")
    source = open_source(f"folder:{spec}" if Path(spec).is_dir() and spec not in DATASETS else spec, root)
    if isinstance(source, Tree):
        pack_tree(source, out, size, strict)
    elif size is not None:
        raise InputError(f"size={size} is for folders of images; the images of {spec} have their size")
    else:
        with written(out):
            write_packed(out, stream(source))
    return f"wrote {out}, {out.stat().st_size:,} bytes\n{summary(read_packed(out))}"


def summary(data: Dataset) -> str:
    """A data set in a few lines: sizes, images per class, statistics, notes, digest."""
    shape = " x ".join(map(str, data.train.x.shape[1:]))
    lines = [f"{data.name}: {len(data.train):,} + {len(data.test):,} images of {shape}, {len(data.classes)} classes"]
    counts = [torch.bincount(split.targets, minlength=len(data.classes)).tolist() for split in (data.train, data.test)]
    lines += [f"  {name}: {train:,} + {test:,}" for name, train, test in zip(data.classes, *counts, strict=True)]
    lines += [f"  mean {_numbers(data.mean)}; std {_numbers(data.std)}", *(f"  note: {note}" for note in data.notes)]
    return "\n".join([*lines, f"  digest {data.digest}"])


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
