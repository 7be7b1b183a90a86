"""What every attack promises, written once.

An attack returns a point of the threat's set for every example. Examples that are misclassified as they are come back
untouched, bit for bit; the others come back as a misclassified point if one was seen, else as the point with the
largest margin: which all do if the model's answers are random. What comes back is a function of model, example and
stream: not of the batch around it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Generic, Protocol, TypeVar, final, runtime_checkable

import torch
from torch import Tensor

from nofreelunch.attacks.door import attacking, check_batch, first_logits
from nofreelunch.attacks.losses import lead, margin, misclassified
from nofreelunch.errors import InputError, check_count, check_number
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, check_threat
from nofreelunch.types import Inputs, Labels, Logits, Model, PerExample

_LEAVE_AT = 1 / 8
"""The batch is cut down when this share of it is broken: few enough shapes for compiled models, little work wasted."""
REVIEWS = ((0.1, 2.0), (0.25, 1.0), (0.5, 0.5))
"""Shares of the steps after which examples may be given up, and what patience is multiplied by there."""


@runtime_checkable
class Attack(Protocol):
    """Anything that looks for adversarial inputs."""

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | Streams, /) -> Tensor:
        """Adversarial inputs, like x in shape, type, layout and device."""
        ...


def check_attack(value: object) -> Attack:
    """The value if it is an attack; an `InputError` otherwise."""
    if isinstance(value, type) or not isinstance(value, Attack):
        raise InputError(f"an attack must be one such as PGD(Linf(8 / 255)), got {value!r}")
    return value


@dataclass(frozen=True)
class State:
    """Where an attack stands on each example of a batch. Every field holds one row per example, or nothing.

    Args:
        x: the inputs.
        y: their labels.
        z: the points to be looked at next.
        streams: the examples' random numbers.
        target: the classes that are climbed towards; None: any wrong one.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    streams: Streams
    target: Tensor | None = field(default=None, kw_only=True)


S = TypeVar("S", bound=State)


