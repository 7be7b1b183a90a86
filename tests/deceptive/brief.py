"""A protocol of a second or two, and the examples that it is tried on."""

from torch import Tensor

import nofreelunch as nfl
from deceptive.honest import digits
from nofreelunch.attacks import APGD, PGD, EachTarget, Square
from nofreelunch.evaluation import Protocol

N = 40
EPS = 0.06
THREAT = nfl.Linf(EPS)
BRIEF = Protocol(
    "brief",
    first=("pgd-10", lambda threat: PGD(threat, steps=10)),
    main={
        "apgd-t": lambda threat: EachTarget(APGD(threat, steps=20, loss="dlr-targeted"), 4),
        "square": lambda threat: Square(threat, steps=100),
    },
    harder=lambda threat: APGD(threat, steps=30),
    sample=32,
    probing=12,
    thorough=8,
    longest=20,
)


def examples() -> tuple[Tensor, Tensor]:
    x, y = digits(train=False)
    return x[:N], y[:N]
