"""The exact trade-off against the full adversary: which pairs (clean accuracy, robust accuracy) a classifier can have.

Among all classifiers of x, randomised ones included, the best are h_c(x) = sign(z + c sign(x_1)) and mixtures of two of
them. Against h_c the adversary moves z by s = eps sqrt(d) (x_1 keeps its sign for eps < 1). With q = 1 - p, m = s - mu
and the normal distribution function Phi,

    1 - clean(c) = p Phi(-mu - c) + q Phi(c - mu),        robust(c) = p Phi(c - m) + q Phi(-m - c).

Both are sums of positive terms, so they keep their digits where they are tiny; and 1 - clean is exact in float64.

No classifier does better: the adversary moves x along (1, ..., 1) only, so that nothing but (x_1, z) informs about y;
there no set beats a half line, by the Gaussian isoperimetric inequality. Proof: docs/theory.md, section 3.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import erfcx, ndtr

from nofreelunch.theory.roots import bisect
from nofreelunch.theory.shapes import NO_MASS, Pair, Points


@dataclass(frozen=True)
class Halfspaces:
    """The upper concave hull of the curve c -> (clean(c), robust(c)).

    Args:
        p: at least 1/2 (for less, -x_1 takes the place of x_1 and the trade-off is that of 1 - p).
        mu: mean of y z, at least 0.
        m: how far below 0 the adversary can push that mean: s - mu.
    """

    p: float
    mu: float
    m: float

    @property
    def most_clean(self) -> float:
        """The c of the most accurate classifier (Bayes')."""
        return self._best_for(self.mu)

    @property
    def most_robust(self) -> float:
        """The c of the most robust classifier; x_1 alone (c = infinity) from s = mu."""
        return self._best_for(-self.m)

    @property
    def clean_end(self) -> Pair:
        """(clean, robust) of the most accurate classifier."""
        return self._pair(self.most_clean)

    @property
    def robust_end(self) -> Pair:
        """(clean, robust) of the most robust classifier."""
        return self._pair(self.most_robust)

    def robust_at(self, clean: Points) -> Points:
        """The best robust accuracy at clean accuracies between those of the two ends."""
        error = 1 - clean
        low, high = np.full_like(clean, self.most_clean), np.full_like(clean, self.most_robust)
        on_curve = self._robust(bisect(lambda c: self._error(c) - error, low, high))
        if self.m <= self.mu:
            return on_curve
        touch = self._touch()
        gain, beyond, robust = self._gain(touch), error - self._error(touch), self._robust(touch)
        slope = (self.p - robust) / np.where(gain > 0, gain, 1.0)
        return np.where(beyond > 0, robust + slope * beyond, on_curve)

    def _pair(self, c: float) -> Pair:
        at = np.array([c])
        return 1 - float(self._error(at)[0]), float(self._robust(at)[0])

    def _robust(self, c: Points) -> Points:
        """robust(c)."""
        return np.asarray(self.p * ndtr(c - self.m) + (1 - self.p) * ndtr(-self.m - c))

    def _error(self, c: Points) -> Points:
        """1 - clean(c)."""
        return np.asarray(self.p * ndtr(-self.mu - c) + (1 - self.p) * ndtr(c - self.mu))

    def _gain(self, c: Points) -> Points:
        """clean(c) - p."""
        return np.asarray((1 - self.p) * ndtr(self.mu - c) - self.p * ndtr(-self.mu - c))

    def _best_for(self, mean: float) -> float:
        """The c of the most accurate h_c where y z has this mean: log(p / q) / (2 mean)."""
        infinity = self.mu + abs(self.m) + NO_MASS
        return min(math.log(self.p / (1 - self.p)) / (2 * mean), infinity) if mean > 0 else infinity

    def _touch(self) -> Points:
        """The c at which the chord from the end of the curve, (p, p) at c = infinity, touches it; for m > mu.

        There (p - robust) / robust' = (clean - p) / -clean'. Both sides are divided by their normal density, so that
        nothing cancels or underflows.
        """
        p, q, mu, m = self.p, 1 - self.p, self.mu, self.m

        def excess(c: Points) -> Points:
            with np.errstate(all="ignore"):  # a ratio may be infinite at the lower end; its sign is right
                loss = (p * _mills(c - m) - q * _mills(c + m) * np.exp(-2 * m * c)) / (p - q * np.exp(-2 * m * c))
                gain = (q * _mills(c - mu) - p * _mills(c + mu) * np.exp(-2 * mu * c)) / (q - p * np.exp(-2 * mu * c))
                return np.asarray(loss - gain)

        return bisect(excess, np.array([self.most_clean]), np.array([self.most_robust]))


def _mills(x: Points) -> Points:
    """Mills' ratio Phi(-x) / phi(x)."""
    return math.sqrt(math.pi / 2) * np.asarray(erfcx(x / math.sqrt(2)))
