"""How far a classifier is from the optimum of the population SVM: the certificate of `fit_svm`."""

import math

from nofreelunch.theory.hinge import Hinge, Lam


def residual(hinge: Hinge, w1: float, v: float, lam: Lam) -> float:
    """Norm of the smallest subgradient of hinge + (lam / 2) (w1^2 + v^2), for w1 and v at least 0.

    Where its terms are small (the loss is rare), it is given as a fraction of the sum of their sizes. The problem is
    convex, so 0 means optimal. (The slopes towards negative weights are never the smaller ones.)
    """
    if v == 0:
        return math.hypot(*_at_zero_v(hinge, w1, math.exp(lam.log)))
    slopes = hinge.slopes(w1, v)
    pull = lam.value * math.exp(lam.log_unit - slopes.log_unit)
    by_w1, by_v = slopes.w1 + pull * w1, slopes.v + pull * v
    if w1 == 0:
        by_w1 = min(0.0, by_w1)
    one = math.exp(min(-slopes.log_unit, 700.0))  # 1 in the unit of the slopes
    return math.hypot(by_w1, by_v) / min(one, slopes.size + pull * (w1 + v))


def _at_zero_v(hinge: Hinge, w1: float, lam: float) -> tuple[float, float]:
    """What is missing to optimality in w1 and in v, at v = 0, where the hinge has kinks."""
    below = lam * w1 - hinge.gain  # the slope in w1 while every example has loss
    if w1 < hinge.kink:
        return (min(0.0, below) if w1 == 0 else below), min(0.0, -hinge.nu)
    return max(0.0, below), min(0.0, hinge.kink_slope(hinge.kink_quantile(lam)))
