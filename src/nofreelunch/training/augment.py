"""Random changes of images that keep their class: functions of the images and their random streams, on any device."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nofreelunch.rng import Streams
from nofreelunch.types import Images

_MARGIN = 4  # pixels
_LEAST_AREA, _LEAST_RATIO = 0.08, 3 / 4  # of a part: its share of the image, its shorter side over its longer one


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
    """`crop`, then `flip`."""
    return flip(crop(x, streams), streams)


def resized_crop_flip(x: Images, streams: Streams) -> Images:
    """A random part of each image at the image's full size, mirrored with probability one half (Szegedy et al. 2015).

    The part has 8 to 100 % of the area and sides 3:4 to 4:3, and is resized bilinearly. Colours stay as they are.
    """
    area = _LEAST_AREA + (1 - _LEAST_AREA) * streams.uniform(1)
    stretch = _LEAST_RATIO ** (streams.uniform(1) - 0.5)  # root of height over width
    size = torch.cat([area.sqrt() / stretch, area.sqrt() * stretch], 1).clamp(max=1)  # width, height
    centre = (1 - size) * (2 * streams.uniform(2) - 1)
    affine = torch.cat([torch.diag_embed(size), centre[..., None]], 2)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return flip(F.grid_sample(x, grid, padding_mode="border", align_corners=False).clamp(0, 1), streams)


AUGMENTS: dict[str, Callable[[Images, Streams], Images]] = {
    "none": none,
    "crop": crop,
    "crop-flip": crop_flip,
    "resized-crop-flip": resized_crop_flip,
}


def _axis(size: int, dimension: int, device: torch.device) -> Tensor:
    """0 .. size - 1 along one of four dimensions."""
    shape = [1, 1, 1, 1]
    shape[dimension] = size
    return torch.arange(size, device=device).view(shape)
