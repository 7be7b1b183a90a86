"""What the results of figures of pictures have in common; pictures of several sizes are kept in one array."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from nofreelunch.experiments.deep import ROLES, DeepConfig, Exhibit, exhibits, samples
from nofreelunch.experiments.estimates import ByRole, Estimate, Estimates
from nofreelunch.experiments.image_grid import Pictures
from nofreelunch.workspace import Workspace

T = TypeVar("T")

Shapes = dict[str, tuple[int, ...]]

NOTHING = "No picture: none of the models is there."
"""The figure in words where it shows nothing."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures and measures.

    Attributes:
        roles: data set -> the models shown, in the order of the rows.
        pictures: of all data sets, packed with `shapes`.
        estimates: data set -> role -> measure -> estimate.
        missing: models and images that are not there.
        samples: data sets of which only a sample was there; these were used.
    """

    roles: dict[str, tuple[str, ...]]
    shapes: Shapes
    pictures: np.ndarray
    estimates: Estimates
    missing: tuple[str, ...]
    samples: tuple[str, ...]


def collected(
    choice: DeepConfig,
    workspace: Workspace,
    make: Callable[[Exhibit], tuple[Pictures, ByRole, T]],
) -> tuple[dict[str, Any], dict[str, T]]:
    """What is made of each data set that can be shown: the fields of a `Gallery`, and the rest by data set.

    Args:
        make: pictures, estimates by role and measure, and anything else.
    """
    shown, missing = exhibits(choice, workspace)
    made = {exhibit.name: make(exhibit) for exhibit in shown}
    pictures, shapes = packed({name: each[0] for name, each in made.items()})
    fields = {
        "roles": {exhibit.name: tuple(exhibit.models) for exhibit in shown},
        "shapes": shapes,
        "pictures": pictures,
        "estimates": {name: each[1] for name, each in made.items()},
        "missing": missing,
        "samples": samples(exhibit.data for exhibit in shown),
    }
    return fields, {name: each[2] for name, each in made.items()}


def beside_standard(
    estimates: Mapping[str, Mapping[str, Estimate]], role: str, measure: str
) -> Iterator[tuple[str, Estimate, Estimate]]:
    """Each judge that saw both what a robust model made and what the standard one did, with the measure of both."""
    ours, standard = estimates[role], estimates["standard"]
    for judge in ROLES:
        key = f"{measure} {judge}"
        if key in ours and key in standard:
            yield judge, ours[key], standard[key]


def packed(pictures: Mapping[str, Pictures]) -> tuple[np.ndarray, Shapes]:
    """All pictures as one array of bytes, by name, and the shape of each."""
    order = sorted(pictures)
    flat = [np.zeros(0, np.uint8), *(pictures[name].ravel() for name in order)]
    return np.concatenate(flat), {name: pictures[name].shape for name in order}


def unpacked(content: np.ndarray, shapes: Shapes) -> dict[str, Pictures]:
    """The pictures that were packed."""
    order = sorted(shapes)
    ends = np.cumsum([int(np.prod(shapes[name])) for name in order])
    return {
        name: part.reshape(shapes[name])
        for name, part in zip(order, np.split(content, ends)[: len(order)], strict=True)
    }
