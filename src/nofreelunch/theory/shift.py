"""The exact trade-off against Appendix B's adversary, which *always* replaces x_i by x_i - y eps for i >= 2.

It moves the mean of y z from mu to -m, m = s - mu, s = eps sqrt(d), and does not look at the classifier; so the best
classifiers follow from Neyman and Pearson: at x_1 = +1 they answer +1 where, with q = 1 - p and k from 0 to infinity,

    p (e^{mu z} + k e^{-m z}) > q (e^{-mu z} + k e^{m z}),      that is    G(z) > -log(p / q)    with G odd,

and at x_1 = -1 the mirror image. k weighs robust against clean accuracy. For s <= mu this is a half line, as against
the full adversary. Beyond, G turns at most once on z > 0, where cosh(s z) = (m k^2 - mu) / (k (mu - m)), and the set
may be a half line with a gap or an island: z that looks shifted gives the shift away. docs/theory.md, section 4.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from nofreelunch.theory.roots import bisect, bracket
from nofreelunch.theory.shapes import NO_MASS, Pair, Points


@dataclass(frozen=True)
class ShiftTests:
    """The likelihood-ratio tests between shifted and unshifted z, for m > 0.

    Args:
        p: at least 1/2.
        mu: mean of y z before the shift, at least 0.
        m: minus its mean after the shift, above 0.
    """

    p: float
    mu: float
    m: float

    @property
    def clean_end(self) -> Pair:
        """(clean, robust) of the most accurate classifier."""
        c = _ratio(self._log_odds, 2 * self.mu)
        clean = self.p * ndtr(self.mu + c) + (1 - self.p) * ndtr(self.mu - c)
        return float(clean), float(self.p * ndtr(c - self.m) + (1 - self.p) * ndtr(-c - self.m))

    @property
    def robust_end(self) -> Pair:
        """(clean, robust) of the most accurate classifier of what the shift makes: -sign(z - c x_1)."""
        c = _ratio(self._log_odds, 2 * self.m)
        robust = self.p * ndtr(self.m + c) + (1 - self.p) * ndtr(self.m - c)
        return float(self.p * ndtr(c - self.mu) + (1 - self.p) * ndtr(-c - self.mu)), float(robust)

    def robust_at(self, clean: Points) -> Points:
        """The best accuracy after the shift at these clean accuracies, which lie between those of the two ends."""
        s = self.mu + self.m
        reach = np.full_like(clean, (s + 1) * (s + NO_MASS) + self._log_odds)  # beyond it one of the terms is nothing
        ends = bracket(lambda log_k: clean - self._accuracy(self._regions(log_k), self.mu), -reach, reach)
        regions = [self._regions(log_k) for log_k in ends]
        more, less = (self._accuracy(each, self.mu) for each in regions)
        share = (clean - less) / np.where(more > less, more - less, 1.0)  # of a mixture, where the tests jump
        upper, lower = (self._accuracy(each, -self.m) for each in regions)
        return np.asarray(lower + np.clip(share, 0, 1) * (upper - lower))

    @property
    def _log_odds(self) -> float:
        return math.log(self.p / (1 - self.p))

    @property
    def _sign(self) -> float:
        """+1 if G grows in the end, -1 if it falls; `_regions` is written for sign * G."""
        return 1.0 if self.mu > self.m else -1.0

    def _accuracy(self, regions: tuple[Points, Points, Points], mean: float) -> Points:
        """P(the test is right) when y z ~ N(mean, 1)."""
        left, low, high = regions

        def mass(mean: float) -> Points:
            """Of (-left, infinity) without (low, high)."""
            return np.asarray(ndtr(mean + left) - (ndtr(high - mean) - ndtr(low - mean)))

        return self.p * mass(self._sign * mean) + (1 - self.p) * (1 - mass(-self._sign * mean))

    def _regions(self, log_k: Points) -> tuple[Points, Points, Points]:
        """The set {G > -log odds}, mirrored if G falls in the end, as (-left, infinity) without (low, high)."""
        far = np.full_like(log_k, self.mu + self.m + NO_MASS)
        turn = np.minimum(self._turn(log_k), far)
        level = self._log_odds * np.repeat([1.0, -1.0, -1.0], len(log_k))
        slope = np.repeat([1.0, -1.0, 1.0], len(log_k))
        thrice = np.tile(log_k, 3)
        start, end = np.concatenate([turn, np.zeros_like(turn), turn]), np.concatenate([far, turn, far])
        roots = bisect(lambda z: slope * (self._g(z, thrice) - level), start, end)
        left, low, high = np.split(roots, 3)
        dips = self._g(turn, log_k) < -self._log_odds
        return left, np.where(dips, low, 0.0), np.where(dips, high, 0.0)

    def _g(self, z: Points, log_k: Points) -> Points:
        """sign * G(z): falls until its turn, then grows."""
        agree = np.logaddexp(self.mu * z, log_k - self.m * z)
        return self._sign * (agree - np.logaddexp(-self.mu * z, log_k + self.m * z))

    def _turn(self, log_k: Points) -> Points:
        """The z >= 0 where G' = 0, or 0 if there is none (for mu = m, infinity stands for never falling to rest)."""
        grow, fall = (self.mu, self.m) if self.mu > self.m else (self.m, self.mu)
        log_k = self._sign * log_k
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            log_cosh = log_k + np.log((fall - grow * np.exp(-2 * log_k)) / np.float64(grow - fall))
            turn = (log_cosh + np.log1p(np.sqrt(-np.expm1(-2 * log_cosh)))) / (self.mu + self.m)
        return np.where(log_cosh > 0, turn, 0.0)


def _ratio(log_odds: float, twice_mean: float) -> float:
    """The threshold log_odds / (2 mean); infinite where z says nothing."""
    return log_odds / twice_mean if twice_mean > 0 else math.inf
