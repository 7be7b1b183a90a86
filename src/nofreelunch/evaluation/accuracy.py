"""Clean and robust accuracy under one attack, counted by one process or by several together."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nofreelunch.attacks import Attack, misclassified
from nofreelunch.data import Split
from nofreelunch.evaluation.tally import Tally
from nofreelunch.models.state import evaluating
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.types import Labels, Model, pixels


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
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> tuple[Tally, Tally]:
    """Clean and robust accuracy: the same for every number of processes that share the examples.

    The attack climbs a copy; the verdict is the model's own, in evaluation mode.

    Args:
        model: whose accuracy it is; the work is done on its device.
        attacked: the model as the attack differentiates it, such as `fast(model)`.
        examples: which images; of several processes each takes others.
        threat: what the attack may do, which is looked at.
        attack: may miss a point that another attack would find: the figure is an upper bound.
        seed: of the attack.
        total: adds whole numbers up over the processes, such as `Devices.total`.
    """
    device = next(model.parameters()).device
    counts = torch.zeros(3, dtype=torch.int64, device=device)
    index = examples.index
    with evaluating(model):
        for part in torch.split(index, examples.batch_size) if len(index) else ():
            x, y = pixels(examples.split.x[part].to(device)), examples.split.targets[part].to(device)
            x_adv = attack(attacked, x, y, Streams.for_examples(seed, part.to(device)))
            assert threat.contains(x_adv, x).all()
            with torch.no_grad():
                clean, robust = (~misclassified(model(z), y) for z in (x, x_adv))
            counts += torch.stack([clean.sum(), (clean & robust).sum(), torch.ones_like(y).sum()])
    right, unbroken, seen = total(counts).tolist()
    return Tally(right, seen), Tally(unbroken, seen)
