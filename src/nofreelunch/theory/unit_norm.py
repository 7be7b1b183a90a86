"""The population SVM with lam tuned so that |w|_2 = 1, as Appendix C of the paper assumes.

If some lam > 0 does that, its optimum also minimises the expected hinge over the disk |w|_2 <= 1, and lies on its rim.
Minimising over v first leaves a convex function of w1 alone, whose slope is followed along the rim w1 = r v. Slopes
come in units of the probability of a loss, so that lam may be far below the smallest float64. Derivation:
docs/theory.md, section 5.
"""

import math

from scipy.special import ndtr, ndtri

from nofreelunch.errors import InputError
from nofreelunch.theory.hinge import Hinge, Lam
from nofreelunch.theory.roots import root


def unit_norm(hinge: Hinge) -> tuple[float, float, Lam]:
    """(w1, v, lam) of the optimum with w1^2 + v^2 = 1.

    Raises:
        InputError: if no lam > 0 has such an optimum.
    """
    if hinge.nu <= 0:
        if hinge.gain <= 0:
            raise InputError(
                f"lam=None: no lam gives |w|_2 = 1, the optimum is w = 0 for every lam, "
                f"because eps={hinge.eps!r} is at least eta and at least |2p - 1|"
            )
        return 1.0, 0.0, Lam(hinge.gain)
    if hinge.gain <= 0:
        return 0.0, 1.0, _lam(hinge, 0.0, 1.0)
    if hinge.kink == 1:  # eps is 0, or too small to tell
        lam = _kink_lam(hinge)
        if lam is not None:
            return 1.0, 0.0, lam
    w1, v = _rim(root(lambda r: _slope_along_rim(hinge, r), 1.0))
    return w1, v, _lam(hinge, w1, v)


def _rim(r: float) -> tuple[float, float]:
    """The point of the unit circle with w1 = r v."""
    return r / math.hypot(1.0, r), 1 / math.hypot(1.0, r)


def _slope_along_rim(hinge: Hinge, r: float) -> float:
    """A positive multiple of the slope in w1 of min over v of the hinge, v inside the disk; it increases with r."""
    w1, v = _rim(r)
    slopes = hinge.slopes(w1, v)
    if slopes.v < 0:  # the best v is on the rim
        return slopes.w1 * v - slopes.v * w1
    inside = root(lambda v: hinge.slopes(w1, v).v, v)
    return hinge.slopes(w1, inside).w1


def _lam(hinge: Hinge, w1: float, v: float) -> Lam:
    """The lam for which lam w balances the slopes, at a point of the rim where no move along it helps."""
    slopes = hinge.slopes(w1, v)
    if slopes.v >= 0:
        raise InputError("lam=None: no lam gives |w|_2 = 1, the optimum is shorter for every lam > 0; give a lam")
    return Lam(-slopes.w1 * w1 - slopes.v * v, slopes.log_unit)


def _kink_lam(hinge: Hinge) -> Lam | None:
    """The largest lam for which (1, 0), the kink at eps = 0, is the optimum; None if there is none."""
    least = max(-hinge.nu, float(ndtri((1 - hinge.p) / hinge.p)))  # from here on kink_slope falls, and lam > 0
    if hinge.kink_slope(least) <= 0:
        return None
    t = least + root(lambda step: -hinge.kink_slope(least + step), 1.0)
    return Lam(hinge.p * float(ndtr(t)) - (1 - hinge.p))
