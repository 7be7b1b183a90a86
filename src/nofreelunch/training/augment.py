"""Random changes of images that keep their class: functions of the images and their random streams, on any device."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nofreelunch.rng import Streams
from nofreelunch.types import Images

_MARGIN = 4  # pixels


def none(x: Images, streams: Streams) -> Images:
    """The images as they are."""
    return x


def crop(x: Images, streams: Streams) -> Images:
    """Each image shifted by up to 4 pixels in each direction; what enters is black (He et al. 2016)."""
    _, channels, height, width = x.shape
    padded = F.pad(x, (_MARGIN,) * 4)
    top, left = streams.integers(2 * _MARGIN + 1, 2).unbind(1)
    rows = (top[:, None] + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=x.device))[:, None, None, :]
    return padded[_axis(len(x), 0, x.device), _axis(channels, 1, x.device), rows, columns]


def flip(x: Images, streams: Streams) -> Images:
    """Each image mirrored left to right with probability one half."""
    mirrored = streams.integers(2, 1, 1, 1).bool()
    return torch.where(mirrored, x.flip(3), x)


def crop_flip(x: Images, streams: Streams) -> Images:
    """Both."""
    return flip(crop(x, streams), streams)


AUGMENTS: dict[str, Callable[[Images, Streams], Images]] = {"none": none, "crop": crop, "crop-flip": crop_flip}


def _axis(size: int, dimension: int, device: torch.device) -> Tensor:
    """0 .. size - 1 along one of four dimensions."""
    shape = [1, 1, 1, 1]
    shape[dimension] = size
    return torch.arange(size, device=device).view(shape)
