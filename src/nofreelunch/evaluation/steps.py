"""One step of an evaluation: an attack, part by part, under its name, on all that stands.

Each step leaves an outcome in the journal, which a resumed run takes over.
"""

from nofreelunch.attacks import Attack
from nofreelunch.attacks.abreast import abreast
from nofreelunch.evaluation.protocols import parts, relentless
from nofreelunch.evaluation.trial import Trial


def run(trial: Trial, phase: str, name: str, attack: Attack) -> None:
    """One attack, under its name, part by part."""

    def work() -> None:
        for number, part in enumerate(parts_for(trial, attack), 1):
            trial.attack(name, part, f" {number}")

    trial.journal.once(f"{phase}: {name}", work)


def parts_for(trial: Trial, attack: Attack, whole: bool = False) -> list[Attack]:
    """What an attack runs; `whole`, and where anything is odd about the model, without giving an example up."""
    made = parts(attack, trial.subject.classes)
    return [relentless(part) for part in made] if whole or trial.suspicious else list(made)


def to_the_end(trial: Trial, *attacks: Attack) -> Attack:
    """For a few examples: one after the other on what those before it left, none giving an example up."""
    made = (part for attack in attacks for part in parts(attack, trial.subject.classes))
    return abreast(map(relentless, made), trial.batch)
