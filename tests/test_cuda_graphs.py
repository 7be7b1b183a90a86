"""Recorded passes, with a recorder of the CPU's that reuses its memory as CUDA graphs do."""

import gc
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from nofreelunch.models.cuda_graphs import CudaGraphs

NET = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).requires_grad_(False)
BATCHES = torch.rand(6, 5, 4, generator=torch.Generator().manual_seed(0))


class Recording(torch.autograd.Function):
    """Static memory for output and gradient, which every pass overwrites."""

    memory: ClassVar[dict[str, Tensor]] = {}

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            point = x.detach().clone().requires_grad_()
            output = function(point)
        Recording.memory |= {"point": point, "output": output}
        static = Recording.memory.setdefault("static output", torch.empty_like(output))
        return static.copy_(output.detach()).detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = torch.autograd.grad(Recording.memory["output"], Recording.memory["point"], grads[0])
        return Recording.memory.setdefault("static grad", torch.empty_like(grad)).copy_(grad).detach(), None


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that are recorded."""
    made: list[tuple[int, ...]] = []

    def record(function: Callable[[Tensor], Tensor], samples: tuple[Tensor]) -> Callable[[Tensor], Tensor]:
        made.append(tuple(samples[0].shape))
        return lambda x: Recording.apply(x, function)

    Recording.memory = {}
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return made


def gradient(model: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    point = x.clone().requires_grad_()
    logits = model(point)
    return logits.detach(), torch.autograd.grad(logits.cos().sum(), point)[0]


def test_recorded_passes_give_what_the_model_gives_in_memory_of_their_own(recordings: list[tuple[int, ...]]):
    graphs = CudaGraphs(NET)
    found = [gradient(graphs, x) for x in BATCHES]
    assert recordings == [(5, 4)]
    for x, (logits, grad) in zip(BATCHES, found, strict=True):
        torch.testing.assert_close((logits, grad), gradient(NET, x))


def test_a_second_forward_before_the_first_backward_disturbs_nothing(recordings: list[tuple[int, ...]]):
    graphs = CudaGraphs(NET)
    for x in BATCHES[:4]:
        gradient(graphs, x)
    one, two = (x.clone().requires_grad_() for x in BATCHES[4:])
    total = graphs(one).cos().sum() + graphs(two).cos().sum()  # the logits themselves are gone by now
    gc.collect()
    for x, grad in zip(BATCHES[4:], torch.autograd.grad(total, (one, two)), strict=True):
        torch.testing.assert_close(grad, gradient(NET, x)[1])


def test_a_pass_that_was_given_up_does_not_stand_in_the_way(recordings: list[tuple[int, ...]]):
    graphs = CudaGraphs(NET)
    for x in BATCHES[:4]:
        gradient(graphs, x)
    graphs(BATCHES[4].clone().requires_grad_())
    gc.collect()
    gradient(graphs, BATCHES[5])
    assert torch.equal(Recording.memory["point"], BATCHES[5])  # it ran recorded


def test_a_recording_that_gives_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch):
    def stale(function: Callable[[Tensor], Tensor], samples: tuple[Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: function(x) * 1.5

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", stale)
    graphs = CudaGraphs(NET)
    for x in BATCHES:
        torch.testing.assert_close(gradient(graphs, x), gradient(NET, x))


def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch: pytest.MonkeyPatch):
    def refuse(function: Callable[[Tensor], Tensor], samples: tuple[Tensor]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    graphs = CudaGraphs(NET)
    for x in BATCHES:
        torch.testing.assert_close(gradient(graphs, x), gradient(NET, x))
