"""What a run tells: values, for whoever shows or keeps them.

They hold no times: a resumed run tells what an uninterrupted one does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias


@dataclass(frozen=True)
class Started:
    """The run begins, or goes on: what it will take."""

    event: ClassVar[str] = "started"
    step: int
    """Steps done before, 0 at a fresh start."""
    steps: int
    """Of the whole run."""
    epochs: float
    images: int
    """Trained on."""
    batch_size: int
    held_out: int
    """Training images kept back to choose the epoch by."""
    weights: int
    deterministic: bool
    """Whether a resumed run equals an uninterrupted one bit for bit: on CPUs, and with deterministic algorithms."""
    eps: float
    """Of the threat at its full size; 0 where training is standard."""


@dataclass(frozen=True)
class Step:
    """One update of the weights."""

    event: ClassVar[str] = "step"
    step: int
    """Updates done, this one included."""
    epoch: float
    """Epochs done."""
    loss: float
    accuracy: float
    """On this batch, under the training attack, before the update."""
    lr: float
    eps: float


@dataclass(frozen=True)
class Epoch:
    """Accuracies on the held-out training images."""

    event: ClassVar[str] = "epoch"
    step: int
    epoch: float
    clean: float
    """Accuracy on them."""
    robust: float
    """Accuracy under the selection attack at the full eps; the clean one where there is no threat."""
    held_out: int
    train_accuracy: float
    """Running average of the training batches' accuracy under the training attack."""

    @property
    def score(self) -> tuple[float, float]:
        """What the best epoch has most of: robust accuracy, then clean accuracy."""
        return self.robust, self.clean


@dataclass(frozen=True)
class Notice:
    """Something that the user must know; the run goes on."""

    event: ClassVar[str] = "notice"
    step: int
    message: str


@dataclass(frozen=True)
class Finished:
    """The run is over."""

    event: ClassVar[str] = "finished"
    step: int
    chosen: Epoch | None
    """The epoch whose weights the model has; None for the last weights, where nothing was held out."""


Event: TypeAlias = Started | Step | Epoch | Notice | Finished
Report: TypeAlias = Callable[[Event], None]


def silent(event: Event) -> None:
    """A report that says nothing."""
