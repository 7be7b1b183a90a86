"""A model as it would be if every operation in it could be differentiated.

The values are the model's own; where its derivative is zero, missing, saturated or replaced, that of a similar smooth
operation is taken: the backward pass differentiable approximation of Athalye et al. 2018 (section 4.1), chosen
operation by operation while the model runs. What hides gradients (detach, no_grad, hooks, custom backward passes) is
undone, and the model is not told that it is being differentiated.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softsign
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from nofreelunch.evaluation.remedies import choices, masks
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
_PASSING = ("round", "floor", "ceil", "trunc", "fix", "clamp", "clip", "clamp_min", "clamp_max")
"""Rounded or cut off: the derivative is 1."""
_VIEWS = ("__getitem__", "slice", "select", "view", "view_as", "reshape", "unsqueeze", "squeeze", "expand", "expand_as",
          "flatten")  # fmt: skip
_TOGETHER = ("cat", "concat", "concatenate", "stack", "hstack", "vstack")
_HIDDEN = {"requires_grad": False, "grad_fn": None, "is_leaf": True}


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
        if (twin := _out_of_place(name)) is not None and isinstance(args[0], Tensor):
            given = (args[0].clone(), *args[1:])
            return self._written(args[0], Smooth.__torch_function__(self, getattr(Tensor, twin), types, given, kwargs))
        if isinstance(out := kwargs.get("out"), Tensor):
            others = {option: value for option, value in kwargs.items() if option != "out"}
            return self._written(out, Smooth.__torch_function__(self, function, types, args, others))
        if (rule := _RULES.get(name)) is not None and args and isinstance(args[0], Tensor):
            return rule(self, function, args, kwargs)
        made = function(*args, **kwargs)
        if name in _TOGETHER:
            return self._together(function, made, args, kwargs)
        return self._in_numbers(function, made, args, kwargs) if name in _FLOATS else made

    def _written(self, where: Tensor, made: Tensor) -> Tensor:
        """What was made, with all that is known of it, where an operation in place would have left it."""
        where.copy_(made)
        for known in (self.surrogates, self.scores, self.heights):
            known.pop(where, None)
            if made in known:
                known[where] = known[made]
        return where

    def _together(self, function: Any, made: Tensor, args: Any, kwargs: Any) -> Tensor:
        """Masks or integers joined to one tensor."""
        smooth = [self.smooth(part) for part in args[0]]
        floats = [one.dtype for one, part in zip(smooth, args[0], strict=True) if one is not part]
        if floats and not made.is_floating_point():
            self.surrogates[made] = function([one.to(floats[0]) for one in smooth], *args[1:], **kwargs)
        return made

    def _in_numbers(self, function: Any, made: Any, args: Any, kwargs: Any) -> Any:
        """What is made of numbers some of which have surrogates; integers stay what they are: they may be an index."""
        given = [*args, *kwargs.values()]
        changed = [other for one, other in zip(given, map(self.smooth, given), strict=True) if one is not other]
        if not changed:
            return made

        def as_float(value: Any) -> Any:
            other = self.smooth(value)
            whole = isinstance(other, Tensor) and other.dtype in (*_INTEGERS, torch.bool)
            return other.to(changed[0].dtype) if whole else other

        options = {name: as_float(value) for name, value in kwargs.items() if name != "dtype"}
        surrogate = function(*map(as_float, args), **options)
        if made.is_floating_point():
            return surrogate.to(made.dtype)
        self.surrogates[made] = straight(made.to(surrogate.dtype), surrogate)
        return made

    def smooth(self, value: Any) -> Any:
        """Its smooth surrogate, if it has one, or the value."""
        return self.surrogates.get(value, value) if isinstance(value, Tensor) else value

    def _attribute(self, function: Any, args: tuple[Any, ...]) -> Any:
        name = getattr(getattr(function, "__self__", None), "__name__", "")
        if name in _HIDDEN and not isinstance(args[0], nn.Parameter):
            return _HIDDEN[name]
        return self.keep(function, args, {}) if name == "data" else function(*args)

    def through(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Rounding and cutting off: the derivative is 1."""
        made = function(*args, **kwargs)
        return straight(made, args[0]) if made.is_floating_point() else made

    def drop(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What is left over by rounding: its derivative would undo that of what was rounded."""
        made = function(*args, **kwargs)
        return made.detach() if made.is_floating_point() else made

    def divide(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Rounded or not, the derivative is that of the quotient."""
        exact = torch.true_divide(self.smooth(args[0]), self.smooth(masks.second(args, kwargs)))
        made = function(*args, **kwargs)
        if made.is_complex():
            return made
        if made.is_floating_point():
            return straight(made, exact)
        self.surrogates[made] = straight(made.to(exact.dtype), exact)
        return made

    def levels(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The number of an interval: rises with what falls into it."""
        made, given = function(*args, **kwargs), args[operation_name(function) == "searchsorted"]
        if isinstance(given, Tensor) and given.is_floating_point():
            self.surrogates[made] = straight(made.to(given.dtype), given)
        return made

    def shift(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Bits of integers, shifted to the left or the right: multiplied or divided."""
        made, by, given = function(*args, **kwargs), masks.second(args, kwargs), self.smooth(args[0])
        if given is not args[0] and isinstance(by, int):
            factor = 2.0**by if "left" in operation_name(function) or "lshift" in operation_name(function) else 2.0**-by
            self.surrogates[made] = straight(made.to(given.dtype), given * factor)
        return made

    def keep(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Detaching: it is not done, but of parameters and the like, which do not hang on the input."""
        leaf = args[0].is_leaf and args[0].requires_grad
        return args[0] if args[0].is_floating_point() and not leaf else function(*args, **kwargs)

    def copy(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Masks and integers are copied among numbers as what they are there."""
        return function(args[0], self.smooth(args[1]) if args[0].is_floating_point() else args[1], *args[2:], **kwargs)

    def watch(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What asks for its own gradient gets it, though it is no leaf; nothing is told to do without."""
        if args[0].is_leaf:
            return function(*args, **kwargs)
        if (*args[1:], *kwargs.values(), True)[0]:
            args[0].retain_grad()
        return args[0]

    def differentiate(self, function: Any, args: Any, kwargs: Any) -> Any:
        """A backward pass within the model leaves the graph for ours."""
        return function(*args, **{**kwargs, "retain_graph": True})

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

    def copy_sign(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The size of one number with the sign of another."""
        sign = masks.second(args, kwargs)
        soft = softsign(sign) if isinstance(sign, Tensor) else sign
        return straight(function(*args, **kwargs), args[0].abs() * soft)

    def squash(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Steps, and sigmoids, whose derivative underflows."""
        return straight(function(*args, **kwargs), softsign(args[0]))

    def softmax(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Its logarithm's derivative: it orders the classes alike, and does not underflow."""
        dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        return straight(function(*args, **kwargs), args[0].log_softmax(-1 if dim is None else dim))

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


_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_PASSING, Smooth.through),
    **dict.fromkeys(("remainder", "fmod", "frac", "__mod__"), Smooth.drop),
    **dict.fromkeys(("div", "divide", "floor_divide", "__floordiv__"), Smooth.divide),
    **dict.fromkeys(("bucketize", "searchsorted"), Smooth.levels),
    **dict.fromkeys(("__rshift__", "bitwise_right_shift", "__lshift__", "bitwise_left_shift"), Smooth.shift),
    **dict.fromkeys(("detach", "detach_"), Smooth.keep),
    "copy_": Smooth.copy,
    "requires_grad_": Smooth.watch,
    "backward": Smooth.differentiate,
    **dict.fromkeys(_CASTS, Smooth.cast),
    **dict.fromkeys(("sign", "sgn", "heaviside", "sigmoid", "tanh", "hardtanh", "hardsigmoid"), Smooth.squash),
    **dict.fromkeys(("softmax", "_softmax"), Smooth.softmax),
    "copysign": Smooth.copy_sign,
    **dict.fromkeys(_VIEWS, Smooth.view),
    **dict.fromkeys(("numpy", "tolist", "item", "__float__", "__int__", "__bool__", "__index__"), Smooth.array),
    **masks.RULES,
    **choices.RULES,
}


def _out_of_place(name: str) -> str | None:
    """Of an operation in place the one that is not, if that has a rule: clamp of clamp_, __add__ of __iadd__."""
    dunder = name.endswith("__")
    twin = "__" + name.removeprefix("__i") if dunder and name.startswith("__i") else name.removesuffix("_")
    known = twin != name and (twin in _RULES or twin in _FLOATS) and name not in _RULES
    return twin if known else None


def _uncompiled() -> AbstractContextManager[Any]:
    """What was compiled is looked into as well; where nothing was, the compiler is not imported for it."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def bpda(mode: Smooth | None = None) -> Iterator[None]:
    """Inside the block every operation is differentiable."""
    with (
        torch.set_grad_enabled(torch.is_grad_enabled()),  # put back at the end, whatever the model has switched
        unseen(),
        _uncompiled(),
        replaced(torch.autograd.Function, "apply", classmethod(plain_apply)),
        interpreting(),
        mode or Smooth(),
    ):
        yield
