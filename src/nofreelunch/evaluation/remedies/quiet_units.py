"""Units that images hardly move and the ball moves far, and what shows when they are moved.

Whatever a network makes of a pattern that images do not have, some unit has to see it first: a column of a linear
layer, a channel of a convolution, whatever it is computed by. Such a unit is quiet on images, and loud under noise.
What follows it may hide it from every gradient of the scores (an activation of whatever kind, a product with another
quiet unit); the slope of the unit itself leads there, and the model's answers on the way tell whether anything comes of
it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nofreelunch.attacks.losses import misclassified
from nofreelunch.evaluation.remedies.bpda import Smooth, bpda
from nofreelunch.evaluation.remedies.moved_units import Group, Moved, Unit
from nofreelunch.evaluation.remedies.sleeping_units import ACTIVATIONS
from nofreelunch.evaluation.remedies.wrappers import BPDA
from nofreelunch.evaluation.subject import Subject
from nofreelunch.models.tracing import operation_name
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Labels

_SHOWING, _IMAGES, _MARKS = 32, 2, 5
"""Images that show how quiet a unit is; those from which it is tried what it does; places looked at on the way."""
_OF_ALL, _BY_LAYER, _IN_LAYER = 40, 24, 32
"""So many of the quietest units are moved one by one; so many besides, the quietest of each layer in turn."""
_TOGETHER, _LAYERS, _FOUND = (2, 3, 4, 8), 8, 8
"""So many of a layer are moved together, in so many layers; so many finds are kept."""
_WIDEST, _TO_ASK = 4096, 256
"""Units of a layer, and points that the model is asked about together, at most."""
_ALIKE = 0.99
"""The correlation from which on two units are one."""


class _Layer(NamedTuple):
    """What one of the model's operations makes: along which dimension the examples lie, and how many parts of each."""

    operation: int
    dim: int
    parts: int


class _Reading(Smooth):
    """Keeps what operations make, by their numbers.

    Args:
        keep: makes of an operation's number and what it has made what is kept, or None.
        straight: whether activations let everything through.
    """

    def __init__(self, keep: Callable[[int, Tensor], Any], straight: bool = False) -> None:
        super().__init__()
        self._keep, self._straight, self._count = keep, straight, 0
        self.kept: dict[int, Any] = {}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation."""
        self._count += 1
        count = self._count
        if self._straight and operation_name(function) in ACTIVATIONS:
            made = args[0] * 1
        else:
            made = super().__torch_function__(function, types, args, kwargs)
        with torch._C.DisableTorchFunction():
            value = made
            while isinstance(value, Tensor) and torch._C._functorch.is_batchedtensor(value):
                value = torch._C._functorch.get_unwrapped(value)  # inside vmap there is no batch to see
            if isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided:
                kept = self._keep(count, value)
                if kept is not None:
                    self.kept[count] = kept
        return made


def layers_of(subject: Subject, x: Inputs) -> tuple[_Layer, ...]:
    """What the model makes of each example: the sizes that follow how many there are. Its answer is none of them."""
    fewer = _asked(subject, x[1:], lambda _, made: tuple(made.shape))[1]
    logits, shapes = _asked(subject, x, lambda _, made: (tuple(made.shape), made if made.dim() == 2 else None))
    found = []
    for operation, (shape, made) in shapes.items():
        before = fewer.get(operation, ())
        moving = [dim for dim, sizes in enumerate(zip(shape, before, strict=False)) if sizes[0] != sizes[1]]
        if len(shape) != len(before) or len(moving) != 1 or (made is not None and torch.equal(made, logits)):
            continue
        size, parts = shape[moving[0]], shape[moving[0]] // len(x)
        if size == parts * len(x) and before[moving[0]] == parts * (len(x) - 1):
            found.append(_Layer(operation, moving[0], parts))
    return tuple(found)


def outputs(subject: Subject, layers: tuple[_Layer, ...], x: Inputs, straight: bool = False) -> list[Tensor]:
    """How far each unit of each layer is up anywhere, (n, units), and down; first by channel, then by column."""
    by_operation = {layer.operation: layer for layer in layers}

    def heights(operation: int, made: Tensor) -> list[Tensor] | None:
        layer = by_operation.get(operation)
        if layer is None or made.dim() <= layer.dim or made.shape[layer.dim] != layer.parts * len(x):
            return None
        by_example = (*made.shape[: layer.dim], len(x), layer.parts, *made.shape[layer.dim + 1 :])
        values = made.reshape(by_example).movedim(layer.dim, 0)
        if layer.parts == 1:
            values = values.squeeze(layer.dim + 1)
        return _up_and_down(values)

    kept = _asked(subject, x, heights, straight)[1]
    none = [torch.zeros(len(x), 0, device=x.device)] * 4  # these images go another way
    return [height for layer in layers for height in kept.get(layer.operation, none)]


def _up_and_down(values: Tensor) -> list[Tensor]:
    """Of values (n, ...) the largest and minus the least, (n, units), by the first dimension and by the last."""
    found = list[Tensor]()
    for dim in (1, values.dim() - 1):
        units = values.movedim(dim, 1).unsqueeze(-1).flatten(2) if values.dim() > 1 else values[:, None, None]
        again = (found and values.dim() < 3) or not 0 < units.shape[1] <= _WIDEST or units.shape[2] == 0
        found += [units[:, :0].sum(2)] * 2 if again else [units.amax(2), -units.amin(2)]
    return found


def _asked(
    subject: Subject, x: Inputs, keep: Callable[[int, Tensor], Any], straight: bool = False
) -> tuple[Tensor, Mapping[int, Any]]:
    """The model's logits, and what was kept on the way to them."""
    mode = _Reading(keep, straight)
    with bpda(mode):
        logits = subject.differentiable(x)
    return logits, mode.kept


