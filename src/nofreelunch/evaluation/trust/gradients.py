"""Whether the model's gradient tells the truth, at examples that attacks by gradient have not broken.

Athalye et al. 2018, "Obfuscated gradients give a false sense of security"; Pintor et al. 2022; finite differences are a
check of Carlini et al. 2019, section 4.7.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from nofreelunch.attacks.gradient import loss_gradient, raw_gradient
from nofreelunch.attacks.losses import margin
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.trust.probe import counted
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Labels, Mask, Model, PerExample

_FEW = 0.05
"""So small a share of points may fail a check: a kink, a dead unit."""
_STEEP = 5.0
"""So many times what it promises the margin may rise over the whole radius; where it rises more, the gradients on the
way must add up to the rise, as of scores that grow exponentially they do."""
_ON_THE_WAY = 32
"""At so many points."""
_FURTHER = (0.3, 0.6, 1.0)
"""How far along the gradient is looked at again, in radii."""
_WIDTHS = (0.3, 0.1, 0.01, 1e-3)
"""Widths of the differences, in radii. One of them must agree: wide ones see curvature, narrow ones rounding."""
_SHORT, _ENOUGH = 0.15, 8
"""So little of what it promises the margin rises over the first width, in the median of at least so many points, where
the gradient is of a ripple. Of honest models it is 0.3 and more, even far beyond the radius that they are robust in."""
_AGAINST = -0.2
"""Median cosine of the gradients at a point and at one further along, below which the gradient is of a ripple as well.
Gradients of honest models may have nothing in common, -0.04, but do not turn round."""

_ASIDE = 0.05
"""Points are moved by so much of a random step within the radius where many pixels may be equal."""
_UNSAID = 0.15
"""So much of what the margin changes by along random directions the gradient may not say; of honest models 0.03."""


@dataclass(frozen=True)
class Slopes:
    """The margin's gradient at some points, held against the margin itself. One row per point.

    Attributes:
        finite: no NaN or infinity among its coordinates.
        vanishing: it says that crossing the whole box would change the margin by less than a thousandth of itself.
        agrees: over one of four widths the margin rises along it as it says, within a factor 2, and over the whole
            radius at most 5 times as much, or as much as the gradients on the way say, within a factor 2; there or at a
            point a little beside.
        rise: over the largest of these widths, what the margin rises along it over what it says.
        turned: cosine of it and the gradient further along it, by 0.3, 0.6 and 1 radii, (3, n).
        unsaid: how much of what the margin changes by along random directions it does not say: 0 to 1, over all points;
            where that is much, at points a little beside if it is less there.
        flat: the answer is the same, to the last bit, at random points of the set.
        gradient: whether there is a path from input to answer.
    """

    finite: Mask
    vanishing: Mask
    agrees: Mask
    rise: PerExample
    turned: Tensor
    unsaid: float
    flat: Mask
    gradient: bool


def slopes(model: Model, x: Inputs, y: Labels, near: tuple[Inputs, Inputs], threat: Threat) -> Slopes:
    """Measured at the first of two points near each x; `flat` compares the answers there, at x and at the second.

    The random directions are those from each x to its second point.
    """
    z = near[0].detach()
    logits, margins, raw = raw_gradient(margin, model, z, y)
    grad = torch.zeros_like(z) if raw is None else raw
    finite = grad.flatten(1).isfinite().all(1)
    grad = grad.nan_to_num(nan=0.0)
    reach = grad.double().abs().flatten(1).sum(1) * threat.width
    with torch.no_grad():
        at_x, other = model(x), model(near[1])
    agrees, rise = _follow(model, z, y, grad, threat)
    if (doubted := finite & ~agrees).any():
        agrees[doubted] = _agrees_beside(model, z[doubted], y[doubted], threat)
    says, aside = finite & (reach > 0), near[1] - x
    unsaid = _unsaid(model, z[says], y[says], grad[says], aside[says], threat)
    if unsaid > _UNSAID:  # where pixels are equal, maxima have one of several slopes: is it so beside there as well?
        moved = _off_ties(z[says], threat)
        slope = raw_gradient(margin, model, moved, y[says])[2]
        if slope is not None:
            unsaid = min(unsaid, _unsaid(model, moved, y[says], slope.nan_to_num(nan=0.0), aside[says], threat))
    flat = (logits == at_x).all(1) & (other == at_x).all(1)
    return Slopes(
        finite=finite,
        vanishing=reach <= 1e-3 * margins.double().abs(),
        agrees=agrees,
        rise=rise,
        turned=_turned(model, z, y, grad, threat),
        unsaid=unsaid,
        flat=flat,
        gradient=raw is not None,
    )


def _agrees_beside(model: Model, z: Inputs, y: Labels, threat: Threat) -> Mask:
    """Whether the margin rises as its gradient says at points a little beside these.

    Where a network has learnt a threshold, an attack within its radius ends on the kink, at many pixels at once.
    """
    beside = _off_ties(z, threat)
    grad = raw_gradient(margin, model, beside, y)[2]
    if grad is None:
        return torch.zeros(len(z), dtype=torch.bool, device=z.device)
    return _follow(model, beside, y, grad.nan_to_num(nan=0.0), threat)[0]


def _off_ties(z: Inputs, threat: Threat) -> Inputs:
    """Points a little beside these, inside the box, at which no two pixels are equal."""
    step = _ASIDE * threat.draw(z, Streams.numbered(0, len(z), z.device))
    return torch.where(threat.clip(z + step) == z + step, z + step, z - step)


def _follow(model: Model, z: Inputs, y: Labels, grad: Inputs, threat: Threat) -> tuple[Mask, PerExample]:
    """What becomes of the margin along the steepest direction: `agrees` and `rise` of `Slopes`."""
    radius = threat.eps * threat.steepest(grad)

    def rise(width: float) -> PerExample:
        """Of the margin between points so many radii to both sides, inside the box, over what grad promises."""
        risen, said = _risen(model, z, y, grad, width * radius, threat)
        return (risen / said).nan_to_num(nan=0.0)

    near, over = torch.stack([rise(width) for width in _WIDTHS]), rise(1.0) <= _STEEP
    if not over.all():
        over[~over] = _adds_up(model, z[~over], y[~over], radius[~over], threat)
    return ((near >= 0.5) & (near <= 2)).any(0) & over, near[0]


def _adds_up(model: Model, z: Inputs, y: Labels, step: Inputs, threat: Threat) -> Mask:
    """Whether the margin rises between the points a step to both sides as the gradients between them say."""
    places = [threat.clip(z + share * step) for share in torch.linspace(-1, 1, _ON_THE_WAY).tolist()]
    slopes = [loss_gradient(margin, model, place, y) for place in places]
    parts = zip(pairwise(places), pairwise(slopes), strict=True)
    said = torch.stack([_inner((before + after) / 2, end - start) for (start, end), (before, after) in parts]).sum(0)
    with torch.no_grad():
        low, high = (margin(model(place), y).double() for place in (places[0], places[-1]))
    risen = ((high - low) / said).nan_to_num(nan=0.0)
    return (risen >= 0.5) & (risen <= 2)


def _turned(model: Model, z: Inputs, y: Labels, grad: Inputs, threat: Threat) -> Tensor:
    """`turned` of `Slopes`; 0 where there is no gradient."""
    step, cosines = threat.eps * threat.steepest(grad), []
    for width in _FURTHER:
        there = loss_gradient(margin, model, threat.clip(z + width * step), y)
        cosines.append(functional.cosine_similarity(there.flatten(1).double(), grad.flatten(1).double()))
    return torch.stack(cosines)


def _unsaid(model: Model, z: Inputs, y: Labels, grad: Inputs, aside: Inputs, threat: Threat) -> float:
    """`unsaid` of `Slopes`, over the width at which it is least; 0 where there is no point.

    What is missed over the narrowest width is rounding, and as much of it is missed over any other.
    """
    if len(z) == 0:
        return 0.0
    sizes = (_inner(grad, grad) * _inner(aside, aside)).sqrt()
    shares, rounding = list[float](), 0.0
    for width in reversed(_WIDTHS):
        risen, said = (value / sizes for value in _risen(model, z, y, grad, width * aside, threat))
        seen = risen.isfinite() & said.isfinite()  # of logits that are infinite other checks speak
        missed, total = (risen - said)[seen].abs().sum(), (risen.abs() + said.abs())[seen].sum()
        shares.append(max(0.0, float(missed) - rounding) / max(float(total), 1e-30))
        rounding = rounding or float(missed)
    return min(shares)


def _risen(
    model: Model, z: Inputs, y: Labels, grad: Inputs, step: Inputs, threat: Threat
) -> tuple[PerExample, PerExample]:
    """By how much the margin rises between the points a step to both sides, inside the box; and what grad says."""
    ends = [threat.clip(z + sign * step) for sign in (1, -1)]
    with torch.no_grad():
        up, down = (margin(model(end), y).double() for end in ends)
    return up - down, _inner(grad, ends[0] - ends[1])


def _inner(a: Tensor, b: Tensor) -> PerExample:
    return (a.double() * b.double()).flatten(1).sum(1)


def gradient_flags(found: Slopes) -> list[Flag]:
    """What is wrong with the gradients of the examples that are still standing."""
    total = len(found.finite)
    few = max(1, _FEW * total)
    seen = ~found.vanishing & found.finite
    wrong, true = ~found.agrees & seen, found.agrees & seen
    why = "" if found.gradient else " (there is no differentiable path from input to logits)"
    flags = (
        _where(
            ~found.finite, few, "non-finite-gradients", "NaN or infinite at {} points",
            "look for sqrt, log or division at 0 in the model",
        ),
        _where(
            found.vanishing, few, "zero-gradients", f"zero or vanishing at {{}} points{why}",
            "attacks by gradient see nothing there; remove rounding, thresholds and detaching",
        ),
        _where(
            wrong, max(1, 0.1 * total), "wrong-gradients",
            "finite differences disagree by a factor 2 or more at {} points",
            "the backward pass is not the forward pass's; remove custom gradients and hooks",
        )
        or _partial(found.unsaid),
        _short_sighted(found.rise[true], found.turned[:, true]),
        _where(
            found.flat, few, "constant-scores",
            "the answer is the same all over the set, to the last bit, on {} examples",
            "return scores rather than decisions; attacks from scores see nothing there",
        ),
    )  # fmt: skip
    return [flag for flag in flags if flag is not None]


def _where(rows: Mask, few: float, name: str, evidence: str, what_to_do: str) -> Flag | None:
    """The flag, how often it was seen put into its evidence, if that is more often than a few."""
    return Flag(name, evidence.format(counted(rows)), what_to_do) if rows.sum() > few else None


def _partial(unsaid: float) -> Flag | None:
    """Whether the gradient, true along itself, is not all of it: along random directions that shows."""
    if unsaid <= _UNSAID:
        return None
    return Flag(
        "wrong-gradients",
        f"of what the margin changes by along random directions they leave {unsaid:.0%} unsaid",
        "a part of the model has no gradient or another's; remove detaching, custom gradients and hooks",
    )


def _short_sighted(rise: PerExample, turned: Tensor) -> Flag | None:
    """Whether the margin, or its gradient, turns long before the radius, at points where the gradient is true."""
    if len(rise) < _ENOUGH:
        return None
    least, (cosine, at) = float(rise.median()), turned.median(1).values.min(0)
    if least < _SHORT:
        seen = f"the margin rises by at most {max(0.0, least):.0%} of what the gradient promises"
        width = _WIDTHS[0]
    elif cosine < _AGAINST:
        seen, width = f"the gradient turns against itself: its cosine falls to {cosine:.2f}", _FURTHER[int(at)]
    else:
        return None
    return Flag(
        "short-sighted-gradients",
        f"over {width:g} radii {seen} (median of {len(rise)} points)",
        "the gradient is that of a ripple; return the scores without it",
    )
