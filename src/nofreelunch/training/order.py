"""Which images a step works on: functions of the seed and the step, so that no shuffler has a state.

Tags keep apart the random streams that one seed is used for.
"""

from functools import lru_cache

import torch
from torch import Tensor

from nofreelunch.rng import Streams

_HELD_OUT, _SHUFFLE, _STEP = 0, 1, 2


def held_out(seed: int, n: int, share: float) -> tuple[Tensor, Tensor]:
    """Indices of 0 .. n - 1 to train on, and those held out to choose the epoch by; both sorted, int64.

    Args:
        n: number of training images, at least 2.
        share: held out, in [0, 1); at least one image where it is above 0, and at least one is trained on.
    """
    count = min(n - 1, max(1, round(share * n))) if share else 0
    order = _permutation(Streams.numbered(seed, n).fork(_HELD_OUT))
    return order[count:].sort().values, order[:count].sort().values


def batch(seed: int, step: int, n: int, size: int) -> Tensor:
    """Places (int64, (size,), in 0 .. n - 1) of the images of step `step`.

    Each epoch is a permutation of all n; steps cut the endless row of epochs into batches of one size, so a batch may
    hold the end of one epoch and the start of the next, and no image is left out.
    """
    start = step * size
    pieces = []
    while size:
        epoch, place = divmod(start, n)
        piece = _epoch(seed, epoch, n)[place : place + size]
        pieces.append(piece)
        start, size = start + len(piece), size - len(piece)
    return torch.cat(pieces)


def step_streams(seed: int, step: int, indices: Tensor) -> Streams:
    """The random streams of the examples with these indices in step `step`; on the device of `indices`."""
    return Streams.for_examples(seed, indices).fork(_STEP).fork(step)


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, n: int) -> Tensor:
    return _permutation(Streams.numbered(seed, n).fork(_SHUFFLE).fork(epoch))


def _permutation(streams: Streams) -> Tensor:
    """The streams' places in the order of one random integer each."""
    return streams.integers(2**62).argsort(stable=True)
