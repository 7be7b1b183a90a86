"""Attacks with every number filled in, under names that may stand in a table."""

from collections.abc import Callable
from functools import partial

from nofreelunch.attacks.apgd import APGD
from nofreelunch.attacks.base import Attack
from nofreelunch.attacks.fab import FAB
from nofreelunch.attacks.pgd import PGD, fgsm
from nofreelunch.attacks.square import Square
from nofreelunch.attacks.targets import EachTarget
from nofreelunch.attacks.worst_of import WorstOf, restarts
from nofreelunch.errors import check_known
from nofreelunch.threats import Threat, check_threat


def pgd_40(threat: Threat) -> PGD:
    """40 steps; for l_inf of eps / 30, at eps = 0.3 the 0.01 of the paper's MNIST models.

    Elsewhere steps have the usual length: 40 of eps / 30 do not cross an l_2 ball from a random point near its rim.
    """
    return PGD(threat, steps=40, step_size=threat.eps / 30 if threat.norm == "linf" else None)


def apgd_t(threat: Threat) -> EachTarget:
    """APGD on the targeted DLR loss, towards the 9 best wrong classes."""
    return EachTarget(APGD(threat, loss="dlr-targeted"))


def fab_t(threat: Threat) -> EachTarget:
    """FAB towards the 9 best wrong classes."""
    return EachTarget(FAB(threat))


def standard(threat: Threat) -> WorstOf:
    """The four attacks of AutoAttack's standard version (Croce and Hein 2020), each on what those before it left."""
    return WorstOf((APGD(threat), apgd_t(threat), fab_t(threat), Square(threat)))


ATTACKS: dict[str, Callable[[Threat], Attack]] = {
    "fgsm": fgsm,
    **{f"pgd-{steps}": partial(PGD, steps=steps) for steps in (3, 5, 7, 8, 10, 100)},
    "pgd-40": pgd_40,
    "pgd-100-restarts-10": lambda threat: restarts(PGD(threat, steps=100), 10),
    "apgd-ce": APGD,
    "apgd-dlr": lambda threat: APGD(threat, loss="dlr"),
    "apgd-t": apgd_t,
    "fab-t": fab_t,
    "square": Square,
    "standard": standard,
}


def attack(name: str, threat: Threat) -> Attack:
    """The recipe of that name for a threat.

    Raises:
        InputError: if there is none.
    """
    check_known("attack", name, ATTACKS)
    return ATTACKS[name](check_threat(threat))
