"""The exact trade-off between clean and robust accuracy over all classifiers, randomised ones included."""

import math
from typing import NamedTuple

import numpy as np

from nofreelunch.errors import InputError, check_count, check_known, check_number
from nofreelunch.theory.gaussian import GaussianModel, check_gaussian
from nofreelunch.theory.halfspaces import Halfspaces
from nofreelunch.theory.shapes import ADVERSARIES, Points, check_eps
from nofreelunch.theory.shift import ShiftTests

_ROUNDING = 1e-12  # a clean accuracy that exceeds the best one by less was meant to be the best one


class Frontier(NamedTuple):
    """Points of the trade-off, from the most robust classifier to the most accurate one."""

    clean_accuracy: Points
    robust_accuracy: Points


def best_robust_accuracy(model: GaussianModel, clean_accuracy: float, eps: float, adversary: str = "full") -> float:
    """The most robust accuracy that any classifier, linear or not, can have with at least this clean accuracy.

    Exact; Theorem 2.1 of Tsipras et al. 2018 bounds it from above for "full" and eps >= 2 eta.

    Args:
        clean_accuracy: in [0, 1], at most that of the most accurate classifier.
        eps: l_inf radius; in [0, 1) for "full" (from 1 on x_1 can be hidden too), in [0, 1e3] for "weak".
        adversary: "full" sees the classifier and moves each feature by *up to* eps. "weak" is Appendix B's, which
            *always* replaces x_i by x_i - y eps for i >= 2; beyond 2 eta that gives y away.

    Raises:
        InputError: if an argument is outside its range.
    """
    clean_accuracy = check_number("clean_accuracy", clean_accuracy, 0, 1)
    curve = _curve(model, eps, adversary)
    most, _ = curve.clean_end
    if clean_accuracy > most + _ROUNDING:
        raise InputError(
            f"clean_accuracy must be at most {most!r}, the most that any classifier has, got {clean_accuracy!r}"
        )
    return float(_robust_at(curve, np.array([clean_accuracy]))[0])


def frontier(model: GaussianModel, eps: float, adversary: str = "full", points: int = 201) -> Frontier:
    """The best robust accuracy at `points` clean accuracies, from the most robust classifier to the most accurate.

    They are denser towards the most accurate one, where the trade-off is steepest. At lower clean accuracies the first
    point's robust accuracy remains the best. Arguments as `best_robust_accuracy`.

    Raises:
        InputError: if an argument is outside its range.
    """
    curve = _curve(model, eps, adversary)
    rest = np.linspace(1, 0, check_count("points", points, low=2)) ** 3
    most = curve.clean_end[0]
    clean = np.maximum.accumulate(np.minimum(rest * curve.robust_end[0] + (1 - rest) * most, most))
    return Frontier(clean, np.minimum.accumulate(_robust_at(curve, clean)))


def _curve(model: GaussianModel, eps: float, adversary: str) -> Halfspaces | ShiftTests:
    check_gaussian(model)
    check_known("adversary", adversary, ADVERSARIES)
    eps = check_eps(eps)
    if adversary == "full" and eps >= 1:
        raise InputError(
            f'eps must be in [0, 1) for adversary "full", got {eps!r}: from 1 on it can hide x_1; or take "weak"'
        )
    p, m = max(model.p, 1 - model.p), (eps - model.eta) * math.sqrt(model.d)
    if adversary == "full" or m <= 0:
        return Halfspaces(p, model.mu, m)
    return ShiftTests(p, model.mu, m)


def _robust_at(curve: Halfspaces | ShiftTests, clean: Points) -> Points:
    (low, most_robust), (high, least_robust) = curve.robust_end, curve.clean_end
    robust = np.where(clean < high, curve.robust_at(np.clip(clean, low, high)), least_robust)
    robust = np.where(clean <= curve.p, np.maximum(robust, curve.p), robust)  # x_1 alone has p of both
    return np.where(clean <= low, most_robust, robust)
