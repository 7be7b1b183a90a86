"""The global optimum of the robust linear problem, by a projected Newton method on the few pixels that matter.

Bertsekas 1982, "Projected Newton methods for optimization problems with simple constraints". Weights at zero that want
to stay there are left out of the Newton system, and only the worst violators are let in, so the systems are small
although d is not. Whether an optimum exists is decided on the way: weights under which every worst-case margin is
positive prove that there is none.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int
from scipy.special import expit

from nofreelunch.errors import InputError, RunError
from nofreelunch.training.linear_problem import Array, Problem

_TOLERANCE = 1e-10  # residual at the end; rounding allows about 1e-15
_STILL = 1e-3  # the last Newton step moves no margin by more
_ADMITTED = 50  # violators let in at once, at least
_DAMPING = 1e-12  # of the mean curvature, for pixels that repeat one another
_MAX_STEPS = 500
_MAX_HALVINGS = 50


class NoOptimum(InputError):
    """The loss has no minimum: some weights are right about every example, and larger ones are always better.

    Attributes:
        margin: the smallest worst-case margin under the weights that prove it; 0 if only ties stand in the way.
    """

    def __init__(self, margin: float) -> None:
        self.margin = margin
        proof = f"(smallest margin {margin:.3g} > 0)" if margin > 0 else "(or tie with it)"
        super().__init__(
            f"the loss has no minimum at this eps: weights were found that are right about every example {proof}, "
            "and growing them lowers the loss without end; "
            'give a larger eps, l2 > 0, or method="sgd", which stops after its epochs'
        )


@dataclass(frozen=True, eq=False)
class _Point:
    u: Float64[Array, " m"]
    b: float
    margins: Float64[Array, " n"]
    objective: float


@dataclass(frozen=True, eq=False)
class _Step:
    """A Newton direction: for the free coordinates of u, then for b."""

    free: Int[Array, " k"]
    columns: Float64[Array, "n k1"]
    grad: Float64[Array, " k1"]
    direction: Float64[Array, " k1"]


def minimise(problem: Problem) -> tuple[Float64[Array, " m"], float]:
    """The minimiser (u, b); coordinates that are zero at the optimum are exactly zero.

    Raises:
        NoOptimum: if the infimum is not attained.
        RunError: if the residual does not fall below 1e-10 in 500 steps.
    """
    point = _start(problem)
    for _ in range(_MAX_STEPS):
        if problem.l2 == 0 and point.margins.min() > 0:
            raise NoOptimum(float(point.margins.min()))
        grad, grad_b = problem.gradient(point.margins, point.u)
        step = _newton_step(problem, point, grad, grad_b)
        if max(problem.violations(point.u, grad).max(), abs(grad_b)) <= _TOLERANCE:
            change = step.columns @ step.direction
            if np.abs(change).max() <= _STILL:
                return point.u, point.b
            if problem.l2 == 0 and change.min() >= -1e-6 * change.max():
                raise NoOptimum(0.0)
        point = _search(problem, point, step)
    raise RunError(f"the linear optimum was not reached in {_MAX_STEPS} Newton steps; objective {point.objective:.12g}")


def _start(problem: Problem) -> _Point:
    u = np.zeros(problem.rates.shape[1])
    margins = problem.margins(u, 0.0)
    return _Point(u, 0.0, margins, problem.objective(margins, u))


def _free(u: Float64[Array, " m"], grad: Float64[Array, " m"]) -> Int[Array, " k"]:
    """Coordinates that take part: the positive ones, and the zeros that most want to grow."""
    positive = np.flatnonzero(u > 0)
    wanting = np.flatnonzero((u == 0) & (grad < -_TOLERANCE))
    admitted = wanting[np.argsort(grad[wanting], kind="stable")][: max(_ADMITTED, len(positive))]
    return np.concatenate([positive, admitted])


def _newton_step(problem: Problem, point: _Point, grad: Float64[Array, " m"], grad_b: float) -> _Step:
    """Newton's direction on the free coordinates; those at zero that it would push below zero are dropped from it."""
    free = _free(point.u, grad)
    columns = np.column_stack([problem.rates[:, free], problem.y])
    miss = expit(-point.margins)
    scaled = columns * np.sqrt(miss * (1 - miss) / len(miss))[:, None]
    hessian = scaled.T @ scaled  # of one matrix with itself: half the work
    diagonal = np.einsum("ii->i", hessian)
    diagonal[:-1] += problem.l2
    diagonal += _DAMPING * diagonal.mean()
    gradient = np.append(grad[free], grad_b)
    while True:
        direction = -np.linalg.solve(hessian, gradient)
        kept = np.append((point.u[free] > 0) | (direction[:-1] >= 0), True)
        if kept.all():
            return _Step(free, columns, gradient, direction)
        free, columns = free[kept[:-1]], columns[:, kept]
        gradient, hessian = gradient[kept], hessian[np.ix_(kept, kept)]


def _search(problem: Problem, point: _Point, step: _Step) -> _Point:
    """The first point of the projected path, at steps 1, 1/2, 1/4, ..., that lowers the objective enough (Armijo)."""
    here = point.u[step.free]
    rounding = 1e-15 * abs(point.objective)
    for halvings in range(_MAX_HALVINGS):
        length = 0.5**halvings
        moved = np.maximum(here + length * step.direction[:-1], 0)
        b = point.b + length * step.direction[-1]
        margins = step.columns @ np.append(moved, b)
        objective = problem.objective(margins, moved)
        expected = step.grad @ np.append(moved - here, b - point.b)
        if objective <= point.objective + 1e-4 * expected + rounding:
            u = np.zeros_like(point.u)
            u[step.free] = moved
            return _Point(u, float(b), margins, objective)
    raise RunError(f"the linear optimum cannot be improved at objective {point.objective:.12g}, though it is not one")
