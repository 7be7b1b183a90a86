"""What Figure 2 and Table 4 share: two classes of a data set, flattened, and what is measured of a classifier."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from nofreelunch.data import Split, load_data
from nofreelunch.experiments.paper_values import TABLE_2_EPS
from nofreelunch.training.linear import LinearFit
from nofreelunch.workspace import Workspace

EPS = TABLE_2_EPS["mnist-5v7", "linf"]
CLASSES = ("5", "7")
BOX = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Pair:
    """The examples of two classes: y = -1 for the first, +1 for the second."""

    x: Float64[np.ndarray, "n d"]
    y: Float64[np.ndarray, " n"]
    x_test: Float64[np.ndarray, "m d"]
    y_test: Float64[np.ndarray, " m"]
    shape: tuple[int, ...]

    def only(self, pixels: Int64[np.ndarray, " k"]) -> "Pair":
        """The same examples with some of their (flat) pixels."""
        return Pair(self.x[:, pixels], self.y, self.x_test[:, pixels], self.y_test, (len(pixels),))


def load_pair(data: str, classes: tuple[str, str], examples: int | None, workspace: Workspace) -> Pair:
    """Two classes of a data set: all their examples, or the first `examples` of each split.

    Raises:
        InputError: if there is no such data set or class.
    """
    pair = load_data(data, root=workspace.data_root).pair(*classes)
    train, test = (split.take(min(examples or len(split), len(split))) for split in (pair.train, pair.test))
    return Pair(*_flat(train), *_flat(test), tuple(train.x.shape[1:]))


@runtime_checkable
class Choice(Protocol):
    """What the config of either says of its data."""

    @property
    def data(self) -> str:
        """As `load_data` takes it."""


def inputs(choice: Choice, workspace: Workspace) -> dict[str, str]:
    """The digest of the data: what either depends on besides its config."""
    return {choice.data: load_data(choice.data, root=workspace.data_root).digest}


def measures(fit: LinearFit, pair: Pair, eps: float) -> dict[str, float]:
    """Accuracies against the exact adversaries (in the pixel box, and free of it), size, distance from the optimum."""
    train, test = (pair.x, pair.y), (pair.x_test, pair.y_test)
    return {
        "clean_train": fit.clean_accuracy(*train),
        "clean_test": fit.clean_accuracy(*test),
        "robust_train": fit.robust_accuracy(*train, eps, BOX),
        "robust_test": fit.robust_accuracy(*test, eps, BOX),
        "free_train": fit.robust_accuracy(*train, eps, None),
        "free_test": fit.robust_accuracy(*test, eps, None),
        "l1_norm": fit.l1_norm,
        "pixels": float(len(fit.pixels)),
        "objective": fit.objective,
        "residual": fit.residual,
    }


def as_in_paper(data: str, classes: tuple[str, str], eps: float) -> bool:
    """Whether this is the paper's own setting: digits 5 v 7 at eps = 0.2."""
    return data in {"mnist", "mnist-5v7"} and tuple(classes) == CLASSES and eps == EPS


def _flat(split: Split) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, " n"]]:
    return split.images().flatten(1).double().numpy(), split.y.double().numpy()
