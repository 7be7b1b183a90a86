"""Models that decide for each example which of their parts answers: the parts are attacked, the decision is steered.

A gate hands some images to one network, others to another. The gradient is that of the network an image is with, and
tells nothing of the gate, so that an attack climbs in the stronger network where the weaker one is a step away. Here
the decision is made for the model: all examples are answered by one of its parts, that part is climbed, and the smooth
surrogate of what was compared brings the point to where the model itself decides so.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks import Attack, EachTarget, WorstOf
from nofreelunch.attacks.base import Iterative, State
from nofreelunch.attacks.losses import lead, margin
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.evaluation.remedies.bpda import bpda
from nofreelunch.evaluation.remedies.deciding import Deciding, Decision
from nofreelunch.evaluation.remedies.lagrangian import TARGETS, stepped, turned, unit_slope
from nofreelunch.evaluation.subject import Subject, attempted
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, expand
from nofreelunch.types import Inputs, Labels, Logits, Mask, Model, PerExample

_MOST, _TRIED, _SHOWING = 12, 256, 16
"""So many sides of a model's decisions are steered to, at most: the weakest of so many, as so many examples show."""
_STRIDES, _FACTOR, _MOSTLY = (0.01, 0.25), 4.0, 0.75
"""A slope is held against what comes of two steps, in radii: alike up to a factor, for most examples."""


