"""The data model of the paper's theory, and exact accuracies of linear classifiers in it.

Equation (3) of Tsipras et al. 2018: y is -1 or +1, each with probability 1/2; x_1 = y with probability p, else -y;
x_2, ..., x_{d+1} are independent N(y eta, 1) (the display of Section 2.1 that leads to 99 % needs the variance 1/d of
their average, not the 1 that it prints). z = (x_2 + ... + x_{d+1}) / sqrt(d) ~ N(y mu, 1), mu = eta sqrt(d), says all
that the weak features know about y.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nofreelunch.errors import InputError, brief, check_count, check_number
from nofreelunch.theory.linear import LinearRule
from nofreelunch.theory.shapes import LARGEST, Samples, Signs, check_eps, check_p, check_weights

LARGEST_D = 10**12


@dataclass(frozen=True)
class GaussianModel:
    """The distribution of equation (3).

    Args:
        d: number of weak features, 1 to 1e12.
        eta: mean of y x_i for each weak feature, in [0, 1e3].
        p: how often x_1 agrees with the label, in [1e-12, 1); the paper takes 0.7.

    Raises:
        InputError: if an argument is outside its range.
    """

    d: int
    eta: float
    p: float = 0.7

    def __post_init__(self) -> None:
        if check_count("d", self.d) > LARGEST_D:
            raise InputError(f"d must be at most {LARGEST_D:g}, got {self.d}")
        object.__setattr__(self, "d", int(self.d))
        object.__setattr__(self, "eta", check_number("eta", self.eta, 0, LARGEST))
        object.__setattr__(self, "p", check_p(self.p))

    @property
    def mu(self) -> float:
        """Mean of y z: eta sqrt(d)."""
        return self.eta * math.sqrt(self.d)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Samples, Signs]:
        """n draws: x of shape (n, d + 1) and y in {-1, +1} of shape (n,)."""
        check_count("n", n)
        y = 2 * rng.integers(0, 2, n) - 1
        x = rng.standard_normal((n, self.d + 1))
        x[:, 1:] += self.eta * y[:, None]
        x[:, 0] = np.where(rng.random(n) < self.p, y, -y)
        return x, y

    def clean_accuracy(self, w: ArrayLike, b: float = 0.0) -> float:
        """P(y (w.x + b) > 0); see `robust_accuracy`."""
        return self.robust_accuracy(w, 0.0, b)

    def robust_accuracy(
        self, w: ArrayLike, eps: float, b: float = 0.0, norm: str = "linf", adversary: str = "full"
    ) -> float:
        """P(sign(w.x' + b) = y for every x' that the adversary can reach); a score of 0 is an error.

        Args:
            w: d + 1 weights, x_1's first.
            eps: radius of the ball, in [0, 1e3].
            adversary: "full" moves all features; "weak" leaves x_1 alone, like Appendix B's (whose fixed shift by -y
                eps is the worst that can happen to weak features of which none has a negative weight).

        Raises:
            InputError: if an argument is outside its range.
        """
        b = check_number("b", b, -math.inf, math.inf)
        rule = LinearRule.dense(check_weights("w", w, self.d + 1), b)
        return self.rule_accuracy(rule, eps, norm, adversary)

    def rule_accuracy(self, rule: LinearRule, eps: float, norm: str = "linf", adversary: str = "full") -> float:
        """`robust_accuracy` of a classifier whose d weights are never written out."""
        return rule.accuracy(self.eta, self.p, rule.worst_shift(check_eps(eps), norm, adversary))

    def bayes(self) -> LinearRule:
        """The most accurate classifier: the sign of x_1 log(p / (1 - p)) + 2 mu z (Neyman, Pearson), at unit norm."""
        w1, v = math.log(self.p / (1 - self.p)), 2 * self.mu
        norm = math.hypot(w1, v)
        return LinearRule.pooled(w1 / norm, v / norm, self.d) if norm > 0 else LinearRule.pooled(1.0, 0.0, self.d)


def check_gaussian(model: object) -> None:
    """Refuse what is no model of the data: the first argument of the theory's functions."""
    if not isinstance(model, GaussianModel):
        raise InputError(f"model must be a GaussianModel, such as GaussianModel(d=400, eta=0.2), got {brief(model)}")