def quiet(threat: Threat, subject: Subject, pool: Inputs, x: Inputs, y: Labels) -> Moved | None:
    """The attack that moves quiet units, alone or together, that change a right answer somewhere; None: none does.

    Args:
        threat: the set.
        subject: the model.
        pool: images.
        x: images that the model is right about.
        y: their labels.
    """
    pool = pool[:_SHOWING]
    if len(pool) < 2 or len(x) == 0:
        return None
    with torch.no_grad():
        layers = layers_of(subject, pool)
        units = _quietest(threat, subject, layers, pool)
    groups = tuple(
        group for group in (*((unit,) for unit in units), *_together(units)) for group in (group, _down(group))
    )
    attack = Moved(
        threat, 0, heights=partial(outputs, subject, layers), groups=groups, marks=_MARKS, surrogate=BPDA(subject)
    )
    few = torch.linspace(0, len(x) - 1, min(_IMAGES, len(x))).long()
    leading = tuple(islice(_leading(attack, subject, x[few], y[few]), _FOUND))
    return replace(attack, groups=leading) if leading else None


def _leading(attack: Moved, subject: Subject, x: Inputs, y: Labels) -> Iterator[Group]:
    """The groups on whose way the model errs."""
    for points, groups in attack.ways(x):
        labels = y.repeat(len(points) // len(x))
        wrong = misclassified(torch.cat([subject.logits(part) for part in torch.split(points, _TO_ASK)]), labels)
        wrong = wrong.view(_MARKS, len(groups), len(x)).any(2).any(0)
        yield from (group for group, errs in zip(groups, wrong.tolist(), strict=True) if errs)


def _down(group: Group) -> Group:
    """The same units the other way."""
    return tuple((layer + 1, unit) for layer, unit in group)


def _quietest(threat: Threat, subject: Subject, layers: tuple[_Layer, ...], pool: Inputs) -> list[Unit]:
    """The units that noise moves the most, beside what they vary by from image to image: of all, and of each layer.

    What moves nothing behind an activation that is off moves something where activations let everything through.
    """
    noise = threat.random_start(pool, Streams.numbered(0, len(pool), pool.device))
    ranked = list[tuple[int, float, Unit, Tensor]]()
    for straight in (False, True):
        both = zip(outputs(subject, layers, pool, straight), outputs(subject, layers, noise, straight), strict=True)
        for layer, (still, moved) in enumerate(both):
            if layer % 2 or still.shape[1] == 0:
                continue
            loud = (moved - still).square().mean(0).sqrt() / still.std(0).clamp(min=torch.finfo(still.dtype).tiny)
            first = loud.nan_to_num().topk(min(_IN_LAYER, len(loud)))
            for rank, (ratio, unit) in enumerate(zip(*(values.tolist() for values in first), strict=True)):
                if ratio > 0:
                    ranked.append((rank, ratio, (layer, unit), _direction(still[:, unit], moved[:, unit])))
    by_ratio = sorted(ranked, key=lambda one: -one[1])
    by_turn = sorted(ranked, key=lambda one: (one[0], -one[1]))
    kept, seen = list[Unit](), torch.zeros(0, 2 * len(pool), device=pool.device)
    for order, most in ((by_ratio, _OF_ALL), (by_turn, _OF_ALL + _BY_LAYER)):
        for _, _, unit, direction in order:
            if len(kept) == most:
                break
            if not (seen @ direction > _ALIKE).any():
                kept.append(unit)
                seen = torch.cat([seen, direction[None]])
    return kept


def _direction(still: Tensor, moved: Tensor) -> Tensor:
    """What tells a unit from others: its values, about their mean, of length one."""
    values = torch.cat([still, moved]).float()
    return functional.normalize(values - values.mean(), dim=0)


def _together(units: list[Unit]) -> Iterator[Group]:
    """In the layers that have the quietest units several of these."""
    by_layer = dict[int, list[Unit]]()
    for unit in units:
        by_layer.setdefault(unit[0], []).append(unit)
    for layer in list(by_layer)[:_LAYERS]:
        yield from (tuple(by_layer[layer][:count]) for count in _TOGETHER if count <= len(by_layer[layer]))
