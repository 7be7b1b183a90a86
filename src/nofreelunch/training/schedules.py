"""How the learning rate and the radius change over a run: plain functions of how much of it is done.

Nothing here has a state, so nothing has to be saved: step k of n asks for the value at `progress(k, n)`.
"""

import math
from collections.abc import Callable

_RISE = 0.3  # share of a one-cycle run in which the rate rises


def progress(step: int, steps: int) -> float:
    """The middle of step `step` (from 0) of `steps`, in (0, 1): the first and the last step have a rate above 0."""
    return (step + 0.5) / steps


def constant(done: float) -> float:
    """1 throughout."""
    return 1.0


def one_cycle(done: float) -> float:
    """Linear from 0 to 1 over the first 30 %, then linear to 0 (Smith and Topin 2017, "Super-convergence")."""
    return done / _RISE if done < _RISE else (1 - done) / (1 - _RISE)


def cosine(done: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, "SGDR", without restarts)."""
    return (1 + math.cos(math.pi * done)) / 2


def step(done: float) -> float:
    """1, then 1/10 from the half, then 1/100 from three quarters (Madry et al. 2018, released CIFAR-10 code)."""
    return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01


def imagenet_step(done: float) -> float:
    """1, then a tenth of it from each of 30, 60, 85, 95 and 105 of 110 parts of the run (the paper's ImageNet code)."""
    return 0.1 ** sum(done >= part / 110 for part in (30, 60, 85, 95, 105))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "imagenet-step": imagenet_step,
    "one-cycle": one_cycle,
    "step": step,
}
"""Name -> factor on the peak learning rate after a share in (0, 1) of the run."""


def warmup(done: float, share: float) -> float:
    """Factor on eps: linear from 0 to 1 over the first share of the run, then 1."""
    return 1.0 if done >= share else done / share
