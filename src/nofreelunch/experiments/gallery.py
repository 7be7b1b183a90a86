"""Pictures of several sizes in one array, the form in which results keep them."""

from collections.abc import Mapping

import numpy as np

from nofreelunch.experiments.image_grid import Pictures

Shapes = dict[str, tuple[int, ...]]


def packed(pictures: Mapping[str, Pictures]) -> tuple[np.ndarray, Shapes]:
    """All pictures as one array of bytes, by name, and the shape of each."""
    order = sorted(pictures)
    flat = [np.zeros(0, np.uint8), *(pictures[name].ravel() for name in order)]
    return np.concatenate(flat), {name: pictures[name].shape for name in order}


def unpacked(content: np.ndarray, shapes: Shapes) -> dict[str, Pictures]:
    """The pictures that were packed."""
    order = sorted(shapes)
    ends = np.cumsum([int(np.prod(shapes[name])) for name in order])
    return {
        name: part.reshape(shapes[name])
        for name, part in zip(order, np.split(content, ends)[: len(order)], strict=True)
    }
