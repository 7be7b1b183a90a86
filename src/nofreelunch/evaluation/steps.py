"""One step of an evaluation: the attacks of a recipe, under its name, on all that stands.

Each step leaves an outcome in the journal, which a resumed run takes over.
"""

from collections.abc import Iterator

from nofreelunch.attacks import Attack
from nofreelunch.evaluation.protocols import Recipe, numbered, relentless
from nofreelunch.evaluation.trial import Trial


def run(trial: Trial, phase: str, step: tuple[str, Recipe], classes: int) -> None:
    """One attack, under its name, part by part."""
    name, recipe = step

    def work() -> None:
        for number, part in parts_for(trial, recipe, classes):
            trial.attack(name, part, number)

    trial.journal.once(key(phase, name), work)


def key(phase: str, name: str) -> str:
    """Under which the journal knows a step."""
    return f"{phase}: {name}"


def parts_for(trial: Trial, recipe: Recipe, classes: int) -> Iterator[tuple[str, Attack]]:
    """What a recipe runs; where anything is odd about the model, no example is given up."""
    yield from whole_parts(trial, recipe, classes) if trial.suspicious else numbered(recipe(trial.threat), classes)


def whole_parts(trial: Trial, recipe: Recipe, classes: int) -> Iterator[tuple[str, Attack]]:
    """What a recipe runs, with no example given up."""
    for number, part in numbered(recipe(trial.threat), classes):
        yield number, relentless(part)
