"""Several attacks as one: an example is lost if any of them breaks it."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks.base import Attack, Best, check_attack
from nofreelunch.attacks.door import attacking, check_batch
from nofreelunch.errors import InputError, check_count
from nofreelunch.rng import Streams
from nofreelunch.types import Model


@final
@dataclass(frozen=True)
class WorstOf:
    """The attacks in turn, each on the examples that none before it broke; put the cheapest first.

    The i-th attack draws from the i-th fork of the examples' streams, so adding an attack at the end changes nothing
    that the others do: more attacks never raise the accuracy.

    Raises:
        InputError: if there is no attack.
    """

    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.attacks, tuple) or not self.attacks:
            raise InputError(f"WorstOf needs a tuple of at least one attack, got {self.attacks!r}")
        for attack in self.attacks:
            check_attack(attack)

    @property
    def random_start(self) -> bool:
        """Whether any of them has one."""
        return any(getattr(attack, "random_start", True) for attack in self.attacks)

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        """Adversarial inputs; arguments and errors are those of the attacks."""
        y = check_batch(model, x, y, box=None)
        streams = Streams.of(rng, len(x), x.device)
        with attacking(model, x.device) as precise:
            best, standing = Best(x.detach(), precise), torch.arange(len(x), device=x.device)
            for count, attack in enumerate(self.attacks):
                if len(standing) == 0:
                    break
                z = attack(model, x[standing], y[standing], streams.take(standing).fork(count))
                with torch.no_grad():
                    best.offer(standing, z, precise(z), y[standing])
                standing = (~best.broken).nonzero().squeeze(1)
            return best.z


def restarts(attack: Attack, count: int) -> WorstOf:
    """The attack `count` times, each with random numbers of its own; more restarts never raise the accuracy.

    Raises:
        InputError: if the attack has no random start: its restarts would be identical.
    """
    check_count("restarts", count)
    if getattr(attack, "random_start", True) is False and count > 1:
        raise InputError(
            f"{count} restarts without a random start are {count} times the same; set random_start=True if it has one"
        )
    return WorstOf((attack,) * count)
