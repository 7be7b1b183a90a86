"""Linear classifiers of two classes, trained against the exact l_inf adversary (Section 2.3; Figure 2, Table 4)."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float64, Int

from nofreelunch.errors import InputError, check_known, check_number, check_seed
from nofreelunch.threats import Box, check_box
from nofreelunch.training.linear_descent import Descent, descend
from nofreelunch.training.linear_optimum import NoOptimum, minimise
from nofreelunch.training.linear_problem import Array, Problem, join, split, worst_inputs

__all__ = ["PAPER_RECIPE", "Descent", "LinearFit", "NoOptimum", "check_both_classes", "examples", "fit_linear"]

Method = Literal["optimum", "sgd"]
PAPER_RECIPE = Descent()


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A linear classifier sign(w.x + b), and how it came about.

    Attributes:
        w: weights of the flattened pixels; those that are zero at the optimum are exactly zero.
        b: bias.
        objective: mean softplus(-worst-case margin) + (l2 / 2) |w|_2^2 on the training examples.
        residual: inf-norm of the objective's smallest subgradient in (w, b): 0 exactly at a global optimum.
        eps: radius of the adversary trained against.
        box: the pixels' interval that it kept to, or None; the methods take this one unless they are given another.
        method: "optimum" or "sgd".
        l2: weight of the penalty.
    """

    w: Float64[Array, " d"]
    b: float
    objective: float
    residual: float
    eps: float
    box: Box
    method: str
    l2: float

    @property
    def pixels(self) -> Int[Array, " k"]:
        """Indices of the pixels whose weight is not zero."""
        return np.flatnonzero(self.w)

    @property
    def l1_norm(self) -> float:
        """|w|_1: without a box the adversary takes eps times this from every margin."""
        return float(np.abs(self.w).sum())

    def margins(
        self, x: Any, y: Any, eps: float | int = 0.0, box: Box | Literal["own"] = "own"
    ) -> Float64[Array, " n"]:
        """Exact worst-case margins of examples (as for `fit_linear`) within l_inf distance eps."""
        box = self.box if box == "own" else box
        x, y = examples(x, y, box)
        if x.shape[1] != len(self.w):
            raise InputError(f"x must have {len(self.w)} pixels per example, as in training, got {x.shape[1]}")
        eps = _radius(eps, box)
        if eps > 0 and box is not None:
            x = worst_inputs(x, y, self.w, eps, box)
        lost = eps * self.l1_norm if box is None else 0.0
        return np.asarray(y * (x @ self.w + self.b) - lost)

    def clean_accuracy(self, x: Any, y: Any) -> float:
        """Share of examples classified correctly; a tie is an error."""
        return self.robust_accuracy(x, y, 0.0)

    def robust_accuracy(self, x: Any, y: Any, eps: float | int, box: Box | Literal["own"] = "own") -> float:
        """Share of examples that no perturbation of l_inf size eps (inside the box) gets wrong or tied: exact."""
        return float((self.margins(x, y, eps, box) > 0).mean())


def fit_linear(  # eight parameters: they are the whole statement of the problem, and public
    x: Any,
    y: Any,
    eps: float | int = 0.0,
    box: Box = (0, 1),
    method: str = "optimum",
    l2: float | int = 0.0,
    recipe: Descent = PAPER_RECIPE,
    seed: int = 0,
) -> LinearFit:
    """Logistic regression on the exact worst-case margin inside the l_inf ball of radius eps and inside the box.

    The margin is a closed form and the problem convex, so `"optimum"` is the global optimum, certified by its residual
    (< 1e-8); `"sgd"` is the paper's recipe (Appendix A).

    Args:
        x: pixels in the box, in [0, 1] without one; (n, d) or (n, ...), which is flattened; an array or a CPU tensor.
        y: labels -1 and +1, of shape (n,).
        eps: radius, up to the width of the box, or of [0, 1] without one; 0 is standard training.
        box: interval that pixels cannot leave, or None.
        method: "optimum" or "sgd".
        l2: penalty (l2 / 2) |w|_2^2; the bias is free.
        recipe: epochs, batch size and step of "sgd".
        seed: order of the examples in "sgd".

    Raises:
        NoOptimum: (an `InputError`) for "optimum" where the loss has no minimum: separable examples at l2 = 0.
        InputError: for arguments outside their range, NaN, other labels, or one class only.
    """
    check_known("method", method, get_args(Method))
    x, y = examples(x, y, box)
    check_both_classes(y)
    eps = _radius(eps, box)
    l2 = check_number("l2", l2, 0.0, np.inf)
    check_seed(seed)
    problem = Problem.of(x, y, eps, box, l2)
    if method == "optimum":
        u, b = minimise(problem)
    else:
        w, b = descend(x, y, eps, box, l2, recipe, seed)
        u = split(w)
    margins = problem.margins(u, b)
    grad, grad_b = problem.gradient(margins, u)
    residual = max(float(problem.violations(u, grad).max()), abs(grad_b))
    return LinearFit(join(u), b, problem.objective(margins, u), residual, eps, box, method, l2)


def examples(x: Any, y: Any, box: Box = (0, 1)) -> tuple[Float64[Array, "n d"], Float64[Array, " n"]]:
    """Flattened float64 inputs and labels, checked.

    Raises:
        InputError: naming what is wrong with x, y or the box.
    """
    low, high = check_box(box) or (0, 1)
    x, y = _numbers("x", x), _numbers("y", y)
    if x.ndim < 2 or 0 in x.shape:
        raise InputError(f"x must have shape (n, d) with n, d >= 1, got {x.shape}")
    if y.shape != x.shape[:1]:
        raise InputError(f"y must have one label per example, shape {x.shape[:1]}, got {y.shape}")
    bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))
    if len(bad):
        raise InputError(f"x must be finite; example {bad[0]} holds NaN or an infinity")
    if x.min() < low or x.max() > high:
        fix = "; divide by 255" if 1 < x.max() <= 255 and x.min() >= 0 else ""
        raise InputError(f"x must lie in [{low:g}, {high:g}], got values from {x.min():.4g} to {x.max():.4g}{fix}")
    strange = y[np.abs(y) != 1]
    if len(strange):
        raise InputError(f"y must be -1 or +1, got {strange[0]:g}; labels 0 and 1 become 2 * y - 1")
    return x.reshape(len(x), -1), y


def _radius(eps: float | int, box: Box) -> float:
    low, high = box or (0, 1)
    return check_number("eps", eps, 0, high - low)


def check_both_classes(y: Float64[Array, " n"]) -> None:
    """An `InputError` if all examples are of one class."""
    if np.abs(y.sum()) == len(y):
        raise InputError(f"y must hold both classes, -1 and +1, got only {y[0]:+.0f}; a bias alone would fit one class")


def _numbers(name: str, values: Any) -> Any:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be an array of numbers (or a detached CPU tensor): {error}") from None
