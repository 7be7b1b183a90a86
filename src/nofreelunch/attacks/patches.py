"""The patches that the Square attack tries: where they lie and what they hold (Andriushchenko et al. 2020, section 3).

Inputs (n, c, h, w) are images; any other input is taken as one line of coordinates, and a patch is a stretch of it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nofreelunch.rng import Streams
from nofreelunch.threats import L2, Threat, expand

_UNIT = L2(1.0, box=None)


@dataclass(frozen=True)
class Window:
    """A rectangle in each image.

    Args:
        rows: (n, h), for each row its place in the window, from 0; outside, a number < 0 or >= the height.
        columns: (n, w), likewise.
        shape: height and width.
    """

    rows: Tensor
    columns: Tensor
    shape: tuple[int, int]

    @property
    def inside(self) -> Tensor:
        """(n, 1, h, w), whether a pixel lies in the window."""
        rows, columns = (
            (place >= 0) & (place < size) for place, size in zip((self.rows, self.columns), self.shape, strict=True)
        )
        return (rows[:, :, None] & columns[:, None, :])[:, None]

    def paste(self, pattern: Tensor) -> Tensor:
        """A pattern (height, width) at the window of each image: (n, 1, h, w), 0 outside."""
        high, wide = self.shape
        rows, columns = self.rows.clamp(0, high - 1), self.columns.clamp(0, wide - 1)
        return pattern[rows[:, :, None], columns[:, None, :]][:, None] * self.inside


def as_images(x: Tensor) -> Tensor:
    """(n, c, h, w) as it is; anything else as (n, 1, 1, d)."""
    return x if x.dim() == 4 else x.reshape(len(x), 1, 1, -1)


def patch_shape(share: float, height: int, width: int) -> tuple[int, int]:
    """Height and width of the patch, as square as it can be, that covers this share of an image; at least one pixel."""
    area = share * height * width
    high = min(max(round(math.sqrt(area)), 1), height)
    return high, min(max(round(area / high), 1), width)


def draw_window(streams: Streams, images: Tensor, shape: tuple[int, int]) -> Window:
    """A window of that shape, uniformly placed inside each image."""
    (height, width), (high, wide) = images.shape[2:], shape
    tops, lefts = streams.integers(height - high + 1), streams.integers(width - wide + 1)
    rows = torch.arange(height, device=images.device) - tops[:, None]
    return Window(rows, torch.arange(width, device=images.device) - lefts[:, None], shape)


def signs(streams: Streams, *shape: int, like: Tensor) -> Tensor:
    """(n, *shape) of -1 and 1."""
    return streams.integers(2, *shape).to(like.dtype).mul_(2).sub_(1)


def start_linf(threat: Threat, x: Tensor, streams: Streams) -> Tensor:
    """Vertical stripes, each column and channel up or down by eps."""
    images = as_images(x)
    stripes = signs(streams, images.shape[1], 1, images.shape[3], like=x)
    return (images + threat.eps * stripes).reshape(x.shape)


def move_linf(threat: Threat, x: Tensor, best: Tensor, streams: Streams, share: float) -> Tensor:
    """A window of each image up or down by eps from x, channel by channel; elsewhere the best points so far."""
    images = as_images(x)
    window = draw_window(streams, images, patch_shape(share, *images.shape[2:]))
    moved = images + threat.eps * signs(streams, images.shape[1], 1, 1, like=x)
    return torch.where(window.inside, moved, as_images(best)).reshape(x.shape)


def bumps(height: int, width: int, like: Tensor) -> Tensor:
    """(height, width): two bumps of opposite sign, one above the other, of unit length together (the paper's eta)."""
    half = height // 2
    pattern = torch.cat([_bump(half, width, like), -_bump(height - half, width, like)])
    return pattern / (pattern * pattern).sum().sqrt()


def _bump(height: int, width: int, like: Tensor) -> Tensor:
    """(height, width): the k-th square ring around the middle holds sum_{i > k} 1 / i^2, so it falls off outwards."""
    down = (torch.arange(height, device=like.device) - height // 2).abs()
    across = (torch.arange(width, device=like.device) - width // 2).abs()
    ring = torch.maximum(down[:, None], across[None, :])
    terms = torch.arange(1, max(height, width) // 2 + 2, dtype=like.dtype, device=like.device) ** -2
    tails: Tensor = terms.flip(0).cumsum(0).flip(0)
    return tails[ring]


def start_l2(threat: Threat, x: Tensor, streams: Streams) -> Tensor:
    """A grid of bumps with random signs, of length eps in all."""
    images = as_images(x)
    channels, height, width = images.shape[1:]
    high, wide = max(1, height // 5), max(1, width // 5)
    tile = bumps(high, wide, x)
    across, down = math.ceil(width / wide), math.ceil(height / high)
    sign = signs(streams, channels, down, across, like=x)
    grid = sign.repeat_interleave(high, 2).repeat_interleave(wide, 3) * tile.repeat(down, across)
    delta = grid[:, :, :height, :width].reshape(x.shape)
    return x + threat.eps * _UNIT.steepest(delta)


def move_l2(threat: Threat, x: Tensor, best: Tensor, streams: Streams, share: float) -> Tensor:
    """The length that two windows of the best points so far hold is moved into the first, as a bump on what was there.

    The rest stays.
    """
    delta = as_images(best - x)
    channels, height, width = delta.shape[1:]
    shape = patch_shape(share, height, width)
    shape = (min(max(shape[0], 3), height), min(max(shape[1], 3), width))
    first, second = (draw_window(streams, delta, shape) for _ in range(2))
    both = first.inside | second.inside
    unspent = threat.eps**2 - _energy(delta, (1, 2, 3))
    budget = (_energy(delta * both, (2, 3)) + unspent.clamp(min=0) / channels).sqrt()
    old = delta * first.inside
    old = old / _energy(old, (2, 3)).sqrt().clamp(min=torch.finfo(x.dtype).tiny)
    pattern, lying = bumps(*shape, like=x), bumps(shape[1], shape[0], like=x).T
    turned = expand(streams.integers(2) == 1, delta)
    bump = torch.where(turned, first.paste(lying), first.paste(pattern))
    bump = bump * signs(streams, channels, 1, 1, like=x)
    new = old + bump
    new = new / _energy(new, (2, 3)).sqrt().clamp(min=torch.finfo(x.dtype).tiny) * budget
    return x + torch.where(both, new, delta).reshape(x.shape)


def _energy(delta: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (delta * delta).sum(dims, keepdim=True)
