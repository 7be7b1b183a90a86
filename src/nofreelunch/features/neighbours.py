"""Whether an image could be of a class: a judge that is no network, the nearest real images."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nofreelunch.data import Split
from nofreelunch.errors import InputError
from nofreelunch.types import Images

_CHUNK, _VALUES = 4096, 2**27  # images compared at a time, and values in them: memory does not grow with the data set


@dataclass(frozen=True)
class Neighbours:
    """The nearest real image of each class, for each of n images and k classes.

    Attributes:
        distance: Euclidean, over all pixels; infinite for a class without images.
        index: of the neighbour in the split; -1 for a class without images.
    """

    distance: Float[Tensor, "n k"]
    index: Int64[Tensor, "n k"]


def nearest_of_each_class(x: Images, split: Split) -> Neighbours:
    """The nearest images of a split, usually the training images, one for each class.

    Candidates are compared in float32; the distances of those found are computed in float64.

    Raises:
        InputError: if the images of the split have another shape.
    """
    if x.shape[1:] != split.x.shape[1:]:
        raise InputError(f"x has images of shape {tuple(x.shape[1:])}, the split of {tuple(split.x.shape[1:])}")
    found = [_nearest(x, split, (split.targets == k).nonzero().squeeze(1)) for k in range(len(split.labels))]
    return Neighbours(torch.stack([each[0] for each in found], 1), torch.stack([each[1] for each in found], 1))


def _nearest(x: Images, split: Split, members: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (n,) and index (n,) of the nearest among some images of the split."""
    best = torch.full((len(x),), torch.inf)
    index = torch.full((len(x),), -1)
    query = x.detach().to("cpu", torch.float32).flatten(1)
    if len(members) == 0:
        return best.double(), index
    for chunk in torch.split(members, max(1, min(_CHUNK, _VALUES // split.x[0].numel()))):
        real = split.images(chunk).flatten(1)
        square = real.square().sum(1) - 2 * query @ real.T  # |q - r|^2 without |q|^2, which changes no order
        low, place = square.min(1)
        closer = low < best
        best, index = torch.where(closer, low, best), torch.where(closer, chunk[place], index)
    return (query.double() - split.images(index).flatten(1)).norm(dim=1), index
