"""Image files in folders: listed first, decoded once into a packed file, memory-mapped from then on."""

import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from nofreelunch.data import images, store
from nofreelunch.data.dataset import Dataset
from nofreelunch.data.images import BadImage, Fit, Mode
from nofreelunch.data.packed import Chunks, Stream, kept, read_packed, write_packed
from nofreelunch.errors import InputError, RunError, check_count
from nofreelunch.names import PACKED

Files: TypeAlias = tuple[tuple[Path, int], ...]
Attempted: TypeAlias = NDArray[np.uint8] | BadImage

_log = logging.getLogger(__name__)
_CHUNK = 512  # images decoded between two writes
_SKIPPED = "skipped"


@dataclass(frozen=True)
class Tree:
    """Labelled image files, not read yet.

    Attributes:
        classes: the name of each class; a label is an index of these.
        train: files and labels; may be empty.
        test: files and labels.
        mode: the colour mode that all images are brought to.
        size: side of the square that images are brought to where no other is asked for; None leaves them as they are.
        margin: shorter side of the resized image over side of the crop (ImageNet's 256 over 224).
        notes: as in `Dataset`.
    """

    name: str
    classes: tuple[str, ...]
    train: Files
    test: Files
    mode: Mode = "RGB"
    size: int | None = None
    margin: float = 1.0
    notes: tuple[str, ...] = ()

    def fit(self, size: int | None) -> Fit | None:
        """How images are brought to size; None leaves them as they are."""
        side = self.size if size is None else check_count("size", size)
        return None if side is None else Fit(round(side * self.margin), side)


def load_tree(tree: Tree, size: int | None = None, strict: bool = False) -> Dataset:
    """The images of a tree; decoded into a packed file of the cache the first time, memory-mapped from there.

    Args:
        size: side of the square that images are brought to; default: the tree's.
        strict: stop at an image that cannot be read, instead of naming and skipping it.

    Raises:
        InputError: as in `pack_tree`.
        RunError: if the cache cannot be written.
    """
    path = store.cache_folder() / f"tree-{_fingerprint(tree, tree.fit(size))}{PACKED}"

    def as_strict(data: Dataset) -> bool:
        return not (strict and any(note.startswith(_SKIPPED) for note in data.notes))

    if (data := kept(path, as_strict)) is not None:
        return data
    with written(path), store.exclusive(path):  # of many processes one decodes
        if (data := kept(path, as_strict)) is None:
            pack_tree(tree, path, size, strict)
            data = read_packed(path)
    return data


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What the system says against writing a file is a failure of the run."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RunError(
            f"cannot write {path}: {reason}; give another file, or another folder in NOFREELUNCH_CACHE"
        ) from None


def pack_tree(tree: Tree, path: Path, size: int | None = None, strict: bool = False) -> None:
    """Decode the images of a tree into a packed file; arguments as in `load_tree`.

    Raises:
        InputError: if images differ in size and none is given, if a split has no readable image, or if `strict`.
        RunError: if the file cannot be written; then nothing of it is left.
    """
    fit = tree.fit(size)
    if fit is not None:
        _check_space(path, (len(tree.train) + len(tree.test)) * len(tree.mode) * fit.crop**2)
    notes = list(tree.notes)
    train, test = (_decoded(files, tree, fit, strict, notes) for files in (tree.train, tree.test))
    labels = tuple(range(len(tree.classes)))
    with written(path):
        write_packed(path, Stream(tree.name, tree.classes, labels, train, test, notes))
    for note in notes:
        _log.warning("%s: %s", tree.name, note)


