"""Data files that lie in the package: one xz stream each (made by tools/pack_bundled.py)."""

import lzma
import math
from importlib.resources import files
from itertools import accumulate

import torch

from nofreelunch.data.dataset import Split
from nofreelunch.errors import InputError


def unpack(name: str, shape: tuple[int, int, int], sizes: tuple[int, int], classes: int) -> tuple[Split, Split]:
    """Train and test split of a file of the package.

    Args:
        name: the file: train images, test images, train labels, test labels, a byte per grey level and label.
        shape: of one image, (c, h, w).
        sizes: number of images in train and test.
        classes: number of classes; labels are 0 .. classes - 1.

    Raises:
        InputError: if the file is damaged: its checksum does not hold.
    """
    try:
        content = lzma.decompress(files("nofreelunch.data").joinpath(name).read_bytes())
    except lzma.LZMAError as error:
        raise InputError(f"{name} in the package is damaged ({error}); install nofreelunch again") from None
    bounds = list(accumulate([n * math.prod(shape) for n in sizes] + [sizes[0]]))
    raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    x_train, x_test, y_train, y_test = torch.tensor_split(raw, bounds)
    labels = tuple(range(classes))
    train, test = (Split(x.view(-1, *shape), y.long(), labels) for x, y in ((x_train, y_train), (x_test, y_test)))
    return train, test
