"""Attacks: callables `attack(model, x, y, rng) -> x_adv`, and recipes for them by name."""

from nofreelunch.attacks.apgd import APGD
from nofreelunch.attacks.base import Attack
from nofreelunch.attacks.fab import FAB
from nofreelunch.attacks.gradient import loss_gradient
from nofreelunch.attacks.linear import ExactLinear
from nofreelunch.attacks.losses import LOSSES, margin, misclassified
from nofreelunch.attacks.pgd import PGD, fgsm
from nofreelunch.attacks.recipes import ATTACKS, attack
from nofreelunch.attacks.square import Square
from nofreelunch.attacks.targets import EachTarget, targeted
from nofreelunch.attacks.worst_of import WorstOf, restarts

__all__ = [
    "APGD",
    "ATTACKS",
    "FAB",
    "LOSSES",
    "PGD",
    "Attack",
    "EachTarget",
    "ExactLinear",
    "Square",
    "WorstOf",
    "attack",
    "fgsm",
    "loss_gradient",
    "margin",
    "misclassified",
    "restarts",
    "targeted",
]
