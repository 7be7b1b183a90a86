"""What a run will take: counted from its settings where that is possible, measured on a few steps where it is not."""

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from nofreelunch.attacks import ATTACKS, PGD
from nofreelunch.data import Dataset
from nofreelunch.rng import Streams
from nofreelunch.threats import Linf
from nofreelunch.training.config import TrainConfig
from nofreelunch.training.learner import Learner
from nofreelunch.training.loop import SELECTION_ATTACK, Loop
from nofreelunch.training.recipes import InnerProblem
from nofreelunch.training.size import folder_bytes
from nofreelunch.training.train import fresh_loop

_COUNTED = 16
_MOST_TIMED, _ENOUGH_SECONDS = 5, 3.0  # steps, after a first one that is slower; fewer where they take so long


@dataclass(frozen=True)
class Cost:
    """What a training run takes.

    Attributes:
        examples: trained on over all steps, repeats counted.
        steps: updates of the weights.
        forward_backward_passes: of one image through the network and back, in attacks, updates and looks at held-out
            images; of these, the most there can be.
        seconds: of the whole run on these devices, at the pace of a few steps made here and thrown away.
        bytes_per_batch: memory that a process needs at the peak of a step: weights, gradients, optimiser and what the
            forward pass keeps for its backward pass.
        bytes_on_disk: what the run's folder holds at the end, its log apart: two states and the model.
    """

    examples: int
    steps: int
    forward_backward_passes: int
    seconds: float
    bytes_per_batch: int
    bytes_on_disk: int


def estimate(data: Dataset, config: TrainConfig, device: str = "auto") -> Cost:
    """What `train(data, config, device=device)` takes; nothing is written.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:1". Under `torchrun` or SLURM each process calls this.

    Raises:
        InputError: if config and data do not go together, or there is no such device.
        RunError: if the loss is not a number.
    """
    loop = fresh_loop(data, config, device)
    memory = _memory_of_a_step(loop)
    per_step = config.batch_size * passes_per_image(data, config)
    passes = round(loop.steps * per_step) + _passes_of_looks(loop)
    return Cost(
        examples=loop.steps * config.batch_size,
        steps=loop.steps,
        forward_backward_passes=passes,
        seconds=passes / per_step * _seconds_of_a_step(loop),
        bytes_per_batch=memory,
        bytes_on_disk=folder_bytes(config, loop.learner),
    )


def passes_per_image(data: Dataset, config: TrainConfig) -> float:
    """How often a step sends an image through the network and back, on average: counted on a stand-in for it."""
    slopes = torch.linspace(0, 1, len(data.classes))
    count = 0

    def stand_in(z: Tensor) -> Tensor:
        nonlocal count
        count += len(z) * torch.is_grad_enabled()
        return z.flatten(1).mean(1, keepdim=True) * slopes

    index = torch.arange(_COUNTED) % len(data.train)
    x, y = data.train.images(index), data.train.targets[index]
    attack = config.attack_on(config.threat or Linf(0.0))
    problem = InnerProblem(stand_in, attack, x, y, Streams.for_examples(config.seed, index), torch.zeros_like(x))
    z, rows = config.method.examples(problem)
    config.method.loss(stand_in, problem if rows is None else problem.some(rows), z)
    return count / _COUNTED


def _passes_of_looks(loop: Loop) -> int:
    """Through the network and back, at most: an attack leaves alone what is misclassified."""
    threat = loop.config.threat
    if threat is None:
        return 0
    attack = ATTACKS[SELECTION_ATTACK](threat)
    assert isinstance(attack, PGD)
    return math.ceil(loop.config.epochs) * len(loop.held_out) * attack.steps


def _memory_of_a_step(loop: Loop) -> int:
    """Bytes at the peak of the first step: told by the allocator on a GPU, counted on a CPU."""
    learner, device = loop.learner, loop.devices.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        loop.update()
        return int(torch.cuda.max_memory_allocated(device))
    with _kept_for_backward() as kept:
        loop.update()
    gradients = sum(weight.nbytes for weight in learner.model.parameters())
    return _size(learner) + gradients + max(kept)


def _seconds_of_a_step(loop: Loop) -> float:
    """The median time of a few steps."""
    times: list[float] = []
    while len(times) < _MOST_TIMED and sum(times) < _ENOUGH_SECONDS:
        start = time.perf_counter()
        loop.update()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _size(learner: Learner) -> int:
    """Bytes of all tensors of a learner's state."""
    return sum(value.nbytes for value in learner.state().tensors.values())


@contextmanager
def _kept_for_backward() -> Iterator[list[int]]:
    """Bytes that each forward pass within the block has kept for its backward pass, as they grow."""
    sizes, kept, going_back = [0], dict[int, int](), False

    def pack(value: Tensor) -> Tensor:
        nonlocal going_back
        if going_back:
            kept.clear()
            going_back = False
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        sizes.append(sum(kept.values()))
        return value

    def unpack(value: Tensor) -> Tensor:
        nonlocal going_back
        going_back = True
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield sizes
