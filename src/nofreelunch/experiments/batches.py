"""Which images a figure is made of, and how many of them are worked on at a time."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nofreelunch.attacks.door import attacking
from nofreelunch.data import Dataset
from nofreelunch.features import large_eps_examples
from nofreelunch.models import fast
from nofreelunch.threats import Threat
from nofreelunch.types import Images, Labels, Logits, Model

_BATCH, _VALUES = 256, 2**21  # images worked on at a time, and pixels' values in them, at most


def balanced(targets: Labels, n: int, seed: int) -> Tensor:
    """Indices of n examples: the classes in turn, in random order, each with random examples, until all have had n / K.

    The first K indices thus show every class once. Classes that run out are passed over.
    """
    rng = torch.Generator().manual_seed(seed)
    classes = torch.unique(targets)
    classes = classes[torch.randperm(len(classes), generator=rng)].tolist()
    shuffled = torch.randperm(len(targets), generator=rng)
    columns = [shuffled[targets[shuffled] == k].tolist() for k in classes]
    turns = [column[turn] for turn in range(max(map(len, columns))) for column in columns if turn < len(column)]
    return torch.tensor(turns[:n])


def chosen_images(data: Dataset, n: int, seed: int, device: str) -> tuple[Images, Labels]:
    """n test images (all, if there are fewer) and their classes, as `balanced` chooses them."""
    index = balanced(data.test.targets, n, seed)
    return data.test.images(index).to(device), data.test.targets[index].to(device)


def at_a_time(images: Tensor) -> int:
    """How many images like these are worked on at a time: memory grows neither with their number nor their size."""
    return min(_BATCH, max(1, _VALUES // images[0].numel()))


def batched(make: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """`make(*rows)`, some rows at a time; the first tensor is the images."""
    size = at_a_time(rows[0])
    return torch.cat([make(*batch) for batch in zip(*(torch.split(each, size) for each in rows), strict=True)])


def far_examples(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """The large-eps adversarial examples of a model."""
    quick = fast(model)
    return batched(lambda x, y: large_eps_examples(quick, x, y, threat), x, y)


def logits_of(model: Model, x: Images) -> Logits:
    """The model's logits in evaluation mode, in at least float32, a batch at a time."""
    with attacking(model, x.device) as precise, torch.no_grad():
        return batched(precise, x)
