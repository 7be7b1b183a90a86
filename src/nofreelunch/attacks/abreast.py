"""Attacks that differ only in where they start, run as one large batch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, final

import torch

from nofreelunch.attacks.base import Attack, Best, Iterative, Search
from nofreelunch.attacks.worst_of import WorstOf
from nofreelunch.rng import Streams
from nofreelunch.types import Inputs, Labels, Model


@final
@dataclass(frozen=True)
class Abreast(Search):
    """What `WorstOf` finds, in fewer and larger steps: for a few examples, most of which no attack breaks.

    Args:
        threat: that of the attacks.
        attacks: alike but for their targets, random numbers, and what else their states say of each example.
        rows: points looked at in one step, at most, if there are not more examples.
    """

    attacks: tuple[Iterative[Any], ...]
    rows: int

    def search(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> Inputs:
        """As many attacks at a time as there is room for, on the examples that none before them broke."""
        best, standing, done = Best(x, model), torch.arange(len(x), device=x.device), 0
        while len(standing) > 0 and done < len(self.attacks):
            some = self.attacks[done : done + max(1, self.rows // len(standing))]
            mine, labels, of_mine = x[standing], y[standing], streams.take(standing)
            forks = [of_mine.fork(done + i) for i in range(len(some))]
            begun = some[0].start_abreast(some, model, mine, labels, forks)
            for z in some[0].follow(model, begun).chunk(len(some)):
                with torch.no_grad():
                    best.offer(standing, z, model(z), labels)
            done, standing = done + len(some), (~best.broken).nonzero().squeeze(1)
        return best.z


def abreast(attacks: Iterable[Attack], rows: int) -> WorstOf:
    """The attacks one after the other, but those side by side that follow each other and are alike."""
    groups: Iterator[list[Any]] = (list(group) for _, group in groupby(attacks, _kind))
    return WorstOf(tuple(Abreast(each[0].threat, tuple(each), rows) if len(each) > 1 else each[0] for each in groups))


def _kind(attack: Attack) -> object:
    """The same for attacks that may run abreast."""
    if not isinstance(attack, Iterative):
        return object()
    ranked: Any = attack
    return replace(ranked, target_rank=min(ranked.target_rank, 1)) if hasattr(attack, "target_rank") else attack
