"""What stands for masks while a model is made differentiable: comparisons, what is made of them, what they choose.

The rules are those of `bpda.Smooth`, which asks for them by the name of an operation.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import softsign

from nofreelunch.evaluation.remedies.straight import straight
from nofreelunch.models.tracing import operation_name

if TYPE_CHECKING:
    from nofreelunch.evaluation.remedies.bpda import Smooth

_SIGNS = {"gt": 1, "ge": 1, "lt": -1, "le": -1, "greater": 1, "less": -1, "greater_equal": 1, "less_equal": -1,
          "__gt__": 1, "__ge__": 1, "__lt__": -1, "__le__": -1, "eq": 0, "__eq__": 0}  # fmt: skip
"""Of the difference on which a mask turns; 0: by its size."""
_JOINED = {
    **dict.fromkeys(("__and__", "bitwise_and", "logical_and"), torch.minimum),
    **dict.fromkeys(("__or__", "bitwise_or", "logical_or"), torch.maximum),
}
"""What stands for two masks joined: of `and` that which is not so yet, of `or` that which is nearest to it."""


def second(args: Any, kwargs: Any) -> Any:
    """The other operand."""
    return args[1] if len(args) > 1 else kwargs["other"]


def compare(mode: "Smooth", function: Any, args: Any, kwargs: Any) -> Any:
    """A mask, and how far it is from turning; equality is nearer the smaller the difference."""
    other, sign = second(args, kwargs), _SIGNS[operation_name(function)]
    made, height = function(*args, **kwargs), _turning(mode, sign, args[0], other)
    if height is not None and isinstance(made, Tensor) and made.dtype == torch.bool:
        soft = softsign(10 * height) if sign else height
        mode.heights[made] = height
        mode.surrogates[made] = mode.take(made.to(soft.dtype), (1 + soft) / 2 if mode.soft_values else soft)
    elif args[0] in mode.scores and sign == 0:
        share = mode.scores[args[0]].softmax(-1)
        if isinstance(other, int):
            if 0 <= other < share.shape[-1]:
                mode.surrogates[made] = mode.take(made.to(share.dtype), share[..., other].reshape(made.shape))
        elif made.shape == share.shape and torch.equal(other, torch.arange(share.shape[-1], device=share.device)):
            mode.surrogates[made] = mode.take(made.to(share.dtype), share)  # one-hot
    return made


def _turning(mode: "Smooth", sign: int, one: Tensor, other: Any) -> Tensor | None:
    """What a comparison turns on: rises towards where it holds; None where it has no derivative."""
    pair = [mode.smooth(one), mode.smooth(other)]
    smooth = [part for part in pair if isinstance(part, Tensor) and part.is_floating_point()]
    if not smooth or not all(isinstance(part, (Tensor, int, float)) for part in pair):
        return None
    gap = torch.as_tensor(pair[0]).to(smooth[0]) - torch.as_tensor(pair[1]).to(smooth[0])
    return sign * gap if sign else -gap.abs()


def invert(mode: "Smooth", function: Any, args: Any, kwargs: Any) -> Any:
    """The complement of a mask, or of integers."""
    made = function(*args, **kwargs)
    if args[0] in mode.surrogates:
        mode.surrogates[made] = (1 if made.dtype == torch.bool else -1) - mode.surrogates[args[0]]
    return made


def join(mode: "Smooth", function: Any, args: Any, kwargs: Any) -> Any:
    """Two masks joined, or some bits of integers."""
    made, both = function(*args, **kwargs), [mode.smooth(arg) for arg in args[:2]]
    soft = [one for one, arg in zip(both, args, strict=False) if one is not arg]
    if made.dtype != torch.bool and soft:
        mode.surrogates[made] = straight(made.to(soft[0].dtype), soft[0])
    elif len(soft) == 2:
        mode.surrogates[made] = _JOINED[operation_name(function)](*soft)
    return made


def where(mode: "Smooth", function: Any, args: Any, kwargs: Any) -> Any:
    """Either or: where(mask, one, other), or one.where(mask, other)."""
    made, given = function(*args, **kwargs), (*args, *kwargs.values())
    if len(given) < 3:
        return made
    mask, one, other = given[:3] if given[0].dtype == torch.bool else (given[1], given[0], given[2])
    return _mixed(mode, made, mode.smooth(mask), one, other)


def masked_fill(mode: "Smooth", function: Any, args: Any, kwargs: Any) -> Any:
    """A value where a mask holds."""
    rest, mask, value = (*args, *kwargs.values())[:3]
    return _mixed(mode, function(*args, **kwargs), mode.smooth(mask), value, rest)


def set_item(mode: "Smooth", function: Any, args: Any, kwargs: Any) -> Any:
    """The same, written in place; and masks or integers written among numbers, as what they are there."""
    rest, place, value = args
    if not rest.is_floating_point():
        return function(*args, **kwargs)
    before = rest.clone()
    function(rest, place, mode.smooth(value), **kwargs)
    if isinstance(place, Tensor) and place in mode.surrogates and torch.as_tensor(value).dim() == 0:
        share = mode.surrogates[place]
        share = share.reshape(*share.shape, *[1] * (rest.dim() - share.dim()))
        rest.copy_(_mixed(mode, rest.clone(), share, value, before))
    return None


def _mixed(mode: "Smooth", made: Tensor, share: Tensor, one: Any, other: Any) -> Tensor:
    """What is made of either, as a mixture by the smooth surrogate of a mask, if it has one."""
    if not (share.is_floating_point() and made.is_floating_point()):
        return made
    one, other = torch.as_tensor(one), torch.as_tensor(other)
    gap = one.detach() - other.detach()
    hard = made + (straight(share, share) - share.detach()) * gap.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
    return mode.take(hard, share * one + (1 - share) * other) if mode.soft_values else hard


RULES = {
    **dict.fromkeys(_SIGNS, compare),
    **dict.fromkeys(("logical_not", "__invert__", "bitwise_not"), invert),
    **dict.fromkeys(_JOINED, join),
    "where": where,
    "masked_fill": masked_fill,
    "__setitem__": set_item,
}
