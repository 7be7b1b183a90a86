"""What Figure 2 and Table 4 share: two classes of a data set, flattened, and what is measured of a classifier."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from nofreelunch.data import Split, load_data
from nofreelunch.experiments.paper_values import TABLE_2_EPS
from nofreelunch.training.linear import LinearFit
from nofreelunch.workspace import Workspace

EPS = TABLE_2_EPS["mnist-5v7", "linf"]
CLASSES = ("5", "7")
BOX = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """What the configs of both say.

    Args:
        data: as `load_data` takes it.
        classes: two of its classes.
        eps: of the adversary.
        seed: of all descents.
        epochs: of each.
        examples: cuts both splits short; None: all.
    """

    data: str = "mnist"
    classes: tuple[str, str] = CLASSES
    eps: float = EPS
    seed: int = 0
    epochs: int = 100
    examples: int | None = None

    @property
    def title(self) -> str:
        """Data set and classes, for titles."""
        return f"{self.data}, {self.classes[0]} v {self.classes[1]}"

    @property
    def as_in_paper(self) -> bool:
        """Whether this is the paper's own setting: digits 5 v 7 at eps = 0.2."""
        return self.data in {"mnist", "mnist-5v7"} and tuple(self.classes) == CLASSES and self.eps == EPS


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


def load_pair(choice: LinearConfig, workspace: Workspace) -> Pair:
    """The examples of the two classes.

    Raises:
        InputError: if there is no such data set or class.
    """
    pair = load_data(choice.data, root=workspace.data_root).pair(*choice.classes)
    splits = (pair.for_training(), pair.test)
    train, test = (split.take(min(choice.examples or len(split), len(split))) for split in splits)
    return Pair(*_flat(train), *_flat(test), tuple(train.x.shape[1:]))


def inputs(choice: LinearConfig, workspace: Workspace) -> dict[str, str]:
    """The digest of the data: what either depends on besides its config.

    Raises:
        InputError: if there is no such data set or class.
    """
    data = load_data(choice.data, root=workspace.data_root)
    data.pair(*choice.classes).for_training()
    return {choice.data: data.digest}


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


def _flat(split: Split) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, " n"]]:
    return split.images().flatten(1).double().numpy(), split.y.double().numpy()
