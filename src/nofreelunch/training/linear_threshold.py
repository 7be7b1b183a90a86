"""Which pixels a robust linear classifier can use: Section 2.3's correlation threshold, made exact.

At an optimum (w, b) without penalty give example i the weight pi_i ~ sigmoid(-its worst-case margin), summing to 1. The
derivative in b vanishes, so each class has half of the weight. The derivatives in w then say for every pixel j (proved
in docs/linear-study.md):

    |cov_pi(x_j, y)| <= room_j,   with equality wherever w_j is not zero,

where room_j is how far on average the adversary can really push pixel j against the label: eps without a box, less with
it. In terms of correlations: w_j = 0 unless |corr_pi(x_j, y)| = room_j / sd_pi(x_j); without a box this is >= 2 eps.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.optimize import brentq
from scipy.special import expit

from nofreelunch.threats import Box
from nofreelunch.training.linear import LinearFit, check_both_classes, examples
from nofreelunch.training.linear_problem import Array, Problem, split


@dataclass(frozen=True, eq=False)
class PixelUse:
    """Per pixel, under the example weights pi of a fit.

    Attributes:
        covariance: cov_pi(x_j, y), y in {-1, +1}.
        room: average push left to the adversary, against the sign of the covariance.
    """

    covariance: Float64[Array, " d"]
    room: Float64[Array, " d"]

    @property
    def share(self) -> Float64[Array, " d"]:
        """covariance / room: within [-1, 1] at an optimum, -1 or 1 wherever the weight is not zero, 0 without room."""
        nothing = np.zeros_like(self.covariance)
        return np.asarray(np.divide(self.covariance, self.room, out=nothing, where=self.room > 0))


def pixel_use(fit: LinearFit, x: Any, y: Any) -> PixelUse:
    """What the optimality conditions say about each pixel on the fit's training examples."""
    x, y = examples(x, y, fit.box)
    problem = Problem.of(x, y, fit.eps, fit.box)
    pull = expit(-problem.margins(split(fit.w), fit.b))
    pi = pull / pull.sum()
    covariance = (pi * (y - pi @ y)) @ (x - pi @ x)
    gain = (pi * y) @ x  # what a weight would gain if nothing were attacked
    up, down = np.split(pi @ problem.rates, 2)
    room = np.where(covariance >= 0, gain - up, -gain - down)
    return PixelUse(covariance, room)


def vanishing_eps(x: Any, y: Any, box: Box = (0, 1)) -> float:
    """The smallest eps at which robust training uses no pixel at all; w = 0 is optimal there and at every larger eps.

    At w = 0 the weights pi are equal within each class. Without a box the answer is half the largest difference of the
    class means over the pixels; with it, the root of the largest rate of gain, which decreases in eps.

    Raises:
        InputError: as `fit_linear`.
    """
    x, y = examples(x, y, box)
    check_both_classes(y)
    pi = np.where(y > 0, 0.5 / (y > 0).sum(), 0.5 / (y < 0).sum())

    def gains(eps: float, pixels: slice | Bool[Array, " d"] = slice(None)) -> Float64[Array, "2 k"]:
        return np.stack(np.split(pi @ Problem.of(x[:, pixels], y, eps, box).rates, 2))

    without_box = float(gains(0.0).max())
    if box is None:
        return without_box
    left = gains(without_box).max(0) > 0  # gains decrease: only these pixels can be the last
    if not left.any():
        return without_box
    return float(brentq(lambda eps: gains(eps, left).max(), without_box, box[1] - box[0], xtol=1e-13))
