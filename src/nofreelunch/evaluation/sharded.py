"""Clean and robust accuracy under one attack, counted by one process or by several together."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nofreelunch.attacks import Attack, misclassified
from nofreelunch.data import Split
from nofreelunch.evaluation.tally import Tally
from nofreelunch.models.state import evaluating
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.types import Labels, Model, pixels


@runtime_checkable
class Processes(Protocol):
    """Those that share the work, seen from one of them."""

    @property
    def rank(self) -> int:
        """Of this one, 0 .. processes - 1."""

    @property
    def processes(self) -> int:
        """How many there are."""

    def total(self, value: Tensor) -> Tensor:
        """The sum over them; all must ask for it."""


class Alone:
    """This process, which shares with nobody."""

    rank, processes = 0, 1

    def total(self, value: Tensor) -> Tensor:
        """Its own value."""
        return value


@dataclass(frozen=True)
class Examples:
    """Some images of a split.

    Args:
        split: raw images and labels; may be larger than memory.
        index: which of them; an example's random stream belongs to its index.
        batch_size: examples at a time, in each process.
    """

    split: Split
    index: Labels
    batch_size: int


def accuracies(
    model: nn.Module,
    attacked: Model,
    examples: Examples,
    threat: Threat,
    attack: Attack,
    seed: int,
    together: Processes = Alone(),  # noqa: B008 - it has no state
) -> tuple[Tally, Tally]:
    """Clean and robust accuracy: the same in every process, and for every number of processes.

    The processes take the examples in turn, so that each is counted once, whether their number divides or not; what is
    added up are whole numbers. The attack climbs a copy; the verdict is the model's own, in evaluation mode.

    Args:
        model: whose accuracy it is; the work is done on its device.
        attacked: the model as the attack differentiates it, such as `fast(model)`.
        examples: which images.
        threat: what the attack may do, which is looked at.
        attack: may miss a point that another attack would find: the figure is an upper bound.
        seed: of the attack.
        together: the processes that share the work.
    """
    device = next(model.parameters()).device
    correct = torch.zeros(2, dtype=torch.int64, device=device)
    own = examples.index[together.rank :: together.processes]
    with evaluating(model):
        for index in torch.split(own, examples.batch_size) if len(own) else ():
            x, y = pixels(examples.split.x[index].to(device)), examples.split.targets[index].to(device)
            x_adv = attack(attacked, x, y, Streams.for_examples(seed, index.to(device)))
            assert threat.contains(x_adv, x).all()
            with torch.no_grad():
                clean, robust = (~misclassified(model(z), y) for z in (x, x_adv))
            correct += torch.stack([clean.sum(), (clean & robust).sum()])
    found = together.total(correct).tolist()
    return Tally(found[0], len(examples.index)), Tally(found[1], len(examples.index))
