"""What a model computes of each example as one number: written down while it answers.

A number by which a model switches is one of these, whatever is made of it afterwards.
"""

from collections import Counter
from collections.abc import Callable, Collection
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from nofreelunch.evaluation.remedies.bpda import Smooth, bpda
from nofreelunch.evaluation.subject import Subject
from nofreelunch.models.tracing import operation_name
from nofreelunch.types import Inputs, PerExample

Place: TypeAlias = tuple[int, int, int]
"""Of a number: which of the model's operations, which result (-1: what goes in), which column (-1: their mean)."""

_COLUMNS, _READ, _NUMBERS = 32, 512, 128
"""Columns of a table, numbers read, and numbers kept that differ, at most."""
_COMPARED = 4096
"""Coordinates of two slopes that are compared, about."""
_MEANT = 64
"""Columns of a table whose mean counts as a number too, at most: a gate may count how many of them are large."""
_PADDED = 128
"""So long may be what holds the numbers of a batch, where a model fills it up."""
_CHOOSERS = {"softmax", "_softmax", "log_softmax", "_log_softmax", "argmax", "max", "topk", "sort", "argsort"}
"""What goes in here counts by how far it is ahead."""
_ONE_OF_MANY = {"median", "nanmedian", "quantile", "nanquantile", "kthvalue"}
"""What comes out has the slope of one coordinate: the mean of what goes in has that of all."""
_PARTS = {"split", "chunk", "tensor_split", "narrow", "index_select", "slice", "__getitem__"}
"""By these a batch is cut up."""
_ALIKE = 0.99
"""The cosine of two slopes, of either sign, from which on one number says what the other says."""


class _Reading(Smooth):
    """Writes down every number per example that has a slope, and the columns of small tables of numbers.

    Args:
        rows: how many examples there are.
        only: of which operations; None: of all.

    Attributes:
        numbers: what was written, (rows,) each, by its place, which does not depend on how many examples there are.
        splits: whether the model goes through the batch one by one, or in parts.
    """

    def __init__(self, rows: int, only: Collection[int] | None = None) -> None:
        super().__init__()
        self._rows, self._only = rows, only
        self.numbers: dict[Place, PerExample] = {}
        self.splits, self._operations = False, 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation."""
        name = operation_name(function)
        self._operations += 1
        if self._only is not None and self._operations not in self._only:
            return super().__torch_function__(function, types, args, kwargs)
        if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            if name in _CHOOSERS and args[0].dim() == 2:
                self._write(args[0].log_softmax(1), -1)
            if name in _ONE_OF_MANY and args[0].shape[:1] == (self._rows,):
                self._write(args[0].flatten(1).mean(1), -1)
        made = super().__torch_function__(function, types, args, kwargs)
        for which, one in enumerate(made if isinstance(made, (tuple, list)) else (made,)):
            if isinstance(one, Tensor):
                self.splits |= self._is_part(name, args, one)
                self._write(self.smooth(one), which)
        return made

    def _is_part(self, name: str, args: tuple[Any, ...], made: Tensor) -> bool:
        """Whether this is one example, or some, of a batch of several."""
        if made.numel() <= 1 or self._rows == 1:
            return False
        given = args[0] if args and name in _PARTS else None  # there is none where all are named
        whole = isinstance(given, Tensor) and given.dim() == made.dim() and len(given) == self._rows
        return made.shape[:1] == (1,) or (whole and len(made) < self._rows)

    def _write(self, made: Tensor, which: int) -> None:
        with torch._C.DisableTorchFunction():
            while torch._C._functorch.is_batchedtensor(made):  # inside vmap there is no batch to see
                made = torch._C._functorch.get_unwrapped(made)
            if self._rows == 1 and made.dim() == 0:
                made = made[None]
            if made.dim() == 0 or made.numel() == 0 or not (made.is_floating_point() and made.requires_grad):
                return
            table = made.reshape(len(made), -1)
            if not self._rows <= len(table) <= max(_PADDED, self._rows):
                return
            if 1 < table.shape[1] <= _MEANT:
                self.numbers[self._operations, which, -1] = table[: self._rows].mean(1)
            if table.shape[1] <= _COLUMNS:
                columns = (table[: self._rows] * 1).T  # a copy: the model may go on in place
                self.numbers |= {(self._operations, which, count): column for count, column in enumerate(columns)}


def read(
    subject: Subject, z: Inputs, alone: bool, only: Collection[int] | None = None
) -> tuple[Tensor, dict[Place, PerExample], bool]:
    """The model's logits, its numbers, and whether it splits the batch; `alone`: asked for one example at a time."""
    if alone and len(z) > 1:
        answers = [read(subject, row, True, only) for row in torch.split(z, 1)]
        places = [place for place in answers[0][1] if all(place in found for _, found, _ in answers)]
        numbers = {place: torch.cat([found[place] for _, found, _ in answers]) for place in places}
        return torch.cat([logits for logits, _, _ in answers]), numbers, False
    mode, z = _Reading(len(z), only), z if z.requires_grad else z.detach().requires_grad_()
    with torch.enable_grad(), bpda(mode):
        logits = subject.differentiable(z)
    return logits, mode.numbers, mode.splits


def different(subject: Subject, x: Inputs) -> list[tuple[Place, bool]]:
    """The places of numbers that have slopes, each of its own, and whether the model must be asked one by one."""
    at = x.detach().requires_grad_()
    logits, numbers, splits = read(subject, at, False)
    found, known = list[tuple[Place, bool]](), list[Tensor]()
    for alone in (False, True) if splits else (False,):
        for place, number in islice(_single_first(read(subject, at, True)[1] if alone else numbers), _READ):
            is_answer = any(torch.equal(number, column) for column in logits.T)
            slope = None if is_answer else _slope(number, at)
            if slope is None or any((functional.cosine_similarity(slope, one).abs() > _ALIKE).all() for one in known):
                continue
            known.append(slope)
            found.append((place, alone))
    return found[:_NUMBERS]


def _single_first(numbers: dict[Place, PerExample]) -> list[tuple[Place, PerExample]]:
    """Numbers that stand alone, and means, before the columns of tables, of which one table may have many."""
    columns = Counter(place[:2] for place in numbers if place[2] >= 0)
    return sorted(numbers.items(), key=lambda item: item[0][2] >= 0 and columns[item[0][:2]] > 1)


def _slope(number: PerExample, at: Inputs) -> Tensor | None:
    """The number's gradient, flat, at some of the coordinates if there are many; None if it has none."""
    if not number.requires_grad:
        return None
    (slope,) = torch.autograd.grad(number.sum(), at, retain_graph=True, allow_unused=True)
    if slope is None or not slope.isfinite().all() or not slope.any():
        return None
    return slope.flatten(1)[:, :: 1 + slope[0].numel() // _COMPARED]
