"""Models that switch by a number: what they compute of each example as one number is driven to both its ends.

A gate need not be a mask. A number that is read out of torch, rounded to an index, or put through a steep sigmoid hands
images to another network as well, and may do so where no attack comes by itself: at a pattern that images do not have.
Here every number per example that the model computes is climbed, up and down, as far as the threat lets it; where the
scores change all at once on the way, the attack goes on from behind that place, and keeps behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks import Attack
from nofreelunch.attacks.base import Iterative, State
from nofreelunch.attacks.losses import lead
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.evaluation.remedies.bisection import between, largest_change
from nofreelunch.evaluation.remedies.lagrangian import brief_and_thorough, stepped, turned, unit_slope
from nofreelunch.evaluation.remedies.numbers import Place, different, read
from nofreelunch.evaluation.subject import Subject
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, coordinates, expand
from nofreelunch.types import Inputs, Labels, Model, PerExample

_SWITCHES, _MANY = 24, 12
"""So many are attacked, at most, and so many with all steps."""
_CLIMB = 3
"""Steps, each of a radius, to an end."""
_MARKS, _HALVINGS = 16, 6
"""Parts of the way there, and halvings of the one in which the scores change most."""
_AT_ONCE = 0.2
"""The share of their change on a way that scores make in one of these parts, if they switch there; usual: ~ 0.1. It
is that of two examples: a last sharp bend on the way of one is none."""
_STILL = 0.1
"""A change on a way by less than this share of the scores is none."""


@dataclass(frozen=True)
class Switch:
    """A number by which the model may switch.

    Args:
        subject: the model.
        threat: the set.
        place: of the number.
        sign: 1 if it is to rise, -1 if it is to fall.
        alone: whether the model is asked for one example at a time: it goes through a batch so itself.
    """

    subject: Subject
    threat: Threat
    place: Place
    sign: int
    alone: bool

    def read(self, z: Inputs) -> tuple[Tensor, PerExample | None]:
        """The model's logits, and the number, with its sign; None if the model has not come to it."""
        logits, numbers, _ = read(self.subject, z, self.alone, self.place[0])
        return logits, self.sign * numbers[self.place] if self.place in numbers else None

    @torch.enable_grad()
    def end(self, x: Inputs) -> Inputs:
        """Where the number is as large, or small, as it gets within the threat."""
        z = x
        for _ in range(_CLIMB):
            at = z.detach().requires_grad_()
            slope = unit_slope(self.threat, self.read(at)[1], at)
            z = self.threat.project(z.detach() + self.threat.eps * self.threat.steepest(slope), x)
        return z

    @torch.no_grad()
    def share(self, x: Inputs) -> PerExample:
        """Of all that the scores change by on the number's way: how much they do in one of its parts."""
        seen = self._on_the_way(x, self.end(x), 0)[0]
        changes, still = seen.diff(dim=0).abs().amax(2), _STILL * seen.abs().amax((0, 2))
        return changes.amax(0) / torch.maximum(changes.sum(0), still).clamp(min=torch.finfo(x.dtype).tiny)

    @torch.no_grad()
    def behind(self, x: Inputs, end: Inputs) -> Inputs:
        """The point just behind where the scores change most on the number's way."""
        return between(x, end, self._on_the_way(x, end, _HALVINGS)[1])

    def _on_the_way(self, x: Inputs, end: Inputs, halvings: int) -> tuple[Tensor, PerExample]:
        """The scores at all marks, (m, n, k), and the place just behind where they change most, (n,)."""

        def scores(share: PerExample) -> Tensor:
            return self.subject.logits(between(x, end, share)).nan_to_num()

        marks = torch.linspace(0, 1, _MARKS + 1, dtype=x.dtype, device=x.device)
        seen, _, place = largest_change(scores, marks, len(x), halvings)
        return seen, place


def switches(subject: Subject, threat: Threat, x: Inputs) -> list[Switch]:
    """The numbers on whose way up or down the scores of two examples change all at once, the clearest first.

    Args:
        subject: the model.
        threat: the set.
        x: the examples.
    """
    found = []
    first, *rest = x.chunk(2)  # of most numbers nothing is asked for the rest
    for place, alone in different(subject, x):
        for sign in (1, -1):
            switch = Switch(subject, threat, place, sign, alone)
            share = switch.share(first)
            if (share > _AT_ONCE).any():
                share = torch.cat([share, *map(switch.share, rest)])
                if share.topk(min(2, len(x))).values[-1] > _AT_ONCE:
                    found.append((float(share.mean()), switch))
    found.sort(key=lambda one: one[0], reverse=True)
    return [switch for _, switch in found[:_SWITCHES]]


@dataclass(frozen=True)
class _Course(State):
    """Where the number has to be, the way up that was last seen there, and how much the number counts beside it."""

    bound: PerExample
    up: Tensor
    weight: PerExample


@final
@dataclass(frozen=True)
class BehindSwitch(Iterative[_Course]):
    """Climbs what answers behind a switch, and keeps to where it does.

    A step is that of the Lagrangian of the two: the weight of the number rises while it is not as it should be, and
    falls while it is.

    Args:
        threat: the set.
        steps: gradient steps, shorter and shorter.
        switch: of the model, for this threat.
        target_rank: towards the wrong class of this rank at the end of the number's way.
    """

    steps: int = 20
    switch: Switch = field(kw_only=True)
    target_rank: int = 1

    def start(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> _Course:
        """At the end of the number's way."""
        end = self.switch.end(x)
        number = self.switch.read(self.switch.behind(x, end))[1]
        bound = torch.full((len(x),), -torch.inf, device=x.device) if number is None else number.detach()
        target = ranked_wrong_class(model, end, y, self.target_rank)
        return _Course(x, y, end, streams, bound, torch.zeros_like(x), torch.ones_like(bound), target=target)

    def step(self, model: Model, state: _Course, count: int) -> tuple[_Course, Tensor]:
        """The model's answer at z, then a step up."""
        assert state.target is not None
        z = state.z.detach().requires_grad_()
        logits, number = self.switch.read(z)
        there = torch.ones_like(state.bound) > 0 if number is None else number >= state.bound
        across = unit_slope(self.threat, number, z)
        own, seen = (
            unit_slope(self.threat, lead(answer, state.y, state.target), z)
            for answer in (self.switch.subject.differentiable(z), logits)
        )
        up = torch.where(expand(own.flatten(1).any(1), z), own, seen)  # true, where there is one
        up = torch.where(expand(there, z), self.threat.unit(_beside(up, across)), state.up)
        weight = turned(state.weight, there)
        with torch.no_grad():
            after = stepped(self.threat, state.z, state.x, up + expand(weight, z) * across, count / self.steps)
            return replace(state, z=after, up=up, weight=weight), model(state.z)


def _beside(up: Inputs, across: Inputs) -> Inputs:
    """What is left of a slope without the part of it that lies along another one: that of a gate which is no step."""
    dims = coordinates(up)
    length = (across * across).sum(dims).clamp(min=torch.finfo(up.dtype).tiny)
    return up - expand((up * across).sum(dims) / length, up) * across


def behind_switches(found: Sequence[Switch], steps: tuple[int, int]) -> tuple[Attack, Attack]:
    """A brief and a thorough attack behind the switches of a model, at least one; `steps` of either.

    Where they are many, fewer steps are taken behind each: no more in all than behind `_MANY`.
    """
    brief, thorough = (max(1, count * _MANY // max(_MANY, len(found))) for count in steps)
    return brief_and_thorough(
        lambda count: tuple(BehindSwitch(switch.threat, count, switch=switch) for switch in found), (brief, thorough)
    )
