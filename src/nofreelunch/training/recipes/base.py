"""What a recipe is: which examples a step trains on, and by what loss.

All of them minimise E[max over z in threat(x) of loss(model(z), y)] (Tsipras et al. 2018, equation (2)) or a stand-in
for it, and differ in how they look for z. The loop around them is one (`training/loop.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch.nn import functional as F

from nofreelunch.attacks import PGD
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Labels, Logits, Model, PerExample


@dataclass(frozen=True)
class InnerProblem:
    """The inner maximisation of one step.

    Args:
        model: the one in training, frozen and in evaluation mode.
        attack: the training attack, for this step's threat.
        x: clean images, augmented.
        y: class indices.
        streams: the examples' random numbers for this step.
        delta: what `Recipe.carry` returned in the step before, zeros at first.
    """

    model: Model
    attack: PGD
    x: Inputs
    y: Labels
    streams: Streams
    delta: Inputs

    @property
    def threat(self) -> Threat:
        """This step's: its eps is below the config's while eps rises."""
        return self.attack.threat

    def some(self, rows: Labels) -> "InnerProblem":
        """That of some of the examples."""
        streams = self.streams.take(rows)
        return replace(self, x=self.x[rows], y=self.y[rows], streams=streams, delta=self.delta[rows])


class Chosen(NamedTuple):
    """What a step trains on instead of x: points z, and the rows of the examples that they belong to; None: all."""

    z: Inputs
    rows: Labels | None = None


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Args:
        source: where it is from, and in what ours differs.
        examples: what to train on; examples that are left out count as learnt, with a loss of 0.
        loss: of the model in training mode, for the problem and its z: a loss for each example, and the logits of z.
        takes_attack: whether the config's attack is used.
        carry: from the problem, z and the gradient of the training loss with respect to z to the next step's `delta`;
            None where a step hands nothing on.
        replays: steps made on each batch.
    """

    source: str
    examples: Callable[[InnerProblem], Chosen]
    loss: Callable[[Model, InnerProblem, Inputs], tuple[PerExample, Logits]]
    takes_attack: bool = False
    carry: Callable[[InnerProblem, Inputs, Inputs], Inputs] | None = None
    replays: int = 1


def cross_entropy(model: Model, problem: InnerProblem, z: Inputs) -> tuple[PerExample, Logits]:
    """The cross-entropy of the labels at z."""
    logits = model(z).float()
    return F.cross_entropy(logits, problem.y, reduction="none"), logits
