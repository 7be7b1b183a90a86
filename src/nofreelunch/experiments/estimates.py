"""Measured values with their uncertainty, in the form in which results keep them."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from scipy.special import stdtrit
from torch import Tensor

from nofreelunch.evaluation.tally import Tally
from nofreelunch.experiments.base import Finding, Verdict
from nofreelunch.types import Mask

Estimate: TypeAlias = tuple[float, float, float]
"""A value and the ends of its 95% interval."""

ByRole: TypeAlias = dict[str, dict[str, Estimate]]
"""Role of the model -> measure -> estimate."""

Estimates: TypeAlias = dict[str, ByRole]
"""By data set."""


def share(hits: Mask) -> Estimate:
    """How many of the examples, as a fraction, with Wilson's interval; there must be one example at least."""
    tally = Tally(int(hits.sum()), len(hits))
    return (tally.rate, *tally.interval(0.95))


def mean(values: Tensor) -> Estimate:
    """The mean over examples (n,), n >= 2, with Student's interval."""
    values, n = values.double(), len(values)
    centre, error = float(values.mean()), float(stdtrit(n - 1, 0.975)) * float(values.std()) / math.sqrt(n)
    return centre, centre - error, centre + error


def over_seeds(tallies: Sequence[Tally]) -> Estimate:
    """The mean rate of several models on the same examples.

    Its interval covers both that of the choice of examples (Wilson's, as for one model) and that of the choice of
    seeds (Student's).
    """
    rates, total = torch.tensor([tally.rate for tally in tallies], dtype=torch.float64), tallies[0].total
    centre = float(rates.mean())
    low, high = Tally(centre * total, total).interval(0.95)
    if len(rates) > 1:
        _, least, most = mean(rates)
        low, high = max(0.0, min(low, least)), min(1.0, max(high, most))
    return centre, low, high


def geometric_mean(values: Tensor) -> Estimate:
    """Likewise for ratios: the exponential of the mean logarithm."""
    centre, low, high = mean(values.double().log())
    return math.exp(centre), math.exp(low), math.exp(high)


def gain(before: float, after: float, n: int) -> Estimate:
    """By how much one accuracy on n examples is above another: Newcombe's interval (1998, method 10)."""
    less, more = (Tally(rate * n, n).interval(0.95) for rate in (before, after))
    down, up = math.hypot(after - more[0], less[1] - before), math.hypot(more[1] - after, before - less[0])
    return after - before, after - before - down, after - before + up


def exceeds(claim: str, where: str, more: Estimate, less: Estimate, ours: str, note: str) -> Finding:
    """The paper's claim that one quantity is above another, judged by their intervals.

    The finding agrees or refutes where they do not overlap; where they do, it is undecided.
    """
    difference = (more[0] - less[0], more[1] - less[2], more[2] - less[1])
    return all_above_zero(claim, where, [difference], ours, f"{note.rstrip('. ')}.")


def all_above_zero(
    claim: str, where: str, differences: Sequence[Estimate], ours: str, note: str, margin: float = 0.0
) -> Finding:
    """The paper's claim that each difference is above 0 (or, given a margin, not below), judged by their intervals.

    The finding refutes where an interval lies below 0, and agrees where none reaches down to -margin; otherwise it
    is undecided.
    """
    verdict = _verdict(differences, margin)
    return Finding(
        claim, where, None, ours, verdict, f"{note} Chance may do as much." if verdict == "undecided" else note
    )


def _verdict(differences: Sequence[Estimate], margin: float = 0.0) -> Verdict:
    """Whether all are above -margin, one is below 0, or neither is certain."""
    if min(high for _, _, high in differences) < 0:
        return "refuted"
    return "agrees" if min(low for _, low, _ in differences) > -margin else "undecided"


def plain_number(estimate: Estimate) -> str:
    """As in "1.34 (1.30 to 1.38)"."""
    value, low, high = estimate
    return f"{value:.3g} ({low:.3g} to {high:.3g})"
