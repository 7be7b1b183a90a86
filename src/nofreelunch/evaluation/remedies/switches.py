"""Models that switch by a number: what they compute of each example as one number is driven to both its ends.

A gate need not be a mask. A number that is read out of torch, rounded to an index, or put through a steep sigmoid hands
images to another network as well, and may do so where no attack comes by itself: at a pattern that images do not have.
Here every number per example that the model computes is climbed, up and down, as far as the threat lets it; where the
scores change all at once on the way, the attack goes on from behind that place, and keeps behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, final

import torch
from torch import Tensor

from nofreelunch.attacks import Attack, WorstOf
from nofreelunch.attacks.abreast import Abreast
from nofreelunch.attacks.base import Iterative, State
from nofreelunch.attacks.losses import lead
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.evaluation.board import Some
from nofreelunch.evaluation.remedies.bisection import between, largest_change
from nofreelunch.evaluation.remedies.lagrangian import TARGETS, stepped, turned, unit_slope
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
class Switches:
    """Numbers by which the model may switch, and attacks that go by them, side by side: row i by the number `which[i]`.

    Args:
        subject: the model.
        threat: the set.
        ways: the place of each number, and 1 if it is to rise, -1 if it is to fall.
        alone: whether the model is asked for one example at a time: it goes through a batch so itself.
    """

    subject: Subject
    threat: Threat
    ways: tuple[tuple[Place, int], ...]
    alone: bool

    def read(self, z: Inputs, which: Some) -> tuple[Tensor, PerExample]:
        """The model's logits, and each row's number, with its sign; infinite where the model has not come to it."""
        if self.alone and len(z) > 1:
            answers = [self.read(row, one) for row, one in zip(torch.split(z, 1), torch.split(which, 1), strict=True)]
            return torch.cat([logits for logits, _ in answers]), torch.cat([number for _, number in answers])
        runs = [run.tolist() for run in torch.unique_consecutive(which, return_counts=True)]
        logits, numbers, _ = read(self.subject, z, False, {self.ways[one][0][0] for one in runs[0]})
        heights, done = list[Tensor](), 0
        for one, count in zip(*runs, strict=True):
            place, sign = self.ways[one]
            absent = torch.full((count,), torch.inf, device=z.device)
            heights.append(sign * numbers[place][done : done + count] if place in numbers else absent)
            done += count
        return logits, torch.cat(heights)

    @torch.enable_grad()
    def end(self, x: Inputs, which: Some) -> Inputs:
        """Where the number is as large, or small, as it gets within the threat."""
        z = x
        for _ in range(_CLIMB):
            at = z.detach().requires_grad_()
            slope = unit_slope(self.threat, self.read(at, which)[1], at)
            z = self.threat.project(z.detach() + self.threat.eps * self.threat.steepest(slope), x)
        return z

    @torch.no_grad()
    def shares(self, x: Inputs, which: Some, rows: int) -> Tensor:
        """Of all that the scores change by on the way of each of some numbers: how much in one of its parts, (m, n).

        Args:
            x: the examples, (n, ...).
            which: the numbers, (m,).
            rows: of a batch, at most, if there are not more examples.
        """
        shares = list[Tensor]()
        for some in torch.split(which, max(1, rows // len(x))):
            start = torch.cat([x] * len(some))
            seen = self._on_the_way(start, self.end(start, some.repeat_interleave(len(x))), 0)[0]
            changes, still = seen.diff(dim=0).abs().amax(2), _STILL * seen.abs().amax((0, 2))
            least = torch.finfo(x.dtype).tiny
            shares.append(changes.amax(0) / torch.maximum(changes.sum(0), still).clamp(min=least))
        return torch.cat(shares).view(len(which), len(x))

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

    def _clearest(self, x: Inputs, rows: int) -> list[tuple[float, tuple[Place, int]]]:
        """The numbers on whose way the scores of two examples change all at once, and how much so."""
        first, *rest = x.chunk(2)  # of most numbers nothing is asked for the rest
        which = torch.arange(len(self.ways), device=x.device)
        shares = self.shares(first, which, rows)
        some = (shares > _AT_ONCE).any(1)
        if not some.any():
            return []
        shares = torch.cat([shares[some], *(self.shares(part, which[some], rows) for part in rest)], 1)
        sudden = shares.topk(min(2, len(x))).values[:, -1] > _AT_ONCE
        return [(float(shares[row].mean()), self.ways[which[some][row]]) for row in sudden.nonzero().flatten()]


def switches(subject: Subject, threat: Threat, x: Inputs, rows: int) -> list[Switches]:
    """The numbers on whose way up or down the scores of two examples change all at once, the clearest first.

    Args:
        subject: the model.
        threat: the set.
        x: the examples.
        rows: of a batch, at most.
    """
    found = list[tuple[float, tuple[Place, int], bool]]()
    for alone, places in groupby(different(subject, x), key=lambda one: one[1]):
        ways = tuple((place, sign) for place, _ in places for sign in (1, -1))
        clear = Switches(subject, threat, ways, alone)._clearest(x, rows)
        found += [(share, way, alone) for share, way in clear]
    best = sorted(found, key=lambda one: one[0], reverse=True)[:_SWITCHES]
    kinds = dict.fromkeys(alone for _, _, alone in best)
    return [Switches(subject, threat, tuple(way for _, way, alone in best if alone == kind), kind) for kind in kinds]


@dataclass(frozen=True)
class _Course(State):
    """By which number, where it has to be, the way up that was last seen there, and how much the number counts."""

    which: Tensor
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
        switches: of the model, for this threat.
        which: of them.
        target_rank: towards the wrong class of this rank at the end of the number's way.
    """

    steps: int = 20
    switches: Switches = field(kw_only=True)
    which: int = 0
    target_rank: int = 1

    def start(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> _Course:
        """At the end of the number's way."""
        return self.start_abreast((self,), model, x, y, (streams,))

    def start_abreast(
        self, attacks: Sequence[Any], model: Model, x: Inputs, y: Labels, streams: Sequence[Streams]
    ) -> _Course:
        """The same of several switches, all at once."""
        which = torch.tensor([each.which for each in attacks], device=x.device).repeat_interleave(len(x))
        start = torch.cat([x] * len(attacks))
        end = self.switches.end(start, which)
        number = self.switches.read(self.switches.behind(start, end), which)[1].detach()
        bound = torch.where(number.isposinf(), -torch.inf, number)
        ends = zip(attacks, end.chunk(len(attacks)), strict=True)
        target = torch.cat([ranked_wrong_class(model, own, y, each.target_rank) for each, own in ends])
        up, weight = torch.zeros_like(start), torch.ones_like(bound)
        labels = y.repeat(len(attacks))
        return _Course(start, labels, end, Streams.joined(streams), which, bound, up, weight, target=target)

    def step(self, model: Model, state: _Course, count: int) -> tuple[_Course, Tensor]:
        """The model's answer at z, then a step up."""
        assert state.target is not None
        z = state.z.detach().requires_grad_()
        logits, number = self.switches.read(z, state.which)
        there = number >= state.bound
        across = unit_slope(self.threat, number, z)
        own, seen = (
            unit_slope(self.threat, lead(answer, state.y, state.target), z)
            for answer in (self.switches.subject.differentiable(z), logits)
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


def behind_switches(found: Sequence[Switches], steps: tuple[int, int], rows: int) -> tuple[Attack, Attack]:
    """A brief and a thorough attack behind the switches of a model, at least one; `steps` of either.

    Where they are many, fewer steps are taken behind each: no more in all than behind `_MANY`.

    Args:
        found: the switches.
        steps: of either attack.
        rows: of a batch, at most, if there are not more examples.
    """
    all_of_them = sum(len(some.ways) for some in found)
    brief, thorough = (max(1, count * _MANY // max(_MANY, all_of_them)) for count in steps)

    def attacks(some: Switches, count: int, which: Sequence[int], targets: int) -> Attack:
        ranks = range(1, min(targets, some.subject.classes - 1) + 1)
        made = (
            BehindSwitch(some.threat, count, switches=some, which=one, target_rank=rank)
            for one in which
            for rank in ranks
        )
        return Abreast(some.threat, tuple(made), rows)

    quick = tuple(attacks(some, brief, range(len(some.ways)), 1) for some in found)
    long = tuple(attacks(some, 2 * thorough, [one], TARGETS) for some in found for one in range(len(some.ways)))
    return WorstOf(quick), WorstOf(long)
