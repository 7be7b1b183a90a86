"""What a sweep will take: each kind of training is probed once, and counted as often as it is to be run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nofreelunch.sweep.work import Task, load
from nofreelunch.training.cost import Cost, estimate
from nofreelunch.training.devices import Devices
from nofreelunch.training.progress import duration, size
from nofreelunch.training.train import fresh_learner
from nofreelunch.workspace import plain, to_json

_FREE = ("seed", "lr", "weight_decay", "step_size", "eps_warmup")  # settings that change no cost


@dataclass(frozen=True)
class Kind:
    """Trainings that take the same.

    Args:
        label: of one of them.
        count: how many of them are still to be run.
        cost: of each.
    """

    label: str
    count: int
    cost: Cost


def check(tasks: Sequence[Task]) -> None:
    """Make sure that each training suits its data, and that there are as many test images as are to be looked at.

    Raises:
        InputError: if not.
    """
    one_of_each = {(task.source, replace(task.point.config, seed=0)): task for task in tasks}
    for (source, config), task in one_of_each.items():
        data = load(source, task.data_root)
        data.test.take(task.point.exam.n)
        fresh_learner(data, config, Devices("cpu", config.precision))


def forecast(labels: Mapping[Task, str]) -> tuple[Kind, ...]:
    """The kinds of trainings that are not finished, each with its cost on this machine."""
    alike: dict[bytes, list[Task]] = {}
    for task in (task for task in labels if not task.trained):
        alike.setdefault(_key(task), []).append(task)
    return tuple(Kind(labels[tasks[0]], len(tasks), _cost(tasks[0])) for tasks in alike.values())


def _cost(task: Task) -> Cost:
    return estimate(load(task.source, task.data_root), task.point.config, task.device)


def forecast_text(labels: Mapping[Task, str]) -> str:
    """The forecast as a table, and what all of it comes to."""
    kinds = forecast(labels)
    lines = [
        f"{kind.count} x {kind.label}: {kind.cost.steps} steps of {kind.cost.examples // kind.cost.steps} images, "
        f"{kind.cost.forward_backward_passes:.3g} forward and backward passes, {duration(kind.cost.seconds)}, "
        f"{size(kind.cost.bytes_per_batch)} of memory, {size(kind.cost.bytes_on_disk)} on disk each"
        for kind in kinds
    ]
    count = sum(kind.count for kind in kinds)
    seconds = sum(kind.count * kind.cost.seconds for kind in kinds)
    disk = sum(kind.count * kind.cost.bytes_on_disk for kind in kinds)
    total = f"{len(labels)} points, {count} to be trained: {duration(seconds)} one after the other on this machine"
    return "\n".join([*lines, f"{total}, {size(disk)} on disk; examinations come on top"])


def _key(task: Task) -> bytes:
    """Equal for trainings that take the same time, memory and disk."""
    config = task.point.config
    kept = {name: value for name, value in plain(config).items() if name not in _FREE}
    return to_json(kept | {"threat": config.threat is not None, "data": task.point.data})
