"""Models that switch by a number: what they compute of each example as one number is driven to both its ends.

A gate need not be a mask. A number that is read out of torch, rounded to an index, or put through a steep sigmoid hands
images to another network as well, and may do so where no attack comes by itself: at a pattern that images do not have.
Here every number per example that the model computes is climbed, up and down, as far as the threat lets it; where the
scores change all at once on the way, the attack goes on from behind that place, and keeps behind it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.nn import functional

from nofreelunch.attacks import Attack
from nofreelunch.attacks.base import Iterative, State
from nofreelunch.attacks.losses import lead
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.evaluation.remedies.bisection import between, largest_change
from nofreelunch.evaluation.remedies.bpda import Smooth, bpda
from nofreelunch.evaluation.remedies.lagrangian import brief_and_thorough, stepped, turned, unit_slope
from nofreelunch.evaluation.subject import Subject
from nofreelunch.models.tracing import operation_name
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, coordinates, expand
from nofreelunch.types import Inputs, Labels, Model, PerExample

Place: TypeAlias = tuple[int, int, int]
"""Of a number: which of the model's operations, which result (-1: what goes in), which column (-1: their mean)."""

_COLUMNS, _READ, _NUMBERS, _SWITCHES = 32, 96, 32, 12
"""Columns of a table, numbers read, numbers kept that differ, and switches that are attacked, at most."""
_MEANT = 64
"""Columns of a table whose mean counts as a number too, at most: a gate may count how many of them are large."""
_PADDED = 128
"""So long may be what holds the numbers of a batch, where a model fills it up."""
_CHOOSERS = {"softmax", "_softmax", "log_softmax", "_log_softmax", "argmax", "max", "topk", "sort", "argsort"}
"""What goes in here counts by how far it is ahead."""
_ONE_OF_MANY = {"median", "nanmedian", "quantile", "nanquantile", "kthvalue"}
"""What comes out has the slope of one coordinate: the mean of what goes in has that of all."""
_PARTS = {"split", "chunk", "tensor_split", "narrow", "index_select", "slice", "__getitem__"}
"""By these a batch is cut up."""
_ALIKE = 0.99
"""The cosine of two slopes, of either sign, from which on one number says what the other says."""
_CLIMB = 3
"""Steps, each of a radius, to an end."""
_MARKS, _HALVINGS = 16, 6
"""Parts of the way there, and halvings of the one in which the scores change most."""
_AT_ONCE = 0.2
"""The share of their change on a way that scores make in one of these parts, if they switch there; usual: ~ 0.1. It
is that of two examples: a last sharp bend on the way of one is none."""
_STILL = 0.1
"""A change on a way by less than this share of the scores is none."""


