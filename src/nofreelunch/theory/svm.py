"""The population SVM of Theorem 2.2, standard and adversarial, solved to a certificate.

    minimise  E max(0, 1 - y w.x + eps |w|_1) + (lam / 2) |w|_2^2      (Tsipras et al. 2018, equation (5) and Lemma C.5)

By symmetry all weak weights are equal (Lemma C.1): w = (w1, v / sqrt(d), ..., v / sqrt(d)), so the problem has two
unknowns and is convex in them. Its optimality conditions are monotone in one unknown at a time and are solved by
bracketing. Derivations: docs/theory.md, section 5.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from nofreelunch.errors import check_number
from nofreelunch.theory.gaussian import GaussianModel, check_gaussian
from nofreelunch.theory.hinge import Hinge, Lam
from nofreelunch.theory.linear import LinearRule
from nofreelunch.theory.optimality import residual
from nofreelunch.theory.roots import root
from nofreelunch.theory.shapes import Weights, check_eps
from nofreelunch.theory.unit_norm import unit_norm

_LARGEST_LAM = 1e100
_NO_MEAN = 1e-100  # a mean of y z that cannot be told from 0; 1 / v would overflow


@dataclass(frozen=True)
class SvmSolution:
    """The optimal classifier w1 x_1 + v z, z = (x_2 + ... + x_{d+1}) / sqrt(d).

    Args:
        w1: weight of x_1.
        v: weight of z.
        lam: weight of the regulariser (lam / 2) |w|_2^2; 0.0 where the tuned one is below the smallest float64.
        objective: expected worst-case hinge plus regulariser.
        residual: norm of the smallest subgradient of the objective, over the sum of the sizes of its terms where that
            sum is below 1; 0 is optimal, because the problem is convex.
        log10_lam: log10 of lam, also where lam is too small for a float64.
    """

    w1: float
    v: float
    lam: float
    objective: float
    residual: float
    log10_lam: float

    def rule(self, d: int) -> LinearRule:
        """The classifier, ready for `GaussianModel.rule_accuracy`."""
        return LinearRule.pooled(self.w1, self.v, d)

    def weights(self, d: int) -> Weights:
        """All d + 1 weights."""
        return np.concatenate([[self.w1], np.full(d, self.v / math.sqrt(d))])


class ZeroFrom(NamedTuple):
    """The training eps from which on each weight of the adversarial SVM is zero."""

    w1: float
    v: float


def zero_from(model: GaussianModel) -> ZeroFrom:
    """The exact thresholds: |2 p - 1| for the weight of x_1, eta for the weak weights (Lemma C.5 needs only 2 eta).

    From there on the weight is zero for every lam; below, it is not, with one exception: for lam <= (2 p - 1 - eps)
    (1 - eps) w1 can sit on the kink 1 / (1 - eps), where x_1 = y means margin 1, and v can be zero a little below eta.
    At unit norm this happens at eps = 0 only.
    """
    check_gaussian(model)
    return ZeroFrom(w1=abs(2 * model.p - 1), v=model.eta)


def fit_svm(model: GaussianModel, lam: float | None = None, eps: float = 0.0) -> SvmSolution:
    """The SVM (eps = 0) or adversarial SVM of the whole distribution.

    Args:
        lam: weight of the regulariser, in (0, 1e100]; None tunes it so that |w|_2 = 1, as Appendix C assumes. (Where a
            range of lam does, the largest is taken.)
        eps: training radius of the l_inf adversary, in [0, 1e3].

    Look at the residual of what comes back where eta sqrt(d) is above about 1e6: float64 may not resolve the optimum.

    Raises:
        InputError: if an argument is outside its range, or no lam gives |w|_2 = 1.
    """
    check_gaussian(model)
    eps = check_eps(eps)
    hinge = hinge_of(model, eps)
    if lam is None:
        solution = _solution(hinge, *unit_norm(hinge))
    else:
        lam = check_number("lam", lam, 0, _LARGEST_LAM, open_low=True)
        solution = _solution(hinge, *_optimum(hinge, lam), Lam(lam))
    return replace(solution, w1=-solution.w1) if model.p < 0.5 else solution


def hinge_of(model: GaussianModel, eps: float) -> Hinge:
    """The loss of (w1, v) on the model within eps, as if p were at least 1/2."""
    nu = (model.eta - eps) * math.sqrt(model.d)
    return Hinge(max(model.p, 1 - model.p), eps, nu if nu > _NO_MEAN else min(nu, 0.0))


def _solution(hinge: Hinge, w1: float, v: float, lam: Lam) -> SvmSolution:
    value = lam.value * math.exp(lam.log_unit)
    objective = hinge.value(w1, v) + value / 2 * (w1 * w1 + v * v)
    return SvmSolution(w1, v, value, objective, residual(hinge, w1, v, lam), lam.log / math.log(10))


def _optimum(hinge: Hinge, lam: float) -> tuple[float, float]:
    """(w1, v) for a given lam."""
    if hinge.nu <= 0:
        return min(max(0.0, hinge.gain / lam), hinge.kink), 0.0
    if hinge.gain <= 0:
        return 0.0, root(lambda v: _v_slope(hinge, lam, 0.0, v), 1 / hinge.nu)
    if hinge.kink_slope(hinge.kink_quantile(lam)) >= 0:
        return hinge.kink, 0.0
    v = root(lambda v: _v_slope(hinge, lam, _best_w1(hinge, lam, v), v), 1 / hinge.nu)
    return _best_w1(hinge, lam, v), v


def _best_w1(hinge: Hinge, lam: float, v: float) -> float:
    """The best w1 for this v."""

    def slope(w1: float) -> float:
        slopes = hinge.slopes(w1, v)
        return slopes.w1 * math.exp(slopes.log_unit) + lam * w1

    return root(slope, 1.0)


def _v_slope(hinge: Hinge, lam: float, w1: float, v: float) -> float:
    slopes = hinge.slopes(w1, v)
    return slopes.v * math.exp(slopes.log_unit) + lam * v
