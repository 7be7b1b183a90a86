"""The sets an adversary may choose from, by the name of their norm."""

from nofreelunch.errors import InputError, parse_number, unknown
from nofreelunch.threats.base import (
    Box,
    Threat,
    check_box,
    check_box_of_images,
    check_threat,
    coordinates,
    expand,
    format_radius,
)
from nofreelunch.threats.l2 import L2
from nofreelunch.threats.linf import Linf

THREATS: dict[str, type[Threat]] = {"linf": Linf, "l2": L2}

__all__ = [
    "L2", "THREATS", "Box", "Linf", "Threat", "check_box", "check_box_of_images", "check_threat", "coordinates",
    "expand", "format_radius", "from_plain", "threat",
]  # fmt: skip


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
    name = str(norm).lower()
    if name not in THREATS:
        name = "l" + name.replace("_", "").removesuffix(".0").removeprefix("l")
    if name not in THREATS:
        raise unknown("norm", norm, THREATS)
    return THREATS[name](parse_number(eps))


def from_plain(values: object) -> Threat:
    """The threat that `Threat.to_plain` wrote; without a box, one in the pixel box.

    Raises:
        InputError: if it is none.
    """
    if not isinstance(values, dict) or values.get("norm") not in [*THREATS] or "eps" not in values:
        raise InputError(f"threat must have a norm of {', '.join(THREATS)}, and eps, got {values!r}")
    box = values.get("box", (0.0, 1.0))
    return THREATS[values["norm"]](values["eps"], tuple(box) if isinstance(box, list) else box)
