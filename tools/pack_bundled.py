"""Makes the data files that lie in the package.

    python tools/pack_bundled.py mnist RAW_IDX_FOLDER src/nofreelunch/data/mnist.xz
    python tools/pack_bundled.py cifar10-sample CIFAR10.npz src/nofreelunch/data/cifar10_sample.xz

One xz stream (LZMA2; four literal context bits suit the grey levels) over the bytes of train images, test images, train
labels, test labels, in that order; images are (n, c, h, w). The xz container carries a SHA-256 of the whole.
"""

import lzma
import sys
from pathlib import Path

import numpy as np

FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]
IDX_IMAGE_HEADER, IDX_LABEL_HEADER = 16, 8  # bytes
PER_CLASS = 20


def mnist(raw: Path) -> bytes:
    """All images and labels of the four idx files in a folder."""
    images = [(raw / f"{part}-images-idx3-ubyte").read_bytes()[IDX_IMAGE_HEADER:] for part in ("train", "t10k")]
    labels = [(raw / f"{part}-labels-idx1-ubyte").read_bytes()[IDX_LABEL_HEADER:] for part in ("train", "t10k")]
    return b"".join(images + labels)


def cifar10_sample(npz: Path) -> bytes:
    """The first 20 images of each class, of the training and of the test set, in the data set's order."""
    with np.load(npz) as data:
        kept = {part: _first_of_each_class(data[f"y_{part}"]) for part in ("train", "test")}
        images = [data[f"x_{part}"][index].transpose(0, 3, 1, 2).tobytes() for part, index in kept.items()]
        labels = [data[f"y_{part}"][index].astype(np.uint8).tobytes() for part, index in kept.items()]
    return b"".join(images + labels)


def _first_of_each_class(y: np.ndarray) -> np.ndarray:
    return np.sort(np.concatenate([np.flatnonzero(y == label)[:PER_CLASS] for label in range(10)]))


if __name__ == "__main__":
    what, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    content = {"mnist": mnist, "cifar10-sample": cifar10_sample}[what](source)
    out.write_bytes(lzma.compress(content, check=lzma.CHECK_SHA256, filters=FILTERS))
    print(f"{out}: {out.stat().st_size:,} bytes")
