"""One step of an evaluation: an attack, part by part, under its name, on all that stands.

Each step leaves an outcome in the journal, which a resumed run takes over.
"""

import torch

from nofreelunch.attacks import Attack
from nofreelunch.attacks.abreast import abreast
from nofreelunch.evaluation.board import LOST
from nofreelunch.evaluation.protocols import parts, relentless
from nofreelunch.evaluation.trial import Trial
from nofreelunch.types import Labels

_BLOCK = 64
"""Examples of a block."""


def run(trial: Trial, phase: str, name: str, attack: Attack, among: Labels | None = None, block: str = "") -> None:
    """One attack, under its name, part by part; on a named block of the examples, or on all."""

    def work() -> None:
        for number, part in enumerate(parts_for(trial, attack), 1):
            trial.attack(name, part, f" {number}", among)

    trial.journal.once(f"{phase}: {name}{block}", work)


def run_nearest_first(trial: Trial, phase: str, name: str, attack: Attack) -> None:
    """The same block by block, the examples that are nearest to being broken first, until a block holds.

    What is broken by more steps was not far from it before; but if anything is odd about the model, margins may lie.
    """
    if trial.suspicious:
        run(trial, phase, name, attack)
        return

    def nearest_first() -> list[int]:
        standing = trial.board.standing()
        order = trial.board.margin[standing].argsort(descending=True, stable=True)
        return standing[order].tolist()

    order = torch.tensor(trial.journal.once(f"{phase}: order, {name}", nearest_first), dtype=torch.long)
    for number, block in enumerate(torch.split(order, _BLOCK), 1):
        run(trial, phase, name, attack, block, f", block {number}")
        if (trial.board.right[block] > LOST).all():
            break


def parts_for(trial: Trial, attack: Attack, whole: bool = False) -> list[Attack]:
    """What an attack runs; `whole`, and where anything is odd about the model, without giving an example up."""
    made = parts(attack, trial.subject.classes)
    return [relentless(part) for part in made] if whole or trial.suspicious else list(made)


def to_the_end(trial: Trial, *attacks: Attack) -> Attack:
    """For a few examples: one after the other on what those before it left, none giving an example up."""
    made = (part for attack in attacks for part in parts(attack, trial.subject.classes))
    return abreast(map(relentless, made), trial.batch)
