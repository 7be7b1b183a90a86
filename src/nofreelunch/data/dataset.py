"""What a data set is: two splits of raw images with labels, and the names and statistics that belong to them."""

import hashlib
from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nofreelunch.errors import InputError, check_count, check_known
from nofreelunch.types import Images, Labels, RawImages, pixels


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        x: raw images, uint8 (n, c, h, w); they may lie in a memory-mapped file.
        y: labels, int64 (n,), each one of `labels`.
        labels: the label of each class, in the order of the classes: (0, 1, ...), but (-1, 1) for a pair of classes.

    Raises:
        InputError: if images have no pixels, if there is another number of labels, or a label that belongs to no class.
    """

    x: Tensor = field(repr=False)  # plain types: this is a door, what comes in is checked below
    y: Tensor = field(repr=False)
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            if not isinstance(value := getattr(self, name), Tensor):
                raise InputError(f"{name} must be a tensor, got {type(value).__name__}; torch.as_tensor makes one")
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise InputError(f"x must be uint8 of shape (n, c, h, w), got {self.x.dtype} {tuple(self.x.shape)}")
        if self.y.dtype != torch.int64 or self.y.ndim != 1:
            raise InputError(f"y must be int64 of shape (n,), got {self.y.dtype} {tuple(self.y.shape)}")
        if len(self.x) != len(self.y):
            raise InputError(f"{len(self.x)} images cannot have {len(self.y)} labels; give one label per image")
        if 0 in self.x.shape[1:]:
            raise InputError(f"images need at least one pixel, got shape {tuple(self.x.shape)}")
        if len(set(self.labels)) < max(1, len(self.labels)):
            raise InputError(f"a split needs the labels of its classes, each once, such as (0, 1), got {self.labels}")
        strange = sorted(set(np.unique(self.y.numpy()).tolist()) - set(self.labels))
        if strange:
            raise InputError(f"label {strange[0]} belongs to no class; the labels are {_span(self.labels)}")

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def targets(self) -> Labels:
        """The class of each image as an index, 0 .. K-1: what a network's loss wants."""
        values, order = torch.tensor(self.labels).sort()
        return order[torch.searchsorted(values, self.y)]

    def images(self, index: Tensor | slice = slice(None)) -> Images:
        """Some of the images (default: all) as float32 pixels in [0, 1], in new memory."""
        return pixels(self.x[index])

    def take(self, n: int) -> "Split":
        """The first n examples; an `InputError` if there are fewer."""
        if check_count("n", n) > len(self):
            raise InputError(f"n must be at most the size of the split, {len(self)}, got {n}")
        return Split(self.x[:n], self.y[:n], self.labels)

    def select(self, index: Tensor) -> "Split":
        """The examples at these places; a mapped split stays on disk if they are all."""
        every = torch.equal(index, torch.arange(len(self)))
        return self if every else Split(self.x[index], self.y[index], self.labels)

    def evenly_spaced(self, n: int) -> Tensor:
        """The places of n examples, evenly spread; of all, where there are fewer."""
        n = min(check_count("n", n), len(self))
        return torch.arange(n) * len(self) // n

    def batches(self, size: int, rng: torch.Generator | None = None) -> Iterator[Tensor]:
        """Indices of the examples, `size` at a time, each example once; shuffled only if given an `rng`."""
        check_count("size", size)
        order = torch.arange(len(self)) if rng is None else torch.randperm(len(self), generator=rng)
        return (order[start : start + size] for start in range(0, len(self), size))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set with its two splits.

    Attributes:
        classes: the name of each class.
        mean: mean of the training pixels (in [0, 1]) per channel; of the test pixels, where there are no others.
        std: their standard deviation per channel.
        train: may be empty: test images alone can be evaluated and explained.
        test: holds one image at least.
        notes: what a reader of results should know: images skipped, classes absent, sides out of balance.
        known_digest: `digest`, where it has been computed and checked before; `dataclasses.replace` forgets it.
    """

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    test: Split
    notes: tuple[str, ...] = ()
    known_digest: InitVar[str | None] = None

    def __post_init__(self, known_digest: str | None) -> None:
        if known_digest is not None:
            self.__dict__["digest"] = known_digest  # where `cached_property` keeps it
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise InputError(f"{self.name}: at least two classes of different names are needed, got {self.classes}")
        for split in (self.train, self.test):
            if len(split.labels) != len(self.classes):
                raise InputError(f"{self.name}: {len(self.classes)} classes cannot have {len(split.labels)} labels")
        if not len(self.test):
            raise InputError(f"{self.name}: there must be at least one image to test on")
        if self.train.x.shape[1:] != self.test.x.shape[1:]:
            shapes = f"{tuple(self.train.x.shape[1:])} and {tuple(self.test.x.shape[1:])}"
            raise InputError(f"{self.name}: images of train and test must have one shape, got {shapes}")
        if not len(self.mean) == len(self.std) == self.train.x.shape[1]:
            raise InputError(f"{self.name}: mean and std must have one number per channel")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all labels and images, in hexadecimal: two data sets with equal digests hold the same data."""
        return content_digest(self.train, self.test)

    def for_training(self) -> Split:
        """The training images, where it does not go without.

        Raises:
            InputError: if there are none.
        """
        if not len(self.train):
            raise InputError(
                f"{self.name} has test images only: it can be evaluated and explained, not trained on; "
                "add x_train and y_train to an npz file, train/CLASS/*.png to a folder"
            )
        return self.train

    def pair(self, first: str | int, second: str | int) -> "Dataset":
        """The images of two classes, by their names: y = -1 for `first`, +1 for `second`.

        Those of digits may be given as numbers.

        Mean and std are those of the images kept.

        Raises:
            InputError: if a class is unknown, or both are the same.
        """
        first, second = (str(name) if isinstance(name, (int, np.integer)) else name for name in (first, second))
        for name in (first, second):
            check_known(f"class of {self.name}", name, self.classes)
        if first == second:
            raise InputError(f'classes must be two different ones, got "{first}" twice')
        indices = (self.classes.index(first), self.classes.index(second))
        train, test = (_two_sides(split, *indices) for split in (self.train, self.test))
        return with_statistics(f"{self.name}-{first}v{second}", (first, second), train, test, self.notes)


