"""Models that decide for each example which of their parts answers: the parts are attacked, the decision is steered.

A gate hands some images to one network, others to another. The gradient is that of the network an image is with, and
tells nothing of the gate, so that an attack climbs in the stronger network where the weaker one is a step away. Here
the decision is made for the model: all examples are answered by one of its parts, that part is climbed, and the smooth
surrogate of what was compared brings the point to where the model itself decides so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from nofreelunch.attacks import Attack, EachTarget, WorstOf
from nofreelunch.attacks.base import Iterative, State
from nofreelunch.attacks.losses import lead, margin
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.evaluation.remedies.bpda import Smooth, bpda
from nofreelunch.evaluation.remedies.lagrangian import TARGETS, stepped, turned, unit_slope
from nofreelunch.evaluation.subject import Subject
from nofreelunch.models.tracing import operation_name
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, expand
from nofreelunch.types import Inputs, Labels, Logits, Mask, Model, PerExample

_MOST, _TRIED, _SHOWING = 12, 256, 16
"""So many sides of a model's decisions are steered to, at most: the weakest of so many, as so many examples show."""
_STRIDES, _FACTOR, _MOSTLY = (0.01, 0.25), 4.0, 0.75
"""A slope is held against what comes of two steps, in radii: alike up to a factor, for most examples."""
_EXTREMES = {"argmax": 1, "max": 1, "topk": 1, "argmin": -1, "min": -1}
"""With the sign of what the choice is the largest of."""
_JOINED = {
    **dict.fromkeys(("__and__", "bitwise_and", "logical_and"), torch.minimum),
    **dict.fromkeys(("__or__", "bitwise_or", "logical_or"), torch.maximum),
}
"""What stands for two masks joined: of `and` that which is not so yet, of `or` that which is nearest to it."""


@dataclass(frozen=True)
class _Decision:
    """What a model decides for each example.

    Attributes:
        value: the side taken (n,).
        rising: what rises towards each side (n, sides), if that is known.
        measured: whether that is what the model compares: its values are true then, and not only its slopes.
    """

    value: Labels
    rising: Tensor | None
    measured: bool

    @property
    def sides(self) -> int:
        """How many there are to choose from."""
        return 2 if self.rising is None else self.rising.shape[1]

    def follows(self, other: "_Decision") -> bool:
        """Whether this one is settled by what the other one was."""
        groups = (self.value[other.value == side] for side in range(other.sides))
        return all(len(group) == 0 or bool((group == group[0]).all()) for group in groups)


class _Deciding(Smooth):
    """Writes down what is decided for each example, masks and choices of the largest, and makes one of the decisions.

    Args:
        rows: how many examples there are.
        place: of the decision that is made, in the order in which the model makes them.
        side: how it is made.
    """

    def __init__(self, rows: int, place: int = -1, side: int = 0) -> None:
        super().__init__()
        self._rows, self._place, self._side = rows, place, side
        self.seen: list[_Decision] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation, or what is decided."""
        made = super().__torch_function__(function, types, args, kwargs)
        name = operation_name(function)
        if name in _JOINED and all(isinstance(arg, Tensor) and arg in self._surrogates for arg in args[:2]):
            self._surrogates[made] = _JOINED[name](*(self._surrogates[arg] for arg in args[:2]))
        if name in _EXTREMES and isinstance(made, tuple):
            return self._extremes(made, args[0], _EXTREMES[name])
        if not isinstance(made, Tensor) or made.shape[:1] != (self._rows,) or made.numel() != self._rows:
            return made
        if made.dtype != torch.bool and (name not in _EXTREMES or made.is_floating_point()):
            return made
        return torch.full_like(made, self._side) if self._decides(made.flatten(), *self._rising(made)) else made

    def _extremes(self, made: Any, given: Tensor, sign: int) -> Any:
        """The largest (or smallest) values, and where they stand: of several the first is what is decided."""
        values, index = made
        if given.dim() != 2 or len(given) != self._rows or len(index) != self._rows:
            return made
        chosen = index.reshape(self._rows, -1)
        if not self._decides(chosen[:, 0], (sign * given).log_softmax(1), True):
            return made
        chosen = torch.cat([torch.full_like(chosen[:, :1], self._side), chosen[:, 1:]], 1)
        return type(made)((given.gather(1, chosen).view_as(values), chosen.view_as(index)))

    def _decides(self, value: Labels, rising: Tensor | None, measured: bool) -> bool:
        """Writes a decision down; whether it is the one that is made for the model."""
        self.seen.append(_Decision(value.long(), rising, measured))
        return len(self.seen) - 1 == self._place

    def _rising(self, made: Tensor) -> tuple[Tensor | None, bool]:
        """What rises towards each side, and whether it is measured."""
        if made in self._scores:
            scores: Tensor = self._scores[made]
            return scores.reshape(self._rows, -1).log_softmax(1), True
        towards: Tensor | None = self._heights.get(made, self._surrogates.get(made))
        if towards is None:
            return None, False
        return torch.stack([-towards, towards], -1).reshape(self._rows, 2), made in self._heights


def decisions(threat: Threat, subject: Subject, x: Inputs, y: Labels) -> list[tuple[int, int]]:
    """The places and sides of what a model decides for each of some examples, but for what follows from the rest.

    Of many, those whose part is the weakest: it answers all examples, and is wrong about the most after a step up.
    """
    ways = [(place, side) for place, one in _decided(subject, x).items() for side in range(one.sides)][:_TRIED]
    if len(ways) <= _MOST:
        return ways
    some = slice(None, None, 1 + len(x) // _SHOWING)

    def weakness(way: tuple[int, int]) -> tuple[float, float]:
        margins = after_a_step(threat, partial(answered, subject, way), x[some], y[some])
        return float((margins > 0).float().mean()), float(margins.mean())

    return sorted(ways, key=weakness, reverse=True)[:_MOST]


@torch.no_grad()
def _decided(subject: Subject, x: Inputs) -> dict[int, _Decision]:
    """What a model decides for each example, but for its answer and what follows from the rest, by place."""
    mode = _Deciding(len(x))
    with bpda(mode):
        said = subject.differentiable(x).argmax(1)
    kept: dict[int, _Decision] = {}
    for place, one in enumerate(mode.seen):
        is_answer = torch.equal(one.value, said)
        if not is_answer and not any(one.follows(other) for other in kept.values()):
            kept[place] = one
    return kept


def closed_sides(subject: Subject, x: Inputs) -> list[tuple[int, int]]:
    """The places and sides of what a model decides for each example, and for no example so."""
    ways = ((place, side, one) for place, one in _decided(subject, x).items() for side in range(one.sides))
    return [(place, side) for place, side, one in ways if not (one.value == side).any()][:_TRIED]


def answered(subject: Subject, way: tuple[int, int], z: Inputs) -> Logits:
    """The logits of the part that answers when a decision is made for the model."""
    with bpda(_Deciding(len(z), *way)):
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
        """Whether the steps lead any example to where the model decides so."""
        state = self.start(self.subject.logits, x, y, streams)
        for count in range(self.steps):
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

    def making(self, rows: int) -> _Deciding:
        """The mode in which the decision is made for the model."""
        return _Deciding(rows, self.place, self.side)

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

    def _decided(self, z: Inputs) -> tuple[Tensor, _Decision | None]:
        """The logits of the part, and what the model itself decides; None if it does not come to decide."""
        mode = self.making(len(z))
        with bpda(mode):
            logits = self.subject.differentiable(z)
        return logits, mode.seen[self.place] if self.place < len(mode.seen) else None


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
