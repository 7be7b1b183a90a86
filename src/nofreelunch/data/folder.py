"""The user's own images: a folder with `train/CLASS/*.png` and `test/CLASS/*.png` (or `val`)."""

import os
from pathlib import Path

from nofreelunch.data import images
from nofreelunch.data.images import BadImage, Mode
from nofreelunch.data.tree import Files, Tree, count_notes, hash_ordered, image_files, text
from nofreelunch.errors import InputError


def list_folder(root: Path) -> Tree:
    """The images of a folder; its classes are the folders in `train`, sorted by name.

    Greyscale images only give one channel; one coloured image among them gives three to all.

    Raises:
        InputError: if a folder is missing, a class has no training images, or `test` has a class that `train` has not.
    """
    train, test = _part(root, "train"), _part(root, "test", "val")
    classes = _folders(train)
    if len(classes) < 2:
        raise InputError(
            f"{train} must hold one folder of images for each of two classes or more, found {len(classes)}"
        )
    strange = sorted(set(_folders(test)) - set(classes))
    if strange:
        raise InputError(f"{test / strange[0]} has no counterpart in {train}; the classes are {', '.join(classes)}")
    train_files, test_files = (_labelled(part, classes) for part in (train, test))
    trained = {label for _, label in train_files}
    for label, name in enumerate(classes):
        if label not in trained:
            raise InputError(
                f"{train / name} holds no images ({' '.join(sorted(images.SUFFIXES))}); add some or remove it"
            )
    if not test_files:
        raise InputError(f"{test} holds no images in its class folders")
    notes = [*count_notes("train", classes, train_files), *count_notes("test", classes, test_files)]
    mode = _mode(train_files + test_files)
    labels = tuple(map(text, classes))
    return Tree(
        text(root.resolve().name),
        labels,
        hash_ordered(train_files),
        hash_ordered(test_files),
        mode,
        notes=tuple(notes),
    )


def _part(root: Path, *names: str) -> Path:
    for name in names:
        if os.path.isdir(root / name):
            return root / name
    raise InputError(
        f"{root} must be a folder with train/CLASS/*.png and test/CLASS/*.png; {root / names[0]} is missing"
    )


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
