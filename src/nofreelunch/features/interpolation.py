"""The straight way from an image to its adversarial example."""

import torch
from jaxtyping import Float
from torch import Tensor

from nofreelunch.errors import InputError, check_count
from nofreelunch.types import Inputs

POINTS = 20
"""Points of Figure 4 in the authors' released code."""


def interpolate(x: Inputs, x_adv: Tensor, points: int = POINTS) -> Float[Tensor, "points n *shape"]:
    """Equally spaced points on the straight line from each x (first) to its x_adv (last); both ends are exact.

    Tsipras et al. 2018, Section 3.2.

    Raises:
        InputError: if shapes or types differ or there are fewer than 2 points.
    """
    if (x.shape, x.dtype) != (x_adv.shape, x_adv.dtype):
        kinds = f"{tuple(x.shape)} of {x.dtype} and {tuple(x_adv.shape)} of {x_adv.dtype}"
        raise InputError(f"x and x_adv must have one shape and type, got {kinds}")
    check_count("points", points, low=2)
    return torch.stack([torch.lerp(x, x_adv, step / (points - 1)) for step in range(points)])
