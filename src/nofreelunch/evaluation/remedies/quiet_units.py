"""Units that images hardly move and the ball moves far, and what shows when they are moved.

Whatever a network makes of a pattern that images do not have, some unit has to see it first: a column of a linear
layer, a channel of a convolution, whatever it is computed by. Such a unit is quiet on images, and loud under noise.
What follows it may hide it from every gradient of the scores (an activation of whatever kind, a product with another
quiet unit); the slope of the unit itself leads there, and the model's answers on the way tell whether anything comes of
it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from nofreelunch.attacks.losses import misclassified
from nofreelunch.evaluation.remedies.bpda import Smooth, bpda
from nofreelunch.evaluation.remedies.moved_units import Group, Moved, Unit
from nofreelunch.evaluation.remedies.sleeping_units import ACTIVATIONS
from nofreelunch.evaluation.remedies.wrappers import BPDA
from nofreelunch.evaluation.subject import Subject
from nofreelunch.models.tracing import operation_name
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Labels, Model

_SHOWING, _IMAGES, _MARKS = 32, 2, 5
"""Images that show how quiet a unit is; those from which it is tried what it does; places looked at on the way."""
_OF_ALL, _BY_LAYER, _IN_LAYER = 40, 24, 32
"""So many of the quietest units are moved one by one; so many besides, the quietest of each layer in turn."""
_TOGETHER, _LAYERS, _FOUND = (2, 3, 4, 8), 8, 8
"""So many of a layer are moved together, in so many layers; so many finds are kept."""
_WIDEST = 4096
"""Units of a layer, at most."""
_ALIKE = 0.99
"""The correlation from which on two units are one."""


class _Layer(NamedTuple):
    """What one of the model's operations makes of each example, whatever else it does for other numbers of them.

    Attributes:
        name: of the operation.
        dim: along which the examples lie.
        parts: in how many parts each.
        rest: all other sizes.
    """

    name: str
    dim: int
    parts: int
    rest: tuple[int, ...]


class _Reading(Smooth):
    """Hands on what operations make, with their names.

    Args:
        told: is told.
        straight: whether activations let everything through.
    """

    def __init__(self, told: Callable[[str, Tensor], None], straight: bool = False) -> None:
        super().__init__()
        self._told, self._straight = told, straight

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation."""
        name = operation_name(function)
        if self._straight and name in ACTIVATIONS:
            made = args[0] * 1
        else:
            made = super().__torch_function__(function, types, args, kwargs)
        with torch._C.DisableTorchFunction():
            value = made
            while isinstance(value, Tensor) and torch._C._functorch.is_batchedtensor(value):
                value = torch._C._functorch.get_unwrapped(value)  # inside vmap there is no batch to see
            if isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided:
                self._told(name, value)
        return made


def layers_of(subject: Subject, x: Inputs) -> list[_Layer]:
    """What the model makes of each example: the sizes that follow how many there are.

    None of them are its answer, other views of what was there, and what it makes of each number of the input alone: in
    images there are many that are always the same, and nothing can be told from one.
    """
    half = x[0].numel() // 2
    mixed = torch.cat([x[1:].flatten(1)[:, :half], x[1:].flatten(1)[:, half:].roll(1, 0)], 1).view_as(x[1:])
    (logits, whole), (_, fewer) = _made(subject, x), _made(subject, mixed)
    found = []
    for place, (shape, values) in whole.items():
        before, others = fewer.get(place, ((), None))
        moving = [dim for dim, sizes in enumerate(zip(shape, before, strict=False)) if sizes[0] != sizes[1]]
        if len(moving) != 1 or (values is not None and values.shape == logits.shape and torch.equal(values, logits)):
            continue
        if values is not None and others is not None and _agree(values[1:], others, half):
            continue
        dim, parts = moving[0], shape[moving[0]] // len(x)
        if (shape[dim], before[dim]) == (parts * len(x), parts * (len(x) - 1)):
            found.append(_Layer(place[0], dim, parts, (*shape[:dim], *shape[dim + 1 :])))
    return found


def _agree(made: Tensor, other: Tensor, half: int) -> bool:
    """Whether what was made of inputs that agree by half agrees by half: each of their numbers has one of its own."""
    return made.shape == other.shape and torch.equal(made.flatten(1)[:, :half], other.flatten(1)[:, :half])


def _made(subject: Subject, x: Inputs) -> tuple[Tensor, dict[tuple[str, int, int], tuple[torch.Size, Tensor | None]]]:
    """The model's logits, and of what its operations make, but for views of it, the shapes.

    By their names, how many dimensions it has, and how often that was before; with what is as large as the input or as
    the answer itself.
    """
    made = dict[tuple[str, int, int], tuple[torch.Size, Tensor | None]]()
    often, known = Counter[tuple[str, int]](), WeakTensorKeyDictionary()

    def told(name: str, value: Tensor) -> None:
        place = name, value.dim(), often[name, value.dim()]
        often[place[:2]] += 1
        if not (value._is_view() and value._base in known):
            wanted = value.numel() in (x.numel(), len(x) * subject.classes)
            made[place] = value.shape, value if wanted else None
        known[value] = True

    with bpda(_Reading(told)):
        return subject.differentiable(x), made


