"""The soft-margin SVM of a finite sample: what someone trains who draws their own data from the distribution."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from nofreelunch.errors import InputError, check_count, check_number
from nofreelunch.theory.shapes import Samples, Signs, Weights


@dataclass(frozen=True, eq=False)
class SampleSvm:
    """The SVM of a sample.

    Args:
        w: one weight for each feature.
        objective: mean hinge + (lam / 2) |w|_2^2.
        gap: objective minus the dual's value; the optimum is at most this much better.
    """

    w: Weights
    objective: float
    gap: float


def fit_sample_svm(x: Samples, y: Signs, lam: float, iterations: int = 2000) -> SampleSvm:
    """Minimise mean(max(0, 1 - y w.x)) + (lam / 2) |w|_2^2 by its dual, a quadratic on a box (L-BFGS-B).

    With 0 <= alpha_i <= 1 and w = sum_i alpha_i y_i x_i / (lam n), the dual is mean(alpha) - (lam / 2) |w|_2^2.

    Args:
        x: inputs, (n, features).
        y: labels in {-1, +1}, (n,).
        lam: weight of the regulariser, above 0.
        iterations: at most this many; the gap says how far they led.

    Raises:
        InputError: if lam is not above 0, x not finite or of another shape, or a label neither -1 nor +1.
    """
    lam = check_number("lam", lam, 0, np.inf, open_low=True)
    check_count("iterations", iterations)
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y)
    if x.ndim != 2 or x.size == 0 or y.shape != x.shape[:1] or not np.isfinite(x).all():
        raise InputError(
            f"x must be finite, of shape (n, features), and y of shape (n,), got shapes {x.shape} and {y.shape}"
        )
    if not np.isin(y, (-1, 1)).all():
        raise InputError(f"y must hold -1 and +1, got {np.setdiff1d(y, (-1, 1))[0]:g}")
    n = len(y)
    z = x * y[:, None]

    def negative_dual(alpha: Weights) -> tuple[float, Weights]:
        w = alpha @ z / (lam * n)
        return float(lam / 2 * (w @ w) - alpha.mean()), (z @ w - 1) / n

    start = np.full(n, 0.5)
    options = {"maxiter": iterations, "ftol": 1e-15, "gtol": 1e-10}
    best = minimize(negative_dual, start, jac=True, bounds=[(0, 1)] * n, method="L-BFGS-B", options=options)
    w = best.x @ z / (lam * n)
    objective = float(np.maximum(0, 1 - z @ w).mean() + lam / 2 * (w @ w))
    return SampleSvm(w, objective, objective + float(best.fun))
