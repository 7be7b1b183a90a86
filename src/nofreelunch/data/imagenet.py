"""Restricted ImageNet: 203 classes of an ImageNet tree as nine super-classes (Tsipras et al. 2018, Table 1)."""

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path

from nofreelunch.data import images
from nofreelunch.data.images import BadImage
from nofreelunch.data.tree import Files, Tree, count_notes, hash_ordered, image_files, several
from nofreelunch.errors import InputError

TABLE_1 = {
    "Dog": range(151, 269),
    "Cat": range(281, 286),
    "Frog": range(30, 33),
    "Turtle": range(33, 38),
    "Bird": range(80, 101),
    "Primate": range(365, 383),
    "Fish": range(389, 398),
    "Crab": range(118, 122),
    "Insect": range(300, 320),
}
"""Indices among the 1,000 sorted wnids; the paper's ranges are inclusive. It says eight classes and lists nine."""

PRESETS: dict[str, dict[str, tuple[int, ...]]] = {
    "paper": {name: tuple(indices) for name, indices in TABLE_1.items()},
    "release": {name: tuple(indices) for name, indices in TABLE_1.items()}
    | {"Dog": (156, 184, 200, 202, 204, 213, 216, 248, 259, 264, 268)},
}
"""`paper`: Table 1; `release`: the authors' released code, which takes eleven dogs and so is less unbalanced."""

SIZE, MARGIN = 224, 256 / 224
_LOOKED_AT = 20  # images by which a small-image version is known
_PLACES = (".", "restricted-imagenet", "imagenet")


@cache
def wnids() -> dict[int, str]:
    """The wnid of each ImageNet class of Table 1, by its index."""
    lines = files("nofreelunch.data").joinpath("imagenet_wnids.txt").read_text().splitlines()
    return {int(index): wnid for index, wnid, _ in (line.split() for line in lines if line[0] != "#")}


def list_restricted_imagenet(root: Path | None, preset: str) -> Tree:
    """The images of an ImageNet tree (`train/WNID/*`, `val/WNID/*`) that belong to the preset's classes.

    The tree may be any slice of ImageNet: absent wnids are noted, and a tree without `train` serves as both splits,
    which is noted too. Images are resized to 256 and cropped to 224; those of a small-image version, all of one size
    below 224, are left as they are.

    Raises:
        InputError: if no tree is found, or none of its folders belongs to the preset.
    """
    tree = _find(root)
    classes = tuple(PRESETS[preset])
    labels = {wnids()[index]: classes.index(name) for name, indices in PRESETS[preset].items() for index in indices}
    train, train_notes = _part(tree / "train", labels)
    test, test_notes = _part(tree / "val", labels)
    if not test:
        raise InputError(f"{tree / 'val'} must have a folder of images for wnids of Restricted ImageNet, found none")
    if train:
        train_notes += count_notes("train", classes, train)
    else:
        train, train_notes = test, ["no train images in the tree: the train split repeats the val images"]
    return Tree(
        "restricted-imagenet" if preset == "paper" else f"restricted-imagenet:{preset}",
        classes,
        hash_ordered(train),
        hash_ordered(test),
        size=_size(test),
        margin=MARGIN,
        notes=(*train_notes, *test_notes, *count_notes("val", classes, test)),
    )


def has_tree(root: Path | None) -> bool:
    """Whether an ImageNet tree with a folder for one of Table 1's classes lies under `root`."""
    return any(map(_holds_a_class, _trees(root)))


def _trees(root: Path | None) -> list[Path]:
    """The folders where a tree may lie that have a `val`."""
    return [] if root is None else [root / place for place in _PLACES if (root / place / "val").is_dir()]


def _holds_a_class(tree: Path) -> bool:
    return any((tree / "val" / wnid).is_dir() for wnid in wnids().values())


def _find(root: Path | None) -> Path:
    trees = _trees(root)
    if not trees:
        where = "no folder is given" if root is None else f"{root} has none"
        raise InputError(
            f"restricted-imagenet needs an ImageNet tree with train/WNID/*.JPEG and val/WNID/*.JPEG, {where}; "
            "name its folder in --data-root or NOFREELUNCH_DATA (the images are at image-net.org, after registration)"
        )
    return next(filter(_holds_a_class, trees), trees[0])


def _part(folder: Path, labels: dict[str, int]) -> tuple[Files, list[str]]:
    """The images of one split, and notes on the folders that are absent or not wanted."""
    found = {wnid: image_files(folder / wnid) for wnid in sorted(labels)}
    absent = [wnid for wnid, paths in found.items() if not paths]
    others = {path.name for path in folder.glob("*") if path.is_dir()} - set(labels)
    notes = (
        [f"{len(absent)} of {len(labels)} wnids have no images in {folder.name}: {several(absent)}"] if absent else []
    )
    notes += [f"{len(others)} folders of {folder.name} belong to no class and are left out"] if others else []
    return tuple((path, labels[wnid]) for wnid, paths in found.items() for path in paths), notes


def _size(paths: Files) -> int | None:
    """224, or None if the first readable images have one size below that: then the tree is a small-image version."""
    with images.quiet():
        sizes = set(islice(_readable_sizes(paths), _LOOKED_AT))
    return None if len(sizes) == 1 and min(min(sizes)) < SIZE else SIZE


def _readable_sizes(paths: Files) -> Iterator[tuple[int, int]]:
    for path, _ in paths:
        with suppress(BadImage):
            yield images.header(path)[0]