def outputs(subject: Subject, layers: Sequence[_Layer], x: Inputs, straight: bool = False) -> list[Tensor]:
    """How far each unit of each layer is up anywhere, (n, units), and down; first by channel, then by column."""
    found, known = dict[int, list[Tensor]](), dict[_Layer, list[int]]()
    for place, layer in enumerate(layers):
        known.setdefault(layer, []).append(place)

    def told(name: str, value: Tensor) -> None:
        shape = tuple(value.shape)
        for dim in range(value.dim()):
            layer = _Layer(name, dim, shape[dim] // len(x), (*shape[:dim], *shape[dim + 1 :]))
            if shape[dim] == layer.parts * len(x) and known.get(layer):
                of_each = value.reshape(*shape[:dim], len(x), layer.parts, *shape[dim + 1 :]).movedim(dim, 0)
                of_each = of_each.squeeze(dim + 1) if layer.parts == 1 else of_each
                found[known[layer].pop(0)] = _up_and_down(of_each.clone())  # the model may go on in place

    with bpda(_Reading(told, straight)):
        subject.differentiable(x)
    none = [torch.zeros(len(x), 0, device=x.device)] * 4  # these images go another way
    return [height for place in range(len(layers)) for height in found.get(place, none)]


def _up_and_down(values: Tensor) -> list[Tensor]:
    """Of values (n, ...) the largest and minus the least, (n, units), by the first dimension and by the last.

    In what is laid out as images only channels are units.
    """
    found = list[Tensor]()
    for dim in (1, 1 if values.dim() > 3 else values.dim() - 1):
        units = values.movedim(dim, 1).unsqueeze(-1).flatten(2) if values.dim() > 1 else values[:, None, None]
        again = (found and dim == 1) or not 0 < units.shape[1] <= _WIDEST or units.shape[2] == 0
        found += [units[:, :0].sum(2)] * 2 if again else [units.amax(2), -units.amin(2)]
    return found


def quiet(threat: Threat, subject: Subject, ask: Model, pool: Tensor, x: Inputs, y: Labels) -> Moved | None:
    """The attack that moves quiet units, alone or together, that change a right answer somewhere; None: none does.

    Args:
        threat: the set.
        subject: the model.
        ask: the same, where no slope is asked for.
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
    leading = tuple(islice(_leading(attack, ask, x[few], y[few]), _FOUND))
    return replace(attack, groups=leading) if leading else None


def _leading(attack: Moved, ask: Model, x: Inputs, y: Labels) -> Iterator[Group]:
    """The groups on whose way the model errs."""
    for points, groups in attack.ways(x):
        labels = y.repeat(len(points) // len(x))
        with torch.no_grad():
            logits = torch.cat([ask(part) for part in torch.split(points, len(x) * len(groups))])
        wrong = misclassified(logits, labels)
        wrong = wrong.view(_MARKS, len(groups), len(x)).any(2).any(0)
        yield from (group for group, errs in zip(groups, wrong.tolist(), strict=True) if errs)


def _down(group: Group) -> Group:
    """The same units the other way."""
    return tuple((layer + 1, unit) for layer, unit in group)


def _quietest(threat: Threat, subject: Subject, layers: Sequence[_Layer], pool: Inputs) -> list[Unit]:
    """The units that noise moves the most, beside what they vary by from image to image: of all, and of each layer.

    What moves nothing behind an activation that is off moves something where activations let everything through.
    """
    noise = threat.random_start(pool, Streams.numbered(0, len(pool), pool.device))
    ranked = list[tuple[int, float, Unit, Tensor]]()
    for straight in (False, True):
        both = zip(outputs(subject, layers, pool, straight), outputs(subject, layers, noise, straight), strict=True)
        for layer, (still, moved) in enumerate((still.float(), moved.float()) for still, moved in both):
            if layer % 2 or still.shape[1] == 0:
                continue
            loud = (moved - still).square().mean(0).sqrt() / still.std(0).clamp(min=torch.finfo(still.dtype).tiny)
            first = loud.nan_to_num().topk(min(_IN_LAYER, len(loud)))
            for rank, (ratio, unit) in enumerate(zip(*(values.tolist() for values in first), strict=True)):
                if ratio > 0:
                    ranked.append((rank, ratio, (layer, unit), _direction(still[:, unit], moved[:, unit])))
    by_ratio = sorted(ranked, key=lambda one: (-float(f"{one[1]:.2g}"), one[2]))  # of those that are alike the first
    by_turn = sorted(ranked, key=lambda one: (one[0], -one[1]))
    kept, seen = list[Unit](), torch.zeros(0, 2 * len(pool), device=pool.device)
    for order, most in ((by_ratio, _OF_ALL), (by_turn, _OF_ALL + _BY_LAYER)):
        for _, _, unit, direction in order:
            if len(kept) == most:
                break
            if unit not in kept and not (seen @ direction > _ALIKE).any():
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
