"""Measured values with their uncertainty, in the form in which results keep them."""

import math
from typing import TypeAlias

from torch import Tensor

from nofreelunch.evaluation.tally import Tally
from nofreelunch.experiments.base import Finding
from nofreelunch.types import Mask

Estimate: TypeAlias = tuple[float, float, float]
"""A value and the ends of its 95% interval."""

Estimates: TypeAlias = dict[str, dict[str, dict[str, Estimate]]]
"""Data set -> role of the model -> measure -> estimate."""

_Z = 1.959964  # 97.5% of a normal variable lie below


def share(hits: Mask) -> Estimate:
    """How many of the examples, as a fraction, with Wilson's interval; there must be one example at least."""
    tally = Tally(int(hits.sum()), len(hits))
    return (tally.rate, *tally.interval(0.95))


def mean(values: Tensor) -> Estimate:
    """The mean over examples (n,), n >= 2, with the normal interval of its standard error."""
    values = values.double()
    centre, error = float(values.mean()), _Z * float(values.std()) / math.sqrt(len(values))
    return centre, centre - error, centre + error


def geometric_mean(values: Tensor) -> Estimate:
    """Likewise for ratios: the exponential of the mean logarithm."""
    centre, low, high = mean(values.double().log())
    return math.exp(centre), math.exp(low), math.exp(high)


def exceeds(claim: str, where: str, more: Estimate, less: Estimate, ours: str, note: str) -> Finding:
    """The paper's claim that one quantity is above another, judged by their intervals.

    The finding agrees or refutes where they do not overlap; where they do, it says that this is undecided.
    """
    if more[1] > less[2]:
        return Finding(claim, where, None, ours, "agrees", note)
    if more[2] < less[1]:
        return Finding(claim, where, None, ours, "refuted", note)
    return Finding(claim, where, None, ours, "differs", f"{note}; the intervals overlap, so this is undecided")


def percent(estimate: Estimate) -> str:
    """As in "93.5 % (90.1 to 95.8)"."""
    value, low, high = (100 * number for number in estimate)
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def plain_number(estimate: Estimate) -> str:
    """As in "1.34 (1.30 to 1.38)"."""
    value, low, high = estimate
    return f"{value:.3g} ({low:.3g} to {high:.3g})"
