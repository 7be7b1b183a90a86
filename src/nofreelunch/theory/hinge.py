"""The expected worst-case hinge loss of a linear classifier of the Gaussian model, and its slopes, in closed form.

With w = (w1, v / sqrt(d), ..., v / sqrt(d)), w1 >= 0 and v >= 0 (nothing else is better if p >= 1/2), and a = y x_1,

    1 - y w.x + eps |w|_1  ~  N(T_a, v^2),   T_a = 1 + (eps - a) w1 - nu v,   nu = (eta - eps) sqrt(d),

and E max(0, N(T, v^2)) = v psi(T / v), psi(t) = t Phi(t) + phi(t), psi' = Phi. phi and Phi are the normal density and
distribution function. Appendix C of Tsipras et al. 2018 bounds these quantities; here they are exact.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from scipy.special import erfcx, log_ndtr, ndtr, ndtri

_FAR = 300.0  # from here on three terms of the asymptotic series are exact in float64


def hazard(t: float) -> float:
    """phi(t) / Phi(t), also where both underflow."""
    return math.sqrt(2 / math.pi) / float(erfcx(-t / math.sqrt(2)))


def excess(t: float) -> float:
    """E(t + N(0, 1) | it is positive) = t + phi(t) / Phi(t), by its asymptotic series where the two would cancel."""
    return t + hazard(t) if t > -_FAR else (-1 + 2 / t**2 - 10 / t**4) / t


def psi(t: float) -> float:
    """E max(0, t + N(0, 1)) = t Phi(t) + phi(t)."""
    return float(ndtr(t)) * excess(t)


def log_ratio(t: float, gap: float) -> float:
    """log(Phi(t - gap) / Phi(t)), gap >= 0; where both are tiny their common part is taken out first."""
    if t > 0:
        return float(log_ndtr(t - gap) - log_ndtr(t))
    mills = erfcx((gap - t) / math.sqrt(2)) / erfcx(-t / math.sqrt(2))
    return gap * (t - gap / 2) + math.log(mills)


class Lam(NamedTuple):
    """The weight of the regulariser, value * e^log_unit: at unit norm it may be far below the smallest float64."""

    value: float
    log_unit: float = 0.0

    @property
    def log(self) -> float:
        """Its natural logarithm."""
        return self.log_unit + math.log(self.value)


@dataclass(frozen=True)
class Slopes:
    """The gradient of the expected hinge at some v > 0, in units of e^log_unit, so that it never underflows.

    Args:
        w1: derivative by w1 (from the right, at w1 = 0).
        v: derivative by v.
        size: sum of the sizes of the terms that these are made of.
        log_unit: logarithm of the unit: log Phi of the larger T_a / v.
    """

    w1: float
    v: float
    size: float
    log_unit: float


@dataclass(frozen=True)
class Hinge:
    """The expected worst-case hinge, a convex function of w1 >= 0 and v >= 0.

    Args:
        p: how often x_1 agrees with the label, at least 1/2.
        eps: training radius.
        nu: (eta - eps) sqrt(d), the mean of y z that the adversary leaves.
    """

    p: float
    eps: float
    nu: float

    def value(self, w1: float, v: float) -> float:
        """E max(0, 1 - y w.x + eps |w|_1)."""
        return sum(weight * _hinge(self._margin(a, w1) - self.nu * v, v) for a, weight in self._cases())

    def slopes(self, w1: float, v: float) -> Slopes:
        """The gradient, for v > 0."""
        agree, differ = (self._margin(a, w1) / v for a, _ in self._cases())
        ratio = math.exp(log_ratio(differ - self.nu, 2 * w1 / v))
        up, down = (1 - self.p) * (1 + self.eps), self.p * (1 - self.eps) * ratio
        pull = (1 - self.p) * self._pull(differ), self.p * ratio * self._pull(agree)
        size = up + abs(down) + abs(pull[0]) + abs(pull[1])
        log_unit = float(log_ndtr(differ - self.nu))
        return Slopes(up - down, sum(pull), size, log_unit)

    @property
    def gain(self) -> float:
        """Minus the slope in w1 where every example has loss: 2 p - 1 - eps."""
        return 2 * self.p - 1 - self.eps

    @property
    def kink(self) -> float:
        """The w1 from which, at v = 0, examples with x_1 = y have no loss: 1 / (1 - eps)."""
        return 1 / (1 - self.eps) if self.eps < 1 else math.inf

    def kink_quantile(self, lam: float) -> float:
        """The t where w1 has no reason to leave the kink if P(loss | x_1 = y) = Phi(t); infinite if it always has."""
        share = ((1 - self.p) * (1 + self.eps) + lam * self.kink) / (self.p * (1 - self.eps)) if self.eps < 1 else 1.0
        return float(ndtri(share)) if share < 1 else math.inf

    def kink_slope(self, t: float) -> float:
        """Slope in v, at w1 = kink and v = 0, if w1 follows v so that P(loss | x_1 = y) = Phi(t)."""
        return self.p * math.exp(-t * t / 2) / math.sqrt(2 * math.pi) - self.nu * (1 - self.p + self.p * float(ndtr(t)))

    def _pull(self, reach: float) -> float:
        """Slope in v over P(loss), hazard(t) - nu with t = reach - nu; for the rare loss without the cancellation."""
        t = reach - self.nu
        return hazard(t) - self.nu if t > -_FAR else excess(t) - reach

    def _margin(self, a: int, w1: float) -> float:
        """T_a + nu v."""
        return 1 + (self.eps - a) * w1

    def _cases(self) -> tuple[tuple[int, float], tuple[int, float]]:
        return (1, self.p), (-1, 1 - self.p)


def _hinge(mean: float, v: float) -> float:
    """E max(0, N(mean, v^2))."""
    return v * psi(mean / v) if v > 0 else max(0.0, mean)