def take(state: S, index: Tensor) -> S:
    """The state of some of the examples."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    rows = {name: value[index] for name, value in values.items() if isinstance(value, Tensor)}
    return replace(state, **rows, streams=state.streams.take(index))


def joined(states: Sequence[S]) -> S:
    """The states of several batches as that of one."""
    names = [name for name, value in vars(states[0]).items() if isinstance(value, Tensor)]
    rows = {name: torch.cat([getattr(state, name) for state in states]) for name in names}
    return replace(states[0], **rows, streams=Streams.joined([state.streams for state in states]))


def _progress(logits: Logits, state: State) -> PerExample:
    """How near an attack is to what it is after: the lead of the target, or of any wrong class, over the true one."""
    margins = margin(logits, state.y) if state.target is None else lead(logits, state.y, state.target)
    return margins.double()


def _confirmed(judge: Model | None, z: Inputs, logits: Tensor, y: Labels) -> Tensor:
    """The logits; where they only stand for the judge's and misclassify, the judge's."""
    seems = misclassified(logits, y)
    if judge is None or not seems.any():
        return logits
    with torch.no_grad():
        return logits.index_copy(0, seems.nonzero().squeeze(1), judge(z[seems]).to(logits.dtype))


class Best:
    """The best point seen for each example: a misclassified one for good, else the one with the largest margin.

    Args:
        x: the examples.
        model: whose logits are offered. If it only stands for another one (`fast` in bfloat16), that one is asked again
            where a point seems misclassified. If its answers are random (`Averaged`), being misclassified once is no
            more than a large margin.
    """

    def __init__(self, x: Inputs, model: Model) -> None:
        self._judge: Model | None = getattr(model, "judge", None)
        self._random: bool = getattr(model, "random", False)
        self.z = x.clone()
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.margin = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)

    def offer(self, index: Labels, z: Tensor, logits: Tensor, y: Labels) -> None:
        """Points `z` with their logits, for the examples at `index`."""
        logits = _confirmed(self._judge, z, logits, y)
        broken, margins = misclassified(logits, y) & (not self._random), margin(logits, y).double()
        better = ~self.broken[index] & (broken | (margins > self.margin[index]))
        where = index[better]
        self.z[where] = z[better].to(self.z.dtype)
        self.margin[where] = margins[better]
        self.broken[where] = broken[better]


@dataclass(frozen=True)
class Search(ABC):
    """An attack that searches the threat's set around each correctly classified example.

    Args:
        threat: the set that the adversary may choose from.
    """

    threat: Threat

    def __post_init__(self) -> None:
        check_threat(self.threat)

    @final
    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        """Adversarial inputs, like x in shape, type, layout and device.

        Args:
            model: maps inputs to logits (n, k) with k >= 2.
            x: float32 or float64 inputs (n, ...) in the threat's box.
            y: integer labels (n,).
            rng: a generator, from which one seed is drawn, or one stream per example.

        Raises:
            InputError: if these are not what they should be.
        """
        y = check_batch(model, x, y, self.threat.box)
        streams = Streams.of(rng, len(x), x.device)
        with attacking(model, x.device) as precise:
            x_adv = x.detach().clone()
            if len(x) == 0:
                return x_adv
            logits = _confirmed(precise.judge, x_adv, first_logits(precise, x_adv, y), y)
            standing = (~misclassified(logits, y) | precise.random).nonzero().squeeze(1)
            if len(standing) > 0 and self.threat.eps > 0:
                x_adv[standing] = self.search(precise, x_adv[standing], y[standing], streams.take(standing))
            return x_adv

    @abstractmethod
    def search(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> Inputs:
        """The best points found for a batch, not empty, of correctly classified examples."""


@dataclass(frozen=True)
class Iterative(Search, Generic[S]):
    """A search that looks at one point per example and step. Examples that are broken leave the batch.

    Args:
        threat: the set.
        steps: points looked at, besides the one where the last step ends.
        patience: examples are given up whose margin (the target's, if there is one) after a quarter of the steps still
            has to rise more than so many times what it has risen from x; after a tenth more than twice, after half of
            them more than half of that; None: never. For attacks that go far early; one of short, equal steps would
            give up what it can reach.
    """

    steps: int
    patience: float | None = field(default=None, kw_only=True)
    _reviews: ClassVar[tuple[tuple[float, float], ...]] = REVIEWS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps", self.steps)
        if self.patience is not None:
            check_number("patience", self.patience, 0, float("inf"))

    @abstractmethod
    def start(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> S:
        """The state before the first step; its `z` are the first points looked at."""

    def start_abreast(
        self, attacks: Sequence["Iterative[S]"], model: Model, x: Inputs, y: Labels, streams: Sequence[Streams]
    ) -> S:
        """The states of attacks that are alike, this one among them, before the first step, as that of one batch."""
        return joined([each.start(model, x, y, own) for each, own in zip(attacks, streams, strict=True)])

    @abstractmethod
    def step(self, model: Model, state: S, count: int) -> tuple[S, Tensor]:
        """The state after step `count` (from 0), and the logits of the points `state.z` that this step looked at."""

    @final
    def search(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> Inputs:
        """All steps, and a last look."""
        return self.follow(model, self.start(model, x, y, streams))

    @final
    def follow(self, model: Model, state: S) -> Inputs:
        """All steps from a state before the first one, and a last look."""
        best, index = Best(state.x, model), torch.arange(len(state.x), device=state.x.device)
        peak = best.margin.clone()
        with torch.no_grad():
            floor = peak if self.patience is None else _progress(model(state.x), state)
        for count in range(self.steps):
            after, logits = self.step(model, state, count)
            best.offer(index, state.z, logits, state.y)
            if self.patience is not None:
                peak[index] = torch.maximum(peak[index], _progress(logits, state))
            state = after
            leaving, patience = best.broken[index], self._patience_after(count + 1)
            if patience is not None:
                leaving = leaving | (-peak[index] > patience * (peak[index] - floor[index]))
            standing = (~leaving).nonzero().squeeze(1)
            if len(standing) == 0:
                return best.z
            if patience is not None or len(standing) <= (1 - _LEAVE_AT) * len(index):
                state, index = take(state, standing), index[standing]
        with torch.no_grad():
            best.offer(index, state.z, model(state.z), state.y)
        return best.z

    def _patience_after(self, steps: int) -> float | None:
        """How many times its rise an example's margin may have before it after so many steps; None: any."""
        if self.patience is None:
            return None
        due = (factor for share, factor in self._reviews if steps == math.ceil(share * self.steps))
        return next((factor * self.patience for factor in due), None)
