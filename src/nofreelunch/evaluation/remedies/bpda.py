"""A model as it would be if every operation in it could be differentiated.

The values are the model's own; where its derivative is zero, missing, saturated or replaced, that of a similar smooth
operation is taken: the backward pass differentiable approximation of Athalye et al. 2018 (section 4.1), chosen
operation by operation while the model runs. What hides gradients (detach, no_grad, hooks, custom backward passes) is
undone, and the model is not told that it is being differentiated.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softsign
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from nofreelunch.evaluation.remedies import choices
from nofreelunch.evaluation.remedies.straight import straight
from nofreelunch.evaluation.remedies.torchscript import interpreting
from nofreelunch.evaluation.remedies.unseen import plain_apply, replaced, unseen
from nofreelunch.models.tracing import operation_name

_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_CASTS = ("int", "long", "byte", "char", "short", "bool", "float", "double", "half", "to", "_to_copy", "type")
_FLOATS = {
    "type_as", "mul", "__mul__", "__rmul__", "add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "rsub",
    "true_divide", "__truediv__", "matmul", "__matmul__", "mm", "bmm", "addmm", "linear", "neg", "mean", "sum",
}  # fmt: skip
"""Operations that make numbers of a mask or of integers: there their smooth surrogates take their place."""
_PASSING = ("round", "floor", "ceil", "trunc", "fix", "clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_max")
"""Rounded or cut off: the derivative is 1."""
_COMPARISONS = {"gt": 1, "ge": 1, "lt": -1, "le": -1, "greater": 1, "less": -1, "greater_equal": 1, "less_equal": -1,
                "__gt__": 1, "__ge__": 1, "__lt__": -1, "__le__": -1, "eq": 0, "__eq__": 0}  # fmt: skip
"""With the sign of the difference on which a mask turns; 0: by its size."""
_VIEWS = ("__getitem__", "slice", "select", "view", "view_as", "reshape", "unsqueeze", "squeeze", "expand", "expand_as",
          "flatten")  # fmt: skip
_HIDDEN = {"requires_grad": False, "grad_fn": None, "is_leaf": True}


def _second(args: Any, kwargs: Any) -> Any:
    """The other operand."""
    return args[1] if len(args) > 1 else kwargs["other"]


class Smooth(TorchFunctionMode):
    """Every torch operation of the model passes through here.

    Args:
        soft: whether choices take the values of what stands for them too, not only the derivatives.

    Attributes:
        soft_values: as above.
        take: what stands for a hard value, made of it and of a smooth one.
        surrogates: of masks and integers what they are as numbers, with derivatives.
        scores: of indices among what they were chosen: the largest of the last dimension.
        heights: of masks what was compared: rises towards where they hold.
    """

    def __init__(self, soft: bool = False) -> None:
        super().__init__()
        self.soft_values = soft
        self.take: Callable[[Tensor, Tensor], Tensor] = (lambda hard, soft: soft) if soft else straight
        self.surrogates: Any = WeakTensorKeyDictionary()
        self.scores: Any = WeakTensorKeyDictionary()
        self.heights: Any = WeakTensorKeyDictionary()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation, or the smooth one that takes its place."""
        name, kwargs = operation_name(function), kwargs or {}
        if name == "__get__":
            return self._attribute(function, args)
        if name == "register_hook" or (name == "_set_grad_enabled" and args == (False,)):
            return None
        if name in ("__getitem__", "index"):
            place = tuple(args[1]) if isinstance(args[1], (list, tuple)) else (args[1],)
            if place and isinstance(place[-1], Tensor) and place[-1] in self.scores:
                return choices.look_up(self, function(*args, **kwargs), args[0], len(place), self.scores[place[-1]])
        if (rule := _RULES.get(name)) is not None and args and isinstance(args[0], Tensor):
            return rule(self, function, args, kwargs)
        made = function(*args, **kwargs)
        return self._in_numbers(function, made, args, kwargs) if name in _FLOATS else made

    def _in_numbers(self, function: Any, made: Any, args: Any, kwargs: Any) -> Any:
        """What is made of numbers some of which have surrogates; integers stay what they are: they may be an index."""
        smooth = [self.smooth(arg) for arg in args]
        changed = [other for one, other in zip(args, smooth, strict=True) if one is not other]
        if not changed:
            return made
        floats = (
            arg.to(changed[0].dtype) if isinstance(arg, Tensor) and arg.dtype in (*_INTEGERS, torch.bool) else arg
            for arg in smooth
        )
        options = {name: value for name, value in kwargs.items() if name not in ("dtype", "out")}
        surrogate = function(*floats, **options)
        if made.is_floating_point():
            return surrogate.to(made.dtype)
        self.surrogates[made] = surrogate
        return made

    def smooth(self, value: Any) -> Any:
        """Its smooth surrogate, if it has one, or the value."""
        return self.surrogates.get(value, value) if isinstance(value, Tensor) else value

    def _attribute(self, function: Any, args: tuple[Any, ...]) -> Any:
        name = getattr(getattr(function, "__self__", None), "__name__", "")
        if name in _HIDDEN and not isinstance(args[0], nn.Parameter):
            return _HIDDEN[name]
        return args[0] * 1 if name == "data" and args[0].is_floating_point() else function(*args)

    def through(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Rounding and cutting off: the derivative is 1."""
        given = args[0] * 1 if args[0].is_floating_point() else args[0]  # what works in place changes its argument
        made = function(*args, **kwargs)
        return straight(made, given) if given.is_floating_point() else made

    def drop(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What is left over by rounding: its derivative would undo that of what was rounded."""
        made = function(*args, **kwargs)
        return made.detach() if made.is_floating_point() else made

    def divide(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Rounded or not, the derivative is that of the quotient."""
        exact = torch.true_divide(self.smooth(args[0]), self.smooth(_second(args, kwargs)))
        made = function(*args, **kwargs)
        if made.is_floating_point():
            return straight(made, exact)
        self.surrogates[made] = straight(made.to(exact.dtype), exact)
        return made

    def levels(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The number of an interval: rises with what falls into it."""
        made = function(*args, **kwargs)
        if args[0].is_floating_point():
            self.surrogates[made] = straight(made.to(args[0].dtype), args[0])
        return made

    def keep(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Detaching: it is not done."""
        return args[0] * 1 if args[0].is_floating_point() else function(*args, **kwargs)

    def cast(self, function: Any, args: Any, kwargs: Any) -> Any:
        """To integers, and back from them or from masks."""
        source = self.surrogates.get(args[0], args[0])
        made = function(args[0], *args[1:], **kwargs)
        if made.dtype in _INTEGERS or made.dtype == torch.bool:
            if source.is_floating_point() and made is not args[0]:
                as_number = self.take if args[0].dtype == torch.bool else straight
                self.surrogates[made] = as_number(made.to(source.dtype), source)
            return made
        if source is args[0]:
            return made
        return self.take(made, source.to(made.dtype)) if made.is_floating_point() else made

    def _turning(self, function: Any, args: Any, kwargs: Any) -> Tensor | None:
        """What a comparison turns on: rises towards where it holds; None where it has no derivative."""
        sign, pair = _COMPARISONS[operation_name(function)], [self.smooth(args[0]), self.smooth(_second(args, kwargs))]
        smooth = [part for part in pair if isinstance(part, Tensor) and part.is_floating_point()]
        if not smooth or not all(isinstance(part, (Tensor, int, float)) for part in pair):
            return None
        gap = torch.as_tensor(pair[0]).to(smooth[0]) - torch.as_tensor(pair[1]).to(smooth[0])
        return sign * gap if sign else -gap.abs()

    def compare(self, function: Any, args: Any, kwargs: Any) -> Any:
        """A mask, and how far it is from turning; equality is nearer the smaller the difference."""
        other, sign = _second(args, kwargs), _COMPARISONS[operation_name(function)]
        made, height = function(*args, **kwargs), self._turning(function, args, kwargs)
        if height is not None and isinstance(made, Tensor) and made.dtype == torch.bool:
            soft = softsign(10 * height) if sign else height
            self.heights[made] = height
            self.surrogates[made] = self.take(made.to(soft.dtype), (1 + soft) / 2 if self.soft_values else soft)
        elif args[0] in self.scores and sign == 0:
            share = self.scores[args[0]].softmax(-1)
            if isinstance(other, int):
                self.surrogates[made] = self.take(made.to(share.dtype), share[..., other].reshape(made.shape))
            elif made.shape == share.shape and torch.equal(other, torch.arange(share.shape[-1], device=share.device)):
                self.surrogates[made] = self.take(made.to(share.dtype), share)  # one-hot
        return made

    def copy_sign(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The size of one number with the sign of another."""
        sign = _second(args, kwargs)
        soft = softsign(sign) if isinstance(sign, Tensor) else sign
        return straight(function(*args, **kwargs), args[0].abs() * soft)

    def squash(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Steps, and sigmoids, whose derivative underflows."""
        return straight(function(*args, **kwargs), softsign(args[0]))

    def softmax(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Its logarithm's derivative: it orders the classes alike, and does not underflow."""
        dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        return straight(function(*args, **kwargs), args[0].log_softmax(-1 if dim is None else dim))

    def where(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Either or, as a mixture by the mask's smooth surrogate."""
        made = function(*args, **kwargs)
        if args[0] not in self.surrogates or len(args) < 3 or not made.is_floating_point():
            return made
        share, first, second = self.surrogates[args[0]], *(torch.as_tensor(each) for each in args[1:3])
        gap = first.detach() - second.detach()
        hard = made + (straight(share, share) - share.detach()) * gap.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
        return self.take(hard, share * first + (1 - share) * second) if self.soft_values else hard

    def array(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Out of torch, as if nothing were differentiated."""
        return function(Tensor.detach(args[0]), *args[1:], **kwargs)

    def view(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Another shape."""
        made = function(*args, **kwargs)
        if isinstance(made, Tensor) and args[0] in self.surrogates:
            self.surrogates[made] = function(self.surrogates[args[0]], *args[1:], **kwargs)
        if isinstance(made, Tensor) and args[0] in self.scores and made.numel() >= args[0].numel():
            self.scores[made] = self.scores[args[0]]
        return made

    def invert(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The complement of a mask."""
        made = function(*args, **kwargs)
        if args[0] in self.surrogates:
            self.surrogates[made] = 1 - self.surrogates[args[0]]
        return made


_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_PASSING, Smooth.through),
    **dict.fromkeys(("remainder", "fmod", "frac", "__mod__"), Smooth.drop),
    **dict.fromkeys(("div", "divide", "floor_divide", "__floordiv__"), Smooth.divide),
    **dict.fromkeys(("bucketize",), Smooth.levels),
    **dict.fromkeys(("detach", "detach_"), Smooth.keep),
    **dict.fromkeys(_CASTS, Smooth.cast),
    **dict.fromkeys(_COMPARISONS, Smooth.compare),
    **dict.fromkeys(("sign", "sgn", "heaviside", "sigmoid", "tanh", "hardtanh", "hardsigmoid"), Smooth.squash),
    **dict.fromkeys(("softmax", "_softmax"), Smooth.softmax),
    "copysign": Smooth.copy_sign,
    "where": Smooth.where,
    **dict.fromkeys(_VIEWS, Smooth.view),
    **dict.fromkeys(("numpy", "tolist", "item", "__float__", "__int__", "__bool__", "__index__"), Smooth.array),
    **dict.fromkeys(("logical_not", "__invert__", "bitwise_not"), Smooth.invert),
    **choices.RULES,
}


@contextmanager
def bpda(mode: Smooth | None = None) -> Iterator[None]:
    """Inside the block every operation is differentiable."""
    with (
        torch.set_grad_enabled(torch.is_grad_enabled()),  # put back at the end, whatever the model has switched
        unseen(),
        torch.compiler.set_stance("force_eager"),  # what was compiled is looked into as well
        replaced(torch.autograd.Function, "apply", classmethod(plain_apply)),
        interpreting(),
        mode or Smooth(),
    ):
        yield
