"""Roots of monotone functions: many at once by bisection, one by bracketing."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from nofreelunch.theory.shapes import Points

_RTOL = 4 * np.finfo(np.float64).eps  # the least that brentq takes
_STEPS = 64  # 5e-20 of the bracket


def bracket(f: Callable[[Points], Points], low: Points, high: Points) -> tuple[Points, Points]:
    """The two neighbours between which each increasing f crosses 0; at the nearer end where it does not cross.

    `low` and `high` themselves are never evaluated, so f may be undefined there.
    """
    for _ in range(_STEPS):
        middle = (low + high) / 2
        below = f(middle) < 0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low, high


def bisect(f: Callable[[Points], Points], low: Points, high: Points) -> Points:
    """Where each increasing f crosses 0 between `low` and `high`; see `bracket`."""
    low, high = bracket(f, low, high)
    return np.asarray((low + high) / 2)


def root(f: Callable[[float], float], guess: float) -> float:
    """The root of an increasing f on (0, infinity) that is negative near 0 and positive far out."""
    low = high = guess
    while f(low) > 0:
        low /= 2
    while f(high) < 0:
        high *= 2
    return float(brentq(f, low, high, xtol=1e-300, rtol=_RTOL, maxiter=1000)) if low < high else low