def image_files(folder: Path) -> list[Path]:
    """The images directly in a folder, by their suffix, sorted by name; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in images.SUFFIXES and path.name[0] != ".")


def hash_ordered(files: Files) -> Files:
    """The files in a fixed order without pattern: by a hash of class folder and name.

    So the first n are a fair sample of the classes, and the order depends neither on the file system nor on the place
    of the tree.
    """
    return tuple(sorted(files, key=lambda file: hashlib.sha256(os.fsencode("/".join(file[0].parts[-2:]))).digest()))


def count_notes(part: str, classes: tuple[str, ...], files: Files) -> list[str]:
    """What to know of the numbers of images per class: classes without any, and how far the others are from balance."""
    found = np.bincount([label for _, label in files], minlength=len(classes)).tolist()
    counts = dict(zip(classes, found, strict=True))
    empty = [name for name, count in counts.items() if not count]
    notes = [f"no {part} images of {several(empty)}"] if empty else []
    least, most = (best((name for name in counts if counts[name]), key=counts.__getitem__) for best in (min, max))
    if counts[least] < counts[most]:
        notes.append(f"unbalanced {part} files per class: {counts[least]} ({least}) to {counts[most]} ({most})")
    return notes


def several(names: list[str]) -> str:
    """The first five names, and how many more there are."""
    listed = ", ".join(name if len(name) <= 200 else f"...{name[-197:]}" for name in names[:5])
    return f"{listed} and {len(names) - 5} more" if len(names) > 5 else listed


def _decoded(files: Files, tree: Tree, fit: Fit | None, strict: bool, notes: list[str]) -> Chunks:
    """The readable images of `files`, in order, one at a time; what is skipped goes into `notes` at the end."""
    skipped, kept = list[str](), set[int]()
    first: tuple[Path, tuple[int, ...]] | None = None
    for (path, label), image in zip(files, _attempts(files, partial(_attempt, mode=tree.mode, fit=fit)), strict=True):
        if isinstance(image, BadImage):
            if strict:
                way = "remove or replace it, or leave out --strict to skip such images"
                raise InputError(f"{path} {image}; {way}")
            skipped.append(f"{text(path)} {image}")
            continue
        first = first or (path, image.shape)
        kept.add(label)
        _check_shape(first, (path, image.shape))
        yield torch.from_numpy(image)[None], torch.tensor([label])
    said = f"{_SKIPPED} {len(skipped)} of {len(files)} images: {several(skipped)}"
    if skipped and said not in notes:  # one split may repeat the other
        notes.append(said)
        lost = sorted({label for _, label in files} - kept)
        notes += [f"no image of {several([tree.classes[label] for label in lost])} can be read"] if lost else []
    if files and first is None:
        raise InputError(f"none of {len(files)} images can be read: {several(skipped)}")


def _attempts(files: Files, decode: Callable[[Path], Attempted]) -> Iterator[Attempted]:
    """What `decode` makes of each file, in order; by threads, since Pillow decodes without holding the interpreter."""
    starts = range(0, len(files), _CHUNK)
    shown = track(starts, "decoding", console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
    with ThreadPoolExecutor() as pool:
        for start in shown:
            with images.quiet():
                decoded = list(pool.map(decode, [path for path, _ in files[start : start + _CHUNK]]))
            yield from decoded


def _attempt(path: Path, mode: Mode, fit: Fit | None) -> Attempted:
    try:
        return images.decode(path, mode, fit)
    except BadImage as error:
        return error


def _check_shape(first: tuple[Path, tuple[int, ...]], other: tuple[Path, tuple[int, ...]]) -> None:
    if first[1] != other[1]:
        sizes = [f"{path} has {shape[2]} x {shape[1]} pixels" for path, shape in (first, other)]
        raise InputError(
            f"images differ in size: {' and '.join(sizes)}; bring them to one first: "
            "nofreelunch data pack DIR --size 64 --out FILE"
        )


def _check_space(path: Path, needed: int) -> None:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(f"the decoded images need {needed / 1e9:.1f} GB; {folder} has {free / 1e9:.1f} GB free")


def _fingerprint(tree: Tree, fit: Fit | None) -> str:
    """Changes when a file, its label or its treatment does."""
    sha = hashlib.sha256(repr((tree.name, tree.classes, tree.mode, fit, tree.notes)).encode())
    for path, label in tree.train + tree.test:
        sha.update(repr((str(path.absolute()), label, *_state(path))).encode())
    return sha.hexdigest()[:32]


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change of a file, zeros where it cannot be reached: it will be skipped."""
    with suppress(OSError):
        stat = path.stat()
        return stat.st_size, stat.st_mtime_ns
    return 0, 0


def text(name: str | Path) -> str:
    """A file's name with its bytes that are no letters spelt out."""
    return os.fsencode(name).decode(errors="backslashreplace")
