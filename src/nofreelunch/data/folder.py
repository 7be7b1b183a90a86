"""The user's own images: a folder with `train/CLASS/*.png` and `test/CLASS/*.png` (or `val`), or test images only."""

import os
from pathlib import Path

from nofreelunch.data import images
from nofreelunch.data.images import BadImage, Mode
from nofreelunch.data.tree import Files, Tree, count_notes, hash_ordered, image_files, text
from nofreelunch.errors import InputError


def list_folder(root: Path) -> Tree:
    """The images of a folder; its classes are the folders in `train`, sorted by name.

    Without `train` there are test images only: `test/CLASS` or `CLASS`. Greyscale images only give one channel; one
    coloured image among them gives three to all.

    Raises:
        InputError: if a folder is missing, a class has no training images, or `test` has a class that `train` has not.
    """
    train, test = _parts(root)
    classes = _folders(train or test)
    if len(classes) < 2:
        raise InputError(
            f"{train or test} must hold one folder of images for each of two classes or more, found {len(classes)}"
        )
    train_files = () if train is None else _trained(train, test, classes)
    test_files = _labelled(test, classes)
    if not test_files:
        raise InputError(f"{test} holds no images in its class folders")
    notes = count_notes("train", classes, train_files) if train_files else []
    return Tree(
        text(root.resolve().name),
        tuple(map(text, classes)),
        hash_ordered(train_files),
        hash_ordered(test_files),
        _mode(train_files + test_files),
        notes=(*notes, *count_notes("test", classes, test_files)),
    )


def _parts(root: Path) -> tuple[Path | None, Path]:
    """Where the training images are, if there are any, and the test images."""
    train, *tests = (root / name if os.path.isdir(root / name) else None for name in ("train", "test", "val"))
    test = tests[0] or tests[1]
    if train is None and test is None and os.path.isdir(root):
        test = root if any(image_files(root / name) for name in _folders(root)) else None
    if test is None:
        raise InputError(
            f"{root} must be a folder with train/CLASS/*.png and test/CLASS/*.png, or with one of test/CLASS/*.png and "
            f"CLASS/*.png, to evaluate; {root / ('test' if train else 'train')} is missing"
        )
    return train, test


def _trained(train: Path, test: Path, classes: tuple[str, ...]) -> Files:
    """The training images, if each class has some, and `test` no other classes."""
    strange = sorted(set(_folders(test)) - set(classes))
    if strange:
        raise InputError(f"{test / strange[0]} has no counterpart in {train}; the classes are {', '.join(classes)}")
    files = _labelled(train, classes)
    for label in sorted(set(range(len(classes))) - {label for _, label in files}):
        suffixes = " ".join(sorted(images.SUFFIXES))
        raise InputError(f"{train / classes[label]} holds no images ({suffixes}); add some or remove it")
    return files


def _folders(part: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in part.iterdir() if path.is_dir() and path.name[0] != "."))


def _labelled(part: Path, classes: tuple[str, ...]) -> Files:
    return tuple((path, label) for label, name in enumerate(classes) for path in image_files(part / name))


def _mode(files: Files) -> Mode:
    """The smallest colour mode that holds all images; unreadable ones have no say."""
    with images.quiet():
        return "RGB" if any(_is_coloured(path) for path, _ in files) else "L"


def _is_coloured(path: Path) -> bool:
    try:
        return images.header(path)[1] == "RGB"
    except BadImage:
        return False
