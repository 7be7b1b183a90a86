"""What a visitor can ask about the package's models, and what is asked."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nofreelunch.data import Dataset, load_data, present
from nofreelunch.experiments.deep import PIXEL_SCALE
from nofreelunch.models import load_model, zoo_card, zoo_names


@dataclass(frozen=True)
class Place:
    """Where the work is done.

    Args:
        device: where models run.
        data_root: folder of data sets that are not in the package, or None.
    """

    device: str = "cpu"
    data_root: Path | None = None


@dataclass(frozen=True)
class Question:
    """A model of the package, test images, and a ball around each of them.

    Args:
        model: its name, without "zoo:".
        data: name of the data set.
        norm: of the ball.
        eps: its radius as people write it, such as "32/255".
        n: number of test images.
        seed: of all that is random.
    """

    model: str
    data: str
    norm: str
    eps: str
    n: int
    seed: int

    def asked(self, place: Place) -> tuple[nn.Module, Dataset]:
        """The model and the data set.

        Raises:
            InputError: if one of them is not known, or not on this machine.
        """
        return load_model(f"zoo:{self.model}"), load_data(self.data, place.data_root)

    def command(self, name: str, place: Place, *options: str) -> str:
        """The command that gives the same at a terminal."""
        root = [] if place.data_root is None else [f"--data-root={place.data_root}"]
        words = ["nofreelunch", name, f"zoo:{self.model}", "--data", self.data, "--threat", self.norm]
        return shlex.join([*words, "--eps", self.eps, "--n", str(self.n), "--seed", str(self.seed), *options, *root])


@dataclass(frozen=True)
class Radii:
    """The radii to choose from, in the unit of the paper's tables.

    Attributes:
        paper: the paper's own.
        step: between two of them.
        scale: the unit is one of so many parts of a pixel's range.
    """

    paper: float
    step: float
    scale: int

    def eps(self, value: float) -> str:
        """The radius for which a slider stands there, as people write it."""
        return f"{value:g}" if self.scale == 1 else f"{value:g}/{self.scale}"


def radii(table: Mapping[tuple[str, str], float], data: str, norm: str) -> Radii:
    """The radii around that of one of the paper's tables."""
    name = data.removesuffix("-sample")
    scale = PIXEL_SCALE.get(name, 1)
    paper = round(scale * table[name, norm], 6)
    step = 10.0 ** (math.floor(math.log10(paper)) - 1)
    return Radii(paper, step if scale == 1 else max(1.0, step), scale)


def datasets(place: Place) -> dict[str, tuple[str, ...]]:
    """For each model of the package the data sets on this machine that hold its images.

    Raises:
        InputError: if the folder of data sets does not exist.
    """
    here = present(place.data_root)
    trained_on = {name: zoo_card(name).data for name in zoo_names()}
    return {name: tuple(each for each in (data, f"{data}-sample") if each in here) for name, data in trained_on.items()}
