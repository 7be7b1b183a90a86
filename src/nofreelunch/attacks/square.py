"""Square attack: random search by patches, from scores alone (Andriushchenko et al. 2020)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from nofreelunch.attacks.base import REVIEWS, Iterative, State
from nofreelunch.attacks.losses import margin
from nofreelunch.attacks.patches import move_l2, move_linf, start_l2, start_linf
from nofreelunch.errors import check_number
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, expand
from nofreelunch.types import Inputs, Labels, Model

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The queries, of 10000, after which the share of the image that a patch covers is halved."""

_START: dict[str, Callable[[Threat, Tensor, Streams], Tensor]] = {"linf": start_linf, "l2": start_l2}
_MOVE: dict[str, Callable[[Threat, Tensor, Tensor, Streams, float], Tensor]] = {"linf": move_linf, "l2": move_l2}


@dataclass(frozen=True)
class _Walk(State):
    """The best point so far and its margin; z is what is tried next."""

    best: Tensor
    best_margin: Tensor


@final
@dataclass(frozen=True)
class Square(Iterative[_Walk]):
    """Keeps a random patch of the perturbation whenever it raises the margin; uses no gradient, so none can mislead it.

    Large patches come first and raise the margin most: with `patience`, examples may be given up from a fortieth of the
    steps on.

    Args:
        threat: l_inf or l_2, for which the paper has patches; a ball of another norm gets those of l_2, projected.
        steps: patches tried.
        share: the share of the image that the first patches cover (the paper's p).

    Raises:
        InputError: if a number is out of range.
    """

    steps: int = 5000
    share: float = 0.8
    _reviews: ClassVar[tuple[tuple[float, float], ...]] = ((0.025, 4.0), (0.05, 3.0), *REVIEWS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("share", self.share, 0, 1, open_low=True)

    def start(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> _Walk:
        """The paper's initial pattern."""
        z = self.threat.project(_START.get(self.threat.norm, start_l2)(self.threat, x, streams), x)
        lowest = torch.full((len(x),), -torch.inf, device=x.device, dtype=torch.float64)
        return _Walk(x, y, z, streams, best=x, best_margin=lowest)

    def step(self, model: Model, state: _Walk, count: int) -> tuple[_Walk, Tensor]:
        """Keep z where it is better, and try another patch there."""
        with torch.no_grad():
            logits = model(state.z)
        margins = margin(logits, state.y).double()
        better = margins > state.best_margin
        best = torch.where(expand(better, state.z), state.z, state.best)
        move = _MOVE.get(self.threat.norm, move_l2)
        z = move(self.threat, state.x, best, state.streams, self._share(count))
        state = replace(state, best=best, best_margin=torch.where(better, margins, state.best_margin))
        return replace(state, z=self.threat.project(z, state.x)), logits

    def _share(self, count: int) -> float:
        """The share of the image that patch `count` covers."""
        return float(self.share / 2 ** sum(count * 10000 > mark * self.steps for mark in _HALVINGS))
