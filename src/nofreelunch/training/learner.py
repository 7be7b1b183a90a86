"""What a run changes, and nothing else: everything that a resumed run must find again."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nofreelunch.errors import InputError
from nofreelunch.models import Classifier
from nofreelunch.training.average import update_average
from nofreelunch.training.events import Epoch
from nofreelunch.training.state import State

_TRAIN_ACCURACY_DECAY = 0.9


@dataclass
class Learner:
    """A model in training.

    Args:
        model: whose weights are updated.
        optimiser: of its parameters.
        average: the running average of its weights, or None.
        delta: what the recipe carries from step to step; None if it carries nothing.
        step: updates done.
        train_accuracy: running average of the batches' accuracy under the training attack.
        history: the validations so far.
        best: the weights that the best of them was of; empty before the first.
    """

    model: Classifier
    optimiser: torch.optim.Optimizer
    average: Classifier | None = None
    delta: Tensor | None = None
    step: int = 0
    train_accuracy: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def result(self) -> Classifier:
        """The model as it would be returned now."""
        return self.model if self.average is None else self.average

    @property
    def chosen(self) -> Epoch | None:
        """The epoch with the highest robust accuracy, then clean accuracy; the earliest of equals."""
        return max(self.history, key=lambda epoch: epoch.score, default=None)

    def updated(self, decay: float, accuracy: float) -> None:
        """Count an update of the weights; `decay` is that of their average."""
        if self.average is not None:
            update_average(self.average, self.model, decay, self.step)
        share = _TRAIN_ACCURACY_DECAY if self.step else 0.0
        self.train_accuracy = share * self.train_accuracy + (1 - share) * accuracy
        self.step += 1

    def record_validation(self, epoch: Epoch) -> None:
        """Keep what an epoch showed, and its weights if it is the best so far."""
        self.history.append(epoch)
        if self.chosen is epoch:
            self.best = {name: value.clone() for name, value in self.result.state_dict().items()}

    def is_finite(self) -> bool:
        """Whether every weight is a number."""
        return all(bool(value.isfinite().all()) for value in self.model.state_dict().values())

    def state(self) -> State:
        """A snapshot; `restore` goes back to it."""
        about = {
            "step": self.step,
            "train_accuracy": self.train_accuracy,
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
        }
        return State(about, dict(self._tensors()))

    def restore(self, state: State) -> None:
        """Go back to a snapshot of a run with the same config.

        Raises:
            InputError: if it holds other tensors than this learner has.
        """
        self._prepare(state)
        there = dict(self._tensors())
        for name in sorted(there.keys() | state.tensors.keys()):
            shapes = [tuple(tensors[name].shape) if name in tensors else None for tensors in (state.tensors, there)]
            if shapes[0] != shapes[1]:
                raise InputError(f'the saved state does not fit: "{name}" has shape {shapes[0]}, expected {shapes[1]}')
        with torch.no_grad():
            for name, value in there.items():
                value.copy_(state.tensors[name])
        self.step, self.train_accuracy = state.about["step"], state.about["train_accuracy"]
        self.history = [Epoch(**values) for values in state.about["history"]]

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors by name; copying into them changes the learner."""
        yield from _prefixed("model", self.model.state_dict())
        yield from _prefixed("best", self.best)
        if self.average is not None:
            yield from _prefixed("average", self.average.state_dict())
        if self.delta is not None:
            yield "delta", self.delta
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for parameter, memory in self.optimiser.state.items():
            yield from _prefixed(f"optimiser.{names[id(parameter)]}", memory)

    def _prepare(self, state: State) -> None:
        """Make the tensors that exist only after some steps: the optimiser's memory and the best weights."""
        if any(name.startswith("best.") for name in state.tensors):
            self.best = {name: value.clone() for name, value in self.result.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            prefix = f"optimiser.{name}."
            for full, value in state.tensors.items():
                if full.startswith(prefix):
                    key = full.removeprefix(prefix)
                    same = value.shape == parameter.shape  # fused optimisers want the parameter's memory layout
                    fresh = torch.zeros_like(parameter) if same else value.to(parameter.device, copy=True)
                    self.optimiser.state[parameter][key] = fresh


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((f"{prefix}.{name}", value) for name, value in tensors.items())
