"""Theorem 2.1: no free lunch in adversarial robustness."""

from nofreelunch.errors import check_number
from nofreelunch.theory.shapes import check_p


def robust_accuracy_bound(clean_error: float, p: float) -> float:
    """The most robust accuracy that a classifier with this clean error can have, for l_inf and eps >= 2 eta.

    Tsipras et al. 2018, Theorem 2.1 (there p = 0.7, so 7/3):  max(p / (1 - p), (1 - p) / p) * clean_error, at most 1.
    It holds for every adversary that *can* move each weak feature by 2 eta; against one that *must* move it by
    eps > 2 eta it is false, because the shift gives itself away (docs/theory.md).

    Args:
        clean_error: one minus the clean accuracy, in [0, 1].
        p: how often the robust feature agrees with the label, in [1e-12, 1).

    Raises:
        InputError: if an argument is outside its range.

    >>> robust_accuracy_bound(clean_error=0.01, p=0.75)
    0.03
    """
    clean_error = check_number("clean_error", clean_error, 0, 1)
    p = check_p(p)
    return min(1.0, max(p / (1 - p), (1 - p) / p) * clean_error)
