"""The sets an adversary may choose from, by the name of their norm."""

from nofreelunch.errors import parse_number, unknown
from nofreelunch.threats.base import Threat, check_threat, coordinates, expand
from nofreelunch.threats.l2 import L2
from nofreelunch.threats.linf import Linf

THREATS: dict[str, type[Threat]] = {"linf": Linf, "l2": L2}

__all__ = ["L2", "THREATS", "Linf", "Threat", "check_threat", "coordinates", "expand", "threat"]


def threat(norm: str | float, eps: str | float | int) -> Threat:
    """The threat of a norm and a radius as people write them, in the pixel box.

    Args:
        norm: "linf", "inf", "l_inf", "Linf", infinity; "l2", "2", "L2", "l_2", 2.
        eps: a number or a fraction, "8/255".

    Raises:
        InputError: if the norm is not known or the radius is not one.

    >>> threat("l_inf", "51/255")
    Linf(eps=0.2, box=(0.0, 1.0))
    """
    name = str(norm).lower().replace("_", "").removesuffix(".0")
    name = name if name.startswith("l") else f"l{name}"
    if name not in THREATS:
        raise unknown("norm", norm, THREATS)
    return THREATS[name](parse_number(eps))
