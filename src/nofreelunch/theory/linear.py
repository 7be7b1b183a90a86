"""Linear classifiers of the Gaussian model, by the few numbers that decide their accuracy.

A linear classifier is sign(w.x + b); its score 0 counts as an error for both labels. Under equation (3) of the paper
y (w.x + b) = a w_1 + N(eta sum(w_2..), |w_2..|_2^2) + y b  with a = +1 or -1, so that only sums and norms of the weak
weights matter, never the d weights themselves.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from nofreelunch.errors import check_known
from nofreelunch.theory.shapes import ADVERSARIES, NORMS, Weights


@dataclass(frozen=True)
class LinearRule:
    """sign(w.x + b) with the weak weights w_2 .. w_{d+1} summed up.

    Args:
        w1: weight of x_1.
        weak_sum: sum of the weak weights.
        weak_l1: their l_1 norm.
        weak_l2: their l_2 norm.
        b: offset.
    """

    w1: float
    weak_sum: float
    weak_l1: float
    weak_l2: float
    b: float = 0.0

    @classmethod
    def dense(cls, w: Weights, b: float = 0.0) -> "LinearRule":
        """The rule with weights w, scaled to a largest entry of 1 (which changes no decision, and cannot overflow)."""
        scale = max(float(np.abs(w).max()), abs(b))
        if scale > 0:
            w, b = w / scale, b / scale
        weak = w[1:]
        return cls(float(w[0]), float(weak.sum()), float(np.abs(weak).sum()), float(np.linalg.norm(weak)), b)

    @classmethod
    def pooled(cls, w1: float, v: float, d: int) -> "LinearRule":
        """The rule w1 x_1 + v z, z = (x_2 + ... + x_{d+1}) / sqrt(d): each weak feature has weight v / sqrt(d)."""
        root = d**0.5
        return cls(w1, v * root, abs(v) * root, abs(v))

    def worst_shift(self, eps: float, norm: str, adversary: str) -> float:
        """How far the adversary can push y (w.x + b) down: eps times the dual norm of the weights it can reach."""
        check_known("norm", norm, NORMS)
        check_known("adversary", adversary, ADVERSARIES)
        w1 = self.w1 if adversary == "full" else 0.0
        return eps * (abs(w1) + self.weak_l1 if norm == "linf" else float(np.hypot(w1, self.weak_l2)))

    def accuracy(self, eta: float, p: float, shift: float = 0.0) -> float:
        """P(y (w.x + b) - shift > 0) in the model with these eta and p."""
        a = np.array([1.0, -1.0, 1.0, -1.0])
        y = np.array([1.0, 1.0, -1.0, -1.0])
        weight = np.where(a > 0, p, 1 - p) / 2
        mean = a * self.w1 + self.weak_sum * eta + y * self.b - shift
        with np.errstate(over="ignore"):  # a deviation too small to divide by is none
            correct = ndtr(mean / self.weak_l2) if self.weak_l2 > 0 else (mean > 0).astype(np.float64)
        return float(weight @ correct)