def with_statistics(
    name: str, classes: tuple[str, ...], train: Split, test: Split, notes: tuple[str, ...] = ()
) -> Dataset:
    """The data set of these splits, with mean and std computed, and what is in both noted."""
    mean, std = statistics_of(train, test)
    known = set(_image_digests(train))
    shared = sum(image in known for image in _image_digests(test))
    found = f"{shared} of {len(test)} test images of {name} are training images as well"
    new = (found,) if shared and found not in notes else ()
    return Dataset(name, classes, mean, std, train, test, notes + new)


def _image_digests(split: Split) -> Iterator[bytes]:
    """A digest of each image; mapped images stay on disk."""
    return (hashlib.blake2b(raw_bytes(image), digest_size=16).digest() for image in split.x)


def statistics_of(train: Split, test: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of the training pixels; of the test pixels, where there are no others."""
    return pixel_statistics((train if len(train) else test).x)


def pixel_statistics(x: RawImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of the pixels in [0, 1], to rounding.

    From the histogram of the 256 grey levels, taken a thousand images at a time: mapped images stay on disk.
    """
    counts = torch.zeros(x.shape[1], 256, dtype=torch.int64)
    for start in range(0, len(x), 1000):
        for channel, histogram in enumerate(counts):
            histogram += torch.bincount(x[start : start + 1000, channel].flatten(), minlength=256)
    return moments(counts)


def moments(counts: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of grey levels / 255 whose histogram (c, 256) is `counts`."""
    share = counts.double() / counts.sum(1, keepdim=True)
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ level
    variance = (share * (level - mean[:, None]) ** 2).sum(1)
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())


def content_digest(train: Split, test: Split) -> str:
    """SHA-256 of both splits: their shapes, labels and images."""
    sha = hashlib.sha256()
    for split in (train, test):
        sha.update(repr((tuple(split.x.shape), split.labels)).encode())
        for array in (split.y, split.x):
            sha.update(raw_bytes(array))
    return sha.hexdigest()


def raw_bytes(array: Tensor) -> memoryview:
    """The bytes of a tensor in row-major order."""
    return array.contiguous().numpy().reshape(-1).view(np.uint8).data


def _two_sides(split: Split, first: int, second: int) -> Split:
    """The examples of two classes (by index) with y = -1 and +1."""
    kept = (split.targets == first) | (split.targets == second)
    if len(split) and not kept.any():
        raise InputError("neither class of the pair has an image in this split")
    y = torch.where(split.targets[kept] == first, -1, 1)
    return Split(split.x[kept], y, (-1, 1))


def _span(labels: tuple[int, ...]) -> str:
    consecutive = labels == tuple(range(labels[0], labels[0] + len(labels)))
    return f"{labels[0]} .. {labels[-1]}" if consecutive and len(labels) > 2 else ", ".join(map(str, labels))
