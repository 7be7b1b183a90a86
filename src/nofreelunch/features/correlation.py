"""How each pixel correlates with the label, and the pixels that do so most (Section 2.3, Figures 2(b) and 2(c))."""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from nofreelunch.data import Split
from nofreelunch.errors import InputError, check_count


def feature_label_correlation(data: Split | tuple[Any, Any]) -> Float64[np.ndarray, "*shape"]:
    """Pearson's correlation of each pixel with the label, in [-1, 1]; 0 for pixels that never change.

    Args:
        data: a split, or a pair (x, y) of arrays or CPU tensors with x of shape (n, *shape). The labels must take
            two values; the larger is the positive class.

    Raises:
        InputError: for labels of one or more than two values, shapes that do not match, or NaN.
    """
    x, y = _numbers(data)
    side, centred = y - y.mean(), x - x.mean(0)
    deviation = np.sqrt(np.square(centred).sum(0) * (side @ side))
    changes = x.max(0) > x.min(0)  # exactly: rounding of the mean must not make a constant pixel look alive
    correlation = np.divide(side @ centred, deviation, out=np.zeros(x.shape[1]), where=changes & (deviation > 0))
    return np.asarray(np.clip(correlation, -1, 1).reshape(_shape(data)))


def top_correlated(data: Split | tuple[Any, Any], k: int) -> Int64[np.ndarray, " k"]:
    """Flat indices of the k pixels with the largest |correlation|, the largest first; of equals, the first.

    Raises:
        InputError: as above, or if k is not between 1 and the number of pixels.
    """
    correlation = feature_label_correlation(data).reshape(-1)
    if check_count("k", k) > len(correlation):
        raise InputError(f"k must be at most the number of pixels, {len(correlation)}, got {k}")
    return np.argsort(-np.abs(correlation), kind="stable")[:k]


def _shape(data: Split | tuple[Any, Any]) -> tuple[int, ...]:
    return tuple(data.x.shape[1:] if isinstance(data, Split) else np.shape(data[0])[1:])


def _numbers(data: Split | tuple[Any, Any]) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, " n"]]:
    """Flattened inputs and labels, checked."""
    x, y = (data.x, data.y) if isinstance(data, Split) else data
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim < 2 or 0 in x.shape or y.shape != x.shape[:1]:
        raise InputError(f"x and y must have shapes (n, ...) and (n,), got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("x and y must be finite, got NaN or an infinity")
    values = np.unique(y)
    if len(values) != 2:
        raise InputError(f"labels must take two values, got {len(values)}; choose two classes with Dataset.pair")
    return x.reshape(len(x), -1), y
