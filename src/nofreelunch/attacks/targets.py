"""Attacks towards a class: one that ranks high among the wrong ones, or one that the caller names."""

from dataclasses import dataclass, is_dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from nofreelunch.attacks.base import Attack, check_attack
from nofreelunch.attacks.door import Precise, attacking, check_batch, check_labels, first_logits
from nofreelunch.attacks.worst_of import WorstOf
from nofreelunch.errors import InputError, check_count
from nofreelunch.rng import Streams
from nofreelunch.types import Inputs, Labels, Model


def ranked_wrong_class(model: Model, x: Inputs, y: Labels, rank: int) -> Labels:
    """The wrong class with the rank-th largest logit at x (1 is the runner-up).

    Raises:
        InputError: if there are fewer wrong classes.
    """
    with torch.no_grad():
        logits = model(x)
    if rank >= logits.shape[1]:
        raise InputError(
            f"target_rank must be at most {logits.shape[1] - 1} with {logits.shape[1]} classes, got {rank}"
        )
    wrong = logits.scatter(1, y[:, None], float("-inf"))
    return wrong.argsort(dim=1, descending=True, stable=True)[:, rank - 1]


@final
@dataclass(frozen=True)
class EachTarget:
    """A targeted attack towards the best wrong classes in turn, each on the examples that none before it broke.

    Args:
        attack: a dataclass, which is repeated with `target_rank` 1, 2, ...
        targets: how many wrong classes, at most; all of them where there are fewer.
    """

    attack: Any
    targets: int = 9

    def __post_init__(self) -> None:
        if isinstance(self.attack, type) or not (is_dataclass(self.attack) and hasattr(self.attack, "target_rank")):
            raise InputError(f"EachTarget needs an attack with a target_rank, such as FAB(threat), got {self.attack!r}")
        ranked: Any = self.attack
        replace(ranked, target_rank=2)  # an attack that has no use for one says so
        check_count("targets", self.targets)

    @property
    def random_start(self) -> bool:
        """Whether its attack has one."""
        return bool(getattr(self.attack, "random_start", True))

    def parts(self, classes: int) -> tuple[Attack, ...]:
        """Its attacks on a model of so many classes, in their order."""
        return tuple(replace(self.attack, target_rank=rank) for rank in range(1, min(self.targets, classes - 1) + 1))

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        """Adversarial inputs; arguments and errors are those of the attack."""
        labels = check_batch(model, x, y, None)
        if len(x) == 0:
            return x.detach().clone()
        with attacking(model, x.device) as precise:
            classes = first_logits(precise, x, labels).shape[1]
        return WorstOf(self.parts(classes))(model, x, y, rng)


@dataclass(frozen=True)
class _Towards:
    """A model of two classes: 0, some class other than the target; 1, the target."""

    model: Model
    target: int

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        others = logits.index_fill(1, torch.tensor([self.target], device=x.device), -torch.inf)
        return torch.stack([others.amax(1), logits[:, self.target]], 1)


def _towards(precise: Precise, target: int) -> Precise:
    judge = None if precise.judge is None else _Towards(precise.judge, target)
    return replace(precise, model=_Towards(precise.model, target), judge=judge)


def targeted(
    attack: Attack, model: Model, x: Tensor, y: Tensor, targets: Tensor, rng: torch.Generator | Streams
) -> Tensor:
    """Inputs that the model takes for `targets`, found by any attack on the question "is it the target?".

    Args:
        attack: runs once for each target class that occurs.
        model: maps inputs to logits (n, k).
        x: inputs (n, ...).
        y: true labels (n,).
        targets: wanted labels (n,), each different from the true one.
        rng: as for every attack.

    Returns:
        Adversarial inputs; inputs that already are taken for their target come back untouched.

    Raises:
        InputError: if a target is the true label, or as the attack raises.
    """
    check_attack(attack)
    labels, targets = check_batch(model, x, y, None), check_batch(model, x, targets, None, "targets")
    if (same := labels == targets).any():
        first = int(same.int().argmax())
        raise InputError(f"a target must differ from the true label; example {first} has {labels[first]} for both")
    streams = Streams.of(rng, len(x), x.device)
    x_adv = x.detach().clone()
    with attacking(model, x.device) as precise:
        if len(x) > 0:
            check_labels(labels, first_logits(precise, x, targets))
        for target in sorted(set(targets.tolist())):
            index = (targets == target).nonzero().squeeze(1)
            x_adv[index] = attack(_towards(precise, target), x[index], torch.zeros_like(index), streams.take(index))
    return x_adv
