"""Units that images hardly move and the ball moves far, and what shows when they are moved.

Whatever a network makes of a pattern that images do not have, some unit has to see it first: a column of a linear
layer, a channel of a convolution. Such a unit is quiet on images, and loud under noise. What follows it may hide it
from every gradient of the scores (an activation of whatever kind, a product with another quiet unit); the slope of the
unit itself leads there, and the model's answers on the way tell whether anything comes of it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from nofreelunch.attacks.losses import misclassified
from nofreelunch.evaluation.remedies.bpda import bpda
from nofreelunch.evaluation.remedies.moved_units import Group, Moved
from nofreelunch.evaluation.remedies.sleeping_units import ACTIVATIONS, Reading, by_unit
from nofreelunch.evaluation.remedies.wrappers import BPDA
from nofreelunch.evaluation.subject import Subject
from nofreelunch.models.tracing import operation_name
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Labels

_LINEAR = {"linear": -1, "matmul": -1, "__matmul__": -1, "mm": -1, "addmm": -1, "bmm": -1, "conv1d": 1, "conv2d": 1,
           "conv3d": 1, "conv_transpose2d": 1}  # fmt: skip
"""Linear operations, and the dimension of their units."""
_QUIETEST, _TOGETHER, _FOUND = 40, 8, 8
"""So many of the quietest units are moved one by one, up to so many of a layer together; so many finds are kept."""
_SHOWING, _IMAGES, _MARKS = 32, 2, 8
"""Images that show how quiet a unit is; those from which it is tried what it does; places looked at on the way."""


class _Outputs(Reading):
    """Writes down what comes out of linear operations, (n, units): the largest of each channel, and minus the least.

    Args:
        rows: how many examples there are.
        classes: as many units are taken for the answer.
        straight: whether activations let everything through.
    """

    def __init__(self, rows: int, classes: int, straight: bool = False) -> None:
        super().__init__(rows, classes)
        self._straight = straight
        self.outputs: list[Tensor] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation."""
        name = operation_name(function)
        if self._straight and name in ACTIVATIONS:
            return args[0] * 1
        made = super().__torch_function__(function, types, args, kwargs)
        if name in _LINEAR and made.dim() > 1 and len(made) == self.rows and made.shape[_LINEAR[name]] != self.classes:
            values = by_unit(made, _LINEAR[name] % made.dim())
            self.outputs += [values.amax(2), -values.amin(2)]
        return made


def outputs(subject: Subject, x: Inputs, straight: bool = False) -> list[Tensor]:
    """What comes out of each linear operation, (n, units): how far each unit is up and, in a second layer, down."""
    mode = _Outputs(len(x), subject.classes, straight)
    with bpda(mode):
        subject.differentiable(x)
    return mode.outputs


def quiet(threat: Threat, subject: Subject, pool: Inputs, x: Inputs, y: Labels) -> tuple[Group, ...]:
    """The quiet units, and groups of them, that change a right answer somewhere when they are moved.

    Args:
        threat: the set.
        subject: the model.
        pool: images.
        x: images that the model is right about.
        y: their labels.
    """
    pool = pool[:: 1 + len(pool) // _SHOWING]
    groups: list[Group] = [
        ((layer + down, unit),) for layer, unit in _quietest(threat, subject, pool) for down in (0, 1)
    ]
    few = slice(None, None, 1 + len(x) // _IMAGES)
    attack = moving(threat, subject, (*groups, *_asleep(subject, pool)), 0)
    labels = y[few].repeat(_MARKS)
    leading = (
        group for group, points in attack.ways(x[few]) if misclassified(subject.logits(torch.cat(points)), labels).any()
    )
    return tuple(islice(leading, _FOUND))


def moving(threat: Threat, subject: Subject, groups: tuple[Group, ...], steps: int) -> Moved:
    """The attack that moves these groups, and then makes so many steps of PGD."""
    heights = partial(outputs, subject)
    return Moved(threat, steps, heights=heights, groups=groups, marks=_MARKS, surrogate=BPDA(subject))


@torch.no_grad()
def _quietest(threat: Threat, subject: Subject, pool: Inputs) -> list[tuple[int, int]]:
    """The units that noise moves the most, beside what they vary by from image to image.

    What moves nothing behind an activation that is off moves something where activations let everything through.
    """
    noise = threat.random_start(pool, Streams.numbered(0, len(pool), pool.device))
    ratios = dict[tuple[int, int], float]()
    for straight in (False, True):
        both = zip(outputs(subject, pool, straight), outputs(subject, noise, straight), strict=False)
        for layer, (still, moved) in enumerate(both):
            if layer % 2 == 0 and still.shape == moved.shape:
                loud = (moved - still).square().mean(0).sqrt() / still.std(0).clamp(min=torch.finfo(still.dtype).tiny)
                for unit, ratio in enumerate(loud.nan_to_num().tolist()):
                    ratios[layer, unit] = max(ratio, ratios.get((layer, unit), 0.0))
    ranked = sorted((unit for unit, ratio in ratios.items() if ratio > 0), key=ratios.__getitem__, reverse=True)
    return ranked[:_QUIETEST]


@torch.no_grad()
def _asleep(subject: Subject, pool: Inputs) -> Iterator[Group]:
    """In each layer the units that are below 0 on all images, those the farthest below first: two, three and more."""
    for layer, highest in list(enumerate(outputs(subject, pool)))[::2]:
        depth = -highest.mean(0) / highest.std(0).clamp(min=torch.finfo(highest.dtype).tiny)
        asleep = (highest.amax(0) < 0).nonzero().squeeze(1)
        first = asleep[depth[asleep].argsort(descending=True)][:_TOGETHER].tolist()
        for count in range(2, len(first) + 1):
            yield tuple((layer, unit) for unit in first[:count])
