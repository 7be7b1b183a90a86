"""What stands for the choice of the largest, or the smallest, of several scores while a model is made differentiable.

The choice itself stays; what is looked up with it gets the derivative of a mean under the softmax of the scores. The
rules are those of `bpda.Smooth`, which asks for them by the name of an operation.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nofreelunch.models.tracing import operation_name

if TYPE_CHECKING:
    from nofreelunch.evaluation.remedies.bpda import Smooth

_SIGNS = {"argmax": 1, "max": 1, "topk": 1, "argmin": -1, "min": -1, "sort": -1, "argsort": -1}
"""Of what is chosen the largest; of `topk`, `sort` and `argsort` as they are meant where nothing is said."""
_TURNED = {"topk": ("largest", 3, True), "sort": ("descending", 2, False), "argsort": ("descending", 2, False)}
"""What turns the sign: an option's name, its place, what it is by default."""
_PLACES = {"topk": (2, -1), "sort": (1, -1), "argsort": (1, -1)}
"""Where the dimension stands, and what it is by default; 1 and none for the others."""


def sign_of_choice(function: Any, args: Any, kwargs: Any) -> int:
    """1 if the operation chooses the largest of its first argument, -1 the smallest, 0 if it is no choice."""
    name = operation_name(function)
    if name in _TURNED:
        option, place, usual = _TURNED[name]
        given = kwargs.get(option, args[place] if len(args) > place else usual)
        return _SIGNS[name] if given is usual else -_SIGNS[name]
    return _SIGNS.get(name, 0)


def dim_of_choice(function: Any, args: Any, kwargs: Any) -> Any:
    """Along which dimension it chooses; None: among all numbers, or between two tensors."""
    place, usual = _PLACES.get(operation_name(function), (1, None))
    dim = kwargs.get("dim", args[place] if len(args) > place else usual)
    return dim if isinstance(dim, int) else None


def choose(mode: "Smooth", function: Any, args: Any, kwargs: Any) -> Any:
    """The first of what is chosen: remembers among what."""
    made, given = function(*args, **kwargs), args[0]
    index = made if isinstance(made, Tensor) else made[1]
    dim = dim_of_choice(function, args, kwargs)
    if dim not in (-1, given.dim() - 1) or not given.is_floating_point():
        return made
    height = sign_of_choice(function, args, kwargs) * given
    if index.dim() < height.dim():
        mode.scores[index] = height
    elif index.shape[-1] == 1:
        mode.scores[index] = height.unsqueeze(-2)
    return made


def look_up(mode: "Smooth", hard: Tensor, table: Tensor, places: int, scores: Tensor) -> Tensor:
    """table[argmax(scores)] or, row by row, table[range(n), argmax(scores)]: the mean under softmax(scores)."""
    if not table.is_floating_point():
        return hard
    share = scores.softmax(-1).to(table.dtype)
    if places > 1:
        rows = places == 2 and scores.shape == table.shape[:2] and hard.shape == (len(table), *table.shape[2:])
        return mode.take(hard, torch.einsum("ne,ne...->n...", share, table)) if rows else hard
    whole = scores.shape[-1] == len(table) and hard.dim() == scores.dim() + table.dim() - 2
    return mode.take(hard, torch.tensordot(share, table, 1)) if whole else hard


def one_hot(mode: "Smooth", function: Any, args: Any, kwargs: Any) -> Any:
    """Hard labels: integers, with softmax(scores) as their smooth surrogate."""
    made = function(*args, **kwargs)
    if args[0] in mode.scores and mode.scores[args[0]].shape == made.shape:
        scores = mode.scores[args[0]]
        mode.surrogates[made] = mode.take(made.to(scores.dtype), scores.softmax(-1))
    return made


def scatter(mode: "Smooth", function: Any, args: Any, kwargs: Any) -> Any:
    """Hard labels made by writing at the chosen places."""
    made, index = function(*args, **kwargs), _chosen(mode, args, kwargs)
    if index is None or not made.is_floating_point():
        return made
    share = mode.scores[index].softmax(-1)
    if share.numel() != made.numel():
        return made
    low, high = made.detach().amin(), made.detach().amax()
    return mode.take(made, low + share.reshape(made.shape).to(made.dtype) * (high - low))


def gather(mode: "Smooth", function: Any, args: Any, kwargs: Any) -> Any:
    """What stands at the chosen places of the second dimension, as the mean under softmax(scores)."""
    made, table, index = function(*args, **kwargs), args[0], _chosen(mode, args, kwargs)
    if index is None or mode.scores[index].shape != table.shape[:2]:
        return made
    share = mode.scores[index].softmax(-1).to(table.dtype)
    soft = torch.einsum("ne,ne...->n...", share, table).unsqueeze(1)
    return mode.take(made, soft) if made.is_floating_point() and soft.shape == made.shape else made


def _chosen(mode: "Smooth", args: Any, kwargs: Any) -> Tensor | None:
    """The index among the arguments that has been chosen."""
    given = (*args[1:], *kwargs.values())
    return next((arg for arg in given if isinstance(arg, Tensor) and arg in mode.scores), None)


RULES = {**dict.fromkeys(_SIGNS, choose), "one_hot": one_hot, "scatter": scatter, "gather": gather}
