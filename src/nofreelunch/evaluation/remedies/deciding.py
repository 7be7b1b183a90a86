"""What a model decides for each example, written down while it runs, and made otherwise for it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from nofreelunch.evaluation.remedies.bpda import Smooth
from nofreelunch.evaluation.remedies.choices import dim_of_choice, sign_of_choice
from nofreelunch.models.tracing import operation_name
from nofreelunch.types import Labels

_WAYS_OUT = {"numpy", "__array__", "tolist", "item", "__dlpack__", "__bool__", "__int__", "__float__", "__index__"}
"""By these a tensor's values leave torch: from then on, what comes from elsewhere may have been made of them."""


@dataclass(frozen=True)
class Decision:
    """What a model decides for each example.

    Attributes:
        value: the side taken (n,).
        rising: what rises towards each side (n, sides), if that is known.
        measured: whether that is what the model compares: its values are true then, and not only its slopes.
        heeded: whether anything was made of it: of the largest its value may be all that is wanted.
        derived: whether it was made of other decisions alone, as the complement of a mask.
    """

    value: Labels
    rising: Tensor | None
    measured: bool
    heeded: bool = True
    derived: bool = False

    @property
    def sides(self) -> int:
        """How many there are to choose from."""
        return 2 if self.rising is None else self.rising.shape[1]

    def follows(self, other: "Decision") -> bool:
        """Whether this one is settled by what the other one was; that it is always alike may be chance."""
        if (self.value == self.value[0]).all():
            return self.derived
        groups = (self.value[other.value == side] for side in range(other.sides))
        return all(len(group) == 0 or bool((group == group[0]).all()) for group in groups)


class Deciding(Smooth):
    """Writes down what is decided for each example, masks and choices of the largest, and makes one of the decisions.

    Args:
        z: the examples; what does not hang on them is no decision.
        place: of the decision that is made, in the order in which the model makes them.
        side: how it is made.

    Attributes:
        seen: the decisions.
    """

    def __init__(self, z: Tensor, place: int = -1, side: int = 0) -> None:
        super().__init__()
        self._rows, self._place, self._side = len(z), place, side
        self._hanging: Any = WeakTensorKeyDictionary({z: True})  # of each tensor that was made, whether it hangs on z
        self._left = False
        self._places: Any = WeakTensorKeyDictionary()
        self.seen: list[Decision] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation, or what is decided."""
        name, given = operation_name(function), [*_tensors((*args, *(kwargs or {}).values()))]
        for place in (self._places[one] for one in given if one in self._places):
            self.seen[place] = replace(self.seen[place], heeded=True)
        made = super().__torch_function__(function, types, args, kwargs)
        hangs = any(map(self._hangs, given)) if given else self._left
        self._left |= hangs and name in _WAYS_OUT
        for one in _tensors((made, *given[: _in_place(name)])):
            self._hanging[one] = hangs
        if not hangs:
            return made
        sign = sign_of_choice(function, args, kwargs or {})
        if sign and dim_of_choice(function, args, kwargs or {}) in (-1, given[0].dim() - 1):
            return self._choice(made, given[0], sign)
        if not isinstance(made, Tensor) or made.dtype != torch.bool:
            return made
        if made.shape[:1] != (self._rows,) or made.numel() != self._rows:
            return made
        derived = all(one in self._places for one in given)
        decision = Decision(made.flatten().long(), self._rising(made), made in self.heights, derived=derived)
        self._places[made] = len(self.seen)
        return torch.full_like(made, self._side) if self._decides(decision) else made

    def _hangs(self, tensor: Tensor) -> bool:
        """Whether the examples have a say in it."""
        from_elsewhere = self._left and not isinstance(tensor, nn.Parameter)
        return bool(self._hanging.get(tensor, from_elsewhere))

    def _choice(self, made: Any, given: Tensor, sign: int) -> Any:
        """The largest (or smallest) values, if they are asked for, and where they stand: the first is decided."""
        if len(given) != self._rows or given.shape[:-1].numel() != self._rows:
            return made
        index: Tensor = made if isinstance(made, Tensor) else made[1]
        among, chosen = given.flatten(1), index.reshape(self._rows, -1)
        self._places[index] = len(self.seen)
        if not self._decides(Decision(chosen[:, 0], (sign * among).log_softmax(1), measured=True, heeded=False)):
            return made
        chosen = torch.cat([torch.full_like(chosen[:, :1], self._side), chosen[:, 1:]], 1)
        if isinstance(made, Tensor):
            return chosen.view_as(index)
        return type(made)((among.gather(1, chosen).view_as(made[0]), chosen.view_as(index)))

    def _decides(self, decision: Decision) -> bool:
        """Writes it down; whether it is the one that is made for the model, and has that side."""
        self.seen.append(decision)
        return len(self.seen) - 1 == self._place and self._side < decision.sides

    def _rising(self, mask: Tensor) -> Tensor | None:
        towards: Tensor | None = self.heights.get(mask, self.surrogates.get(mask))
        return None if towards is None else torch.stack([-towards, towards], -1).reshape(self._rows, 2)


def _in_place(name: str) -> bool:
    """Whether an operation changes its first argument."""
    return name == "__setitem__" or name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among some values, and within lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
