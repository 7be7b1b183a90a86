"""Lists of attacks with every number filled in, cheapest first."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from nofreelunch.attacks import APGD, FAB, PGD, Attack, EachTarget, Square, WorstOf
from nofreelunch.attacks.base import Iterative, check_attack
from nofreelunch.errors import InputError, check_known
from nofreelunch.evaluation.board import CHECKS, CLEAN
from nofreelunch.evaluation.foreign import checked
from nofreelunch.threats import Threat
from nofreelunch.workspace import digest, without_addresses

AttackRecipe = Callable[[Threat], Attack]
REMEDY = "remedy: "
"""So begin the names of steps in which a remedy was run."""
_OURS = re.compile(rf"within |{REMEDY}|square$|more steps|.*, (whole|again)$")
"""Names of steps that are not in the protocol."""


@dataclass(frozen=True)
class Protocol:
    """What is tried, and how hard.

    Args:
        name: stands in the result.
        first: the cheap attack after which the model's gradients are looked at.
        main: the attacks that all examples go through that still stand.
        harder: what must not break more: twice the steps of the strongest in `main` and more, and from the example
            itself as well where those start at random; noise on black is no place to see a gradient for some models.
        sample: examples that the checks look at; where nothing is odd, half as many: of 16, an attack that breaks a
            tenth of all examples breaks one in 4 of 5 cases.
        probing: steps of an attack in a check.
        thorough: steps of an attack that a check has found to be better than the model's own gradient.
        longest: steps of the attacks by the model's own gradient that settle whether another was better.
    """

    name: str
    first: tuple[str, AttackRecipe]
    main: dict[str, AttackRecipe]
    harder: AttackRecipe
    sample: int = 64
    probing: int = 20
    thorough: int = 40
    longest: int = 100

    @property
    def few(self) -> int:
        """Examples that the checks look at where nothing is odd."""
        return (self.sample + 1) // 2

    def identity(self, threat: Threat) -> str:
        """Its name, and a digest of all its numbers: the same in every process."""
        attacks = [recipe(threat) for recipe in (self.first[1], *self.main.values(), self.harder)]
        checks = (self.sample, self.probing, self.thorough, self.longest)
        return f"{self.name} {digest(without_addresses([attacks, checks]).encode())[:8]}"


PATIENCE, _REACH = 1.0, 1.1
"""Where examples are given up; what that may cost is looked at each time, on a few survivors."""

QUICK = Protocol(
    "quick",
    first=("pgd-10", lambda threat: PGD(threat, steps=10)),
    main={
        "apgd-ce": lambda threat: APGD(threat, steps=25, patience=PATIENCE),
        "apgd-t": lambda threat: EachTarget(APGD(threat, steps=25, loss="dlr-targeted", patience=PATIENCE), 4),
        "square": lambda threat: Square(threat, steps=400, patience=PATIENCE),
    },
    harder=lambda threat: WorstOf(
        (
            APGD(threat, patience=PATIENCE),
            EachTarget(APGD(threat, loss="dlr-targeted", random_start=False, patience=PATIENCE), 2),
        )
    ),
    sample=32,
    probing=12,
    thorough=20,
)
"""A minute: within a point of `STANDARD` on robust models."""

STANDARD = Protocol(
    "standard",
    first=("pgd-10", lambda threat: PGD(threat, steps=10)),
    main={
        "apgd-ce": lambda threat: APGD(threat, patience=PATIENCE),
        "apgd-t": lambda threat: EachTarget(APGD(threat, loss="dlr-targeted", patience=PATIENCE)),
        "fab-t": lambda threat: EachTarget(FAB(threat, reach=_REACH)),
        "square": lambda threat: Square(threat, patience=PATIENCE),
    },
    harder=lambda threat: WorstOf(
        (
            APGD(threat, steps=200, patience=PATIENCE),
            EachTarget(APGD(threat, steps=200, loss="dlr-targeted", random_start=False, patience=PATIENCE), 3),
        )
    ),
)
"""As strong as AutoAttack's standard version (Croce and Hein 2020): the same four attacks.

They are cut short where they get nowhere, and run whole if anything is odd about the model, or if that would have
broken one of a few survivors.
"""

PROTOCOLS = {plan.name: plan for plan in (QUICK, STANDARD)}


def plan_of(protocol: str | Protocol) -> Protocol:
    """The protocol of that name.

    Raises:
        InputError: if there is none.
    """
    if isinstance(protocol, Protocol):
        return protocol
    check_known("protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol]


def further(attacks: Mapping[str, Attack] | None, plan: Protocol) -> dict[str, Attack]:
    """The attacks that a caller adds to a protocol.

    Raises:
        InputError: if they are not attacks by name, or one has the name of a step of evaluate itself.
    """
    if attacks is not None and not (isinstance(attacks, Mapping) and all(isinstance(name, str) for name in attacks)):
        raise InputError(f'attacks must be attacks by name, such as {{"mine": PGD(threat)}}, got {attacks!r}')
    for name, attack in (attacks or {}).items():
        check_attack(attack)
        if name in (CLEAN, CHECKS, plan.first[0], *plan.main) or _OURS.match(name):
            raise InputError(f'"{name}" is a step of evaluate itself; give your attack another name')
    return {name: checked(name, attack) for name, attack in (attacks or {}).items()}


def parts(attack: Attack, classes: int) -> Iterator[Attack]:
    """The attacks that a compound one runs in turn: run one by one, each gets full batches of what is left."""
    if isinstance(attack, WorstOf):
        for part in attack.attacks:
            yield from parts(part, classes)
    elif isinstance(attack, EachTarget):
        yield from attack.parts(classes)
    else:
        yield attack


def relentless(attack: Attack) -> Attack:
    """The attack without giving up examples before its last step."""
    if isinstance(attack, FAB):
        return replace(attack, reach=None)
    return replace(attack, patience=None) if isinstance(attack, Iterative) else attack
