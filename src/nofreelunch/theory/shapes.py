"""Arrays and argument checks that all of `theory` shares; float64, no torch."""

from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

from nofreelunch.errors import InputError, check_number

Points: TypeAlias = Float64[np.ndarray, " points"]
Weights: TypeAlias = Float64[np.ndarray, " features"]
Samples: TypeAlias = Float64[np.ndarray, "n features"]
Signs: TypeAlias = Int64[np.ndarray, " n"]
Pair: TypeAlias = tuple[float, float]
"""(clean accuracy, robust accuracy)."""

NORMS = ("linf", "l2")
ADVERSARIES = ("full", "weak")

SMALLEST_P = 1e-12
"""Smallest p: far below it 1 - p is 1 in float64, and a feature that is always wrong is a label."""

NO_MASS = 40.0
"""Standard deviations beyond which float64 sees nothing of a normal distribution."""

LARGEST = 1e3
"""Largest eta and eps: beyond it the unit variance of the weak features has long stopped to matter."""


def check_eps(eps: float) -> float:
    """`eps` as a float in [0, LARGEST]; an `InputError` otherwise."""
    return check_number("eps", eps, 0, LARGEST)


def check_p(p: float) -> float:
    """`p` as a float in [SMALLEST_P, 1); an `InputError` otherwise."""
    return check_number("p", p, SMALLEST_P, 1, open_high=True)


def check_weights(name: str, w: object, features: int) -> Weights:
    """`w` as a float64 vector of `features` finite numbers; an `InputError` otherwise."""
    try:
        vector = np.asarray(w, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a vector of {features} numbers, got {type(w).__name__}") from None
    if vector.shape != (features,):
        raise InputError(f"{name} must have shape ({features},), one weight for each feature, got {vector.shape}")
    if not np.isfinite(vector).all():
        raise InputError(f"{name} must be finite, got {vector[~np.isfinite(vector)][0]} among its weights")
    return vector
