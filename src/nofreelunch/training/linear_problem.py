"""The robust linear problem: logistic loss on the exact worst-case margin, convex with and without the pixel box.

Symbols: w in R^d weighs the pixels and b is the bias; y in {-1, +1}; the margin of an example is y (w.x + b). The worst
input is a closed form: each pixel goes against y w_j as far as eps, and the box, let it. Where w_j > 0 every unit of it
then gains the margin y x'_j, with x' the input that is worst for positive weights; where w_j < 0 every unit of |w_j|
gains -y x''_j. So with w = w+ - w- and u = (w+, w-) >= 0 the worst-case margin is linear: rates u + y b. Having both
w+_j and w-_j positive never pays: the adversary takes from each.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from scipy.special import expit

from nofreelunch.threats import Box

Array = np.ndarray


def worst_inputs(
    x: Float[Array, "n d"], y: Float[Array, " n"], w: Float[Array, " d"], eps: float, box: Box
) -> Float[Array, "n d"]:
    """The inputs in the l_inf ball and the box that minimise the margin under w: x - eps y sign(w), clipped."""
    moved = np.outer(y, -eps * np.sign(w))
    moved += x  # in place: these arrays are as large as the data
    return moved if box is None else np.clip(moved, *box, out=moved)


@dataclass(frozen=True, eq=False)
class Problem:
    """min over u >= 0 and b of  mean softplus(-(rates u + y b)) + (l2 / 2) |u|^2.

    Attributes:
        rates: margin gained per unit of w+ (first d columns) and of w- (last d columns).
        y: labels -1 and +1.
        l2: weight of the squared Euclidean norm of w; the bias is free.
    """

    rates: Float64[Array, "n m"]
    y: Float64[Array, " n"]
    l2: float

    @classmethod
    def of(cls, x: Float64[Array, "n d"], y: Float64[Array, " n"], eps: float, box: Box, l2: float = 0.0) -> "Problem":
        """The problem of these examples against this adversary."""
        n, d = x.shape
        rates = np.empty((n, 2 * d))
        ones = np.ones(d)
        np.multiply(worst_inputs(x, y, ones, eps, box), y[:, None], out=rates[:, :d])
        np.multiply(worst_inputs(x, y, -ones, eps, box), -y[:, None], out=rates[:, d:])
        return cls(rates, y, l2)

    def margins(self, u: Float64[Array, " m"], b: float) -> Float64[Array, " n"]:
        """Worst-case margins."""
        return np.asarray(self.rates @ u + self.y * b)

    def objective(self, margins: Float64[Array, " n"], u: Float64[Array, " *m"]) -> float:
        """The value at u, whose margins these are."""
        return float(np.logaddexp(0, -margins).mean() + self.l2 / 2 * (u @ u))

    def gradient(self, margins: Float64[Array, " n"], u: Float64[Array, " m"]) -> tuple[Float64[Array, " m"], float]:
        """Derivatives with respect to u and b."""
        pull = expit(-margins) / len(margins)
        return self.l2 * u - pull @ self.rates, -float(pull @ self.y)

    @staticmethod
    def violations(u: Float64[Array, " m"], grad: Float64[Array, " m"]) -> Float64[Array, " m"]:
        """How far each coordinate is from its optimality condition: grad = 0 where u > 0, grad >= 0 where u = 0.

        Their maximum (with |derivative in b|) is the inf-norm of the smallest subgradient of the loss in (w, b).
        """
        return np.asarray(np.where(u > 0, np.abs(grad), np.maximum(-grad, 0)))


def split(w: Float64[Array, " d"]) -> Float64[Array, " m"]:
    """(w+, w-) of w = w+ - w-."""
    return np.concatenate([np.maximum(w, 0), np.maximum(-w, 0)])


def join(u: Float64[Array, " m"]) -> Float64[Array, " d"]:
    """w = w+ - w- of u = (w+, w-)."""
    d = len(u) // 2
    return np.asarray(u[:d] - u[d:])