class _Reading(Smooth):
    """Writes down every number per example that has a slope, and the columns of small tables of numbers.

    Args:
        rows: how many examples there are.
        only: of which operation; None: of all.

    Attributes:
        numbers: what was written, (rows,) each, by its place, which does not depend on how many examples there are.
        splits: whether the model goes through the batch one by one, or in parts.
    """

    def __init__(self, rows: int, only: int | None = None) -> None:
        super().__init__()
        self._rows, self._only = rows, only
        self.numbers: dict[Place, PerExample] = {}
        self.splits, self._operations = False, 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation."""
        name = operation_name(function)
        self._operations += 1
        if self._only not in (None, self._operations):
            return super().__torch_function__(function, types, args, kwargs)
        if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            if name in _CHOOSERS and args[0].dim() == 2:
                self._write(args[0].log_softmax(1), -1)
            if name in _ONE_OF_MANY and args[0].shape[:1] == (self._rows,):
                self._write(args[0].flatten(1).mean(1), -1)
        made = super().__torch_function__(function, types, args, kwargs)
        for which, one in enumerate(made if isinstance(made, (tuple, list)) else (made,)):
            if isinstance(one, Tensor):
                self.splits |= self._is_part(name, args, one)
                self._write(self.smooth(one), which)
        return made

    def _is_part(self, name: str, args: tuple[Any, ...], made: Tensor) -> bool:
        """Whether this is one example, or some, of a batch of several."""
        if made.numel() <= 1 or self._rows == 1:
            return False
        given = args[0] if args and name in _PARTS else None  # there is none where all are named
        whole = isinstance(given, Tensor) and given.dim() == made.dim() and len(given) == self._rows
        return made.shape[:1] == (1,) or (whole and len(made) < self._rows)

    def _write(self, made: Tensor, which: int) -> None:
        with torch._C.DisableTorchFunction():
            while torch._C._functorch.is_batchedtensor(made):  # inside vmap there is no batch to see
                made = torch._C._functorch.get_unwrapped(made)
            if self._rows == 1 and made.dim() == 0:
                made = made[None]
            if made.dim() == 0 or made.numel() == 0 or not (made.is_floating_point() and made.requires_grad):
                return
            table = made.reshape(len(made), -1)
            if not self._rows <= len(table) <= max(_PADDED, self._rows):
                return
            if 1 < table.shape[1] <= _MEANT:
                self.numbers[self._operations, which, -1] = table[: self._rows].mean(1)
            if table.shape[1] <= _COLUMNS:
                columns = (table[: self._rows] * 1).T  # a copy: the model may go on in place
                self.numbers |= {(self._operations, which, count): column for count, column in enumerate(columns)}


def _read(
    subject: Subject, z: Inputs, alone: bool, only: int | None = None
) -> tuple[Tensor, dict[Place, PerExample], bool]:
    """The model's logits, its numbers, and whether it splits the batch; `alone`: asked for one example at a time."""
    if alone and len(z) > 1:
        answers = [_read(subject, row, True, only) for row in torch.split(z, 1)]
        places = [place for place in answers[0][1] if all(place in found for _, found, _ in answers)]
        numbers = {place: torch.cat([found[place] for _, found, _ in answers]) for place in places}
        return torch.cat([logits for logits, _, _ in answers]), numbers, False
    mode, z = _Reading(len(z), only), z if z.requires_grad else z.detach().requires_grad_()
    with torch.enable_grad(), bpda(mode):
        logits = subject.differentiable(z)
    return logits, mode.numbers, mode.splits


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
        logits, numbers, _ = _read(self.subject, z, self.alone, self.place[0])
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

    def crossing(self, x: Inputs, end: Inputs) -> tuple[PerExample, Inputs]:
        """Where the scores change most on the way: the share of their change that is there, and the point behind."""
        marks = torch.linspace(0, 1, _MARKS + 1, dtype=x.dtype, device=x.device)

        def scores(share: PerExample) -> Tensor:
            return self.subject.logits(between(x, end, share)).nan_to_num()

        seen, _, place = largest_change(scores, marks, len(x), _HALVINGS)
        changes, still = seen.diff(dim=0).abs().amax(2), _STILL * seen.abs().amax((0, 2))
        share = changes.amax(0) / torch.maximum(changes.sum(0), still).clamp(min=torch.finfo(x.dtype).tiny)
        return share, between(x, end, place)


def switches(subject: Subject, threat: Threat, x: Inputs) -> list[Switch]:
    """The numbers on whose way up or down the scores of two examples change all at once, the clearest first.

    Args:
        subject: the model.
        threat: the set.
        x: the examples.
    """
    found = []
    for place, alone in _different(subject, x):
        for sign in (1, -1):
            switch = Switch(subject, threat, place, sign, alone)
            with torch.no_grad():
                share = switch.crossing(x, switch.end(x))[0]
            if share.topk(min(2, len(x))).values[-1] > _AT_ONCE:
                found.append((float(share.mean()), switch))
    found.sort(key=lambda one: one[0], reverse=True)
    return [switch for _, switch in found[:_SWITCHES]]


def _different(subject: Subject, x: Inputs) -> list[tuple[Place, bool]]:
    """The places of numbers that have slopes, each of its own, and whether the model must be asked one by one."""
    found: list[tuple[Place, bool]] = []
    at = x.detach().requires_grad_()
    logits, numbers, splits = _read(subject, at, False)
    known: list[Tensor] = []
    for alone in (False, True) if splits else (False,):
        for place, number in islice((_read(subject, at, True)[1] if alone else numbers).items(), _READ):
            is_answer = any(torch.equal(number, column) for column in logits.T)
            slope = None if is_answer else _slope(number, at)
            if slope is None or any((functional.cosine_similarity(slope, one).abs() > _ALIKE).all() for one in known):
                continue
            known.append(slope)
            found.append((place, alone))
    return found[:_NUMBERS]


def _slope(number: PerExample, at: Inputs) -> Tensor | None:
    """The number's gradient, flat, if it has one."""
    if not number.requires_grad:
        return None
    (slope,) = torch.autograd.grad(number.sum(), at, retain_graph=True, allow_unused=True)
    return None if slope is None or not slope.isfinite().all() or not slope.any() else slope.flatten(1)


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
        with torch.no_grad():
            behind = self.switch.crossing(x, end)[1]
        number = self.switch.read(behind)[1]
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
    """A brief and a thorough attack behind the switches of a model, at least one; `steps` of either."""
    return brief_and_thorough(
        lambda count: tuple(BehindSwitch(switch.threat, count, switch=switch) for switch in found), steps
    )