def decisions(threat: Threat, subject: Subject, x: Inputs, y: Labels) -> list[tuple[int, int]]:
    """The places and sides of what a model decides for each of some examples, but for what follows from the rest.

    Those only for which it answers at all. Of many, those whose part is the weakest: it answers all examples, and is
    wrong about the most after a step up.
    """
    ways = _sides(_decided(subject, x))
    if len(ways) <= _MOST:
        return [way for way in ways if attempted(partial(answered, subject, way, x[:2])) is not None]
    some, weakness = slice(None, None, 1 + len(x) // _SHOWING), dict[tuple[int, int], tuple[float, float]]()
    for way in ways:
        margins = attempted(partial(after_a_step, threat, partial(answered, subject, way), x[some], y[some]))
        if margins is not None:
            weakness[way] = float((margins > 0).float().mean()), float(margins.mean())
    return sorted(weakness, key=weakness.__getitem__, reverse=True)[:_MOST]


def closed_sides(subject: Subject, x: Inputs) -> list[tuple[int, int]]:
    """The places and sides of what a model decides for each example, and for no example so."""
    return _sides(_decided(subject, x), closed=True)


@torch.no_grad()
def _decided(subject: Subject, x: Inputs) -> dict[int, Decision]:
    """What a model decides for each example, but for its answer and what follows from the rest, by place."""
    mode = Deciding(x)
    with bpda(mode):
        said = subject.differentiable(x).argmax(1)
    kept: dict[int, Decision] = {}
    for place, one in enumerate(mode.seen):
        is_answer = torch.equal(one.value, said)
        if one.heeded and not is_answer and not any(one.follows(other) for other in kept.values()):
            kept[place] = one
    return kept


def _sides(decided: dict[int, Decision], closed: bool = False) -> list[tuple[int, int]]:
    """Places and sides, those that no example takes if asked for; of too many the first ones of each place."""
    ways = [
        (place, side)
        for place, one in decided.items()
        for side in range(one.sides)
        if not closed or not (one.value == side).any()
    ]
    return sorted(ways, key=lambda way: way[1])[:_TRIED]


def answered(subject: Subject, way: tuple[int, int], z: Inputs) -> Logits:
    """The logits of the part that answers when a decision is made for the model."""
    with bpda(Deciding(z, *way)):
        return subject.differentiable(z)


def after_a_step(threat: Threat, part: Model, x: Inputs, y: Labels) -> PerExample:
    """The margins of a part after one step of the radius up their slope; 0 where it gives no answer."""
    at = x.detach().requires_grad_()
    with torch.enable_grad():
        up = unit_slope(threat, margin(part(at), y), at)
    with torch.no_grad():
        return margin(part(threat.project(x + threat.eps * threat.steepest(up), x)), y).nan_to_num(nan=0.0)


@dataclass(frozen=True)
class _Steering(State):
    """weight is how much the decision counts beside the margin."""

    weight: PerExample


@final
@dataclass(frozen=True)
class Steered(Iterative[_Steering]):
    """Climbs one part of the model, and keeps to where the model lets that part answer.

    A step is that of the Lagrangian of the two: the weight of the decision rises while it is not as it should be, and
    falls while it is.

    Args:
        threat: the set.
        steps: gradient steps, shorter and shorter.
        subject: the model.
        place: of the decision.
        side: how it should be made.
        target_rank: towards the wrong class of this rank in that part.
    """

    steps: int = 20
    subject: Subject = field(kw_only=True)
    place: int = field(kw_only=True)
    side: int = field(kw_only=True)
    target_rank: int = 1

    def start(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> _Steering:
        """At a random point of the set."""
        target = ranked_wrong_class(lambda z: self._part(z)[0], x, y, self.target_rank)
        weight = torch.ones(len(x), dtype=x.dtype, device=x.device)
        return _Steering(x, y, self.threat.random_start(x, streams), streams, weight, target=target)

    def step(self, model: Model, state: _Steering, count: int) -> tuple[_Steering, Tensor]:
        """The model's answer at z, then a step up."""
        assert state.target is not None
        z = state.z.detach().requires_grad_()
        with torch.enable_grad():
            logits, there, towards = self._part(z)
            up = unit_slope(self.threat, lead(logits, state.y, state.target), z)
            across = unit_slope(self.threat, towards, z)
        weight = turned(state.weight, there)
        with torch.no_grad():
            after = stepped(self.threat, state.z, state.x, up + expand(weight, z) * across, count / self.steps)
            return replace(state, z=after, weight=weight), model(state.z)

    @torch.no_grad()
    def arrives(self, x: Inputs, y: Labels, streams: Streams) -> bool:
        """Whether the steps lead any example through where the model decides so."""
        state = self.start(self.subject.logits, x, y, streams)
        for count in range(self.steps):
            if self._part(state.z)[1].any():
                return True
            state, _ = self.step(self.subject.logits, state, count)
        return bool(self._part(state.z)[1].any())

    def tells(self, x: Inputs) -> bool:
        """Whether a slope tells of the decision: over a short step and a longer one it keeps what it promises."""
        z = x.detach().requires_grad_()
        with torch.enable_grad():
            height = self._height(z)
            if height is None or not height.requires_grad:
                return False
            (slope,) = torch.autograd.grad(height.sum(), z)
        kept = torch.ones_like(height, dtype=torch.bool)
        with torch.no_grad():
            for share in _STRIDES:
                step = self.threat.project(x + share * self.threat.eps * self.threat.steepest(slope), x) - x
                if (risen := self._height(x + step)) is None:
                    return False
                ratio = (risen - height) / (slope * step).flatten(1).sum(1)
                kept &= (ratio > 1 / _FACTOR) & (ratio < _FACTOR)
        return bool(kept.float().mean() > _MOSTLY)

    def making(self, z: Inputs) -> Deciding:
        """The mode in which the decision is made for the model."""
        return Deciding(z, self.place, self.side)

    def _height(self, z: Inputs) -> Tensor | None:
        """What the model compares, rising towards the decision; None if it is not known."""
        _, decided = self._decided(z)
        if decided is None or decided.rising is None or not decided.measured:
            return None
        return decided.rising[:, self.side]

    def _part(self, z: Inputs) -> tuple[Tensor, Mask, Tensor | None]:
        """The logits of the part, whether the model itself decides so, and what rises towards that."""
        logits, decided = self._decided(z)
        if decided is None:
            return logits, torch.ones_like(logits[:, 0], dtype=torch.bool), None
        towards = None if decided.rising is None else decided.rising[:, self.side]
        return logits, decided.value == self.side, towards

    def _decided(self, z: Inputs) -> tuple[Tensor, Decision | None]:
        """The logits of the part, and what the model itself decides; None if it does not come to decide that."""
        mode = self.making(z)
        with bpda(mode):
            logits = self.subject.differentiable(z)
        decided = mode.seen[self.place] if self.place < len(mode.seen) else None
        return logits, decided if decided is not None and self.side < decided.sides else None


def steered(
    threat: Threat, subject: Subject, examples: tuple[Inputs, Labels], steps: tuple[int, int]
) -> tuple[Attack, Attack] | None:
    """A brief and a thorough attack on the parts between which a model decides; None if it is of one piece.

    Args:
        threat: the set.
        subject: the model.
        examples: they show what it decides.
        steps: of either attack.
    """
    x, y = examples
    near = threat.random_start(x, Streams.numbered(0, len(x), x.device))
    ways = decisions(threat, subject, torch.cat([x, near]), torch.cat([y, y]))
    if not ways:
        return None

    def attacks(count: int) -> tuple[Attack, ...]:
        return tuple(Steered(threat, count, subject=subject, place=place, side=side) for place, side in ways)

    brief, thorough = attacks(steps[0]), attacks(2 * steps[1])  # they have two things to attain
    return WorstOf(brief), WorstOf(tuple(EachTarget(each, TARGETS) for each in thorough))
