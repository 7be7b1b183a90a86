"""TorchScript, run operation by operation: the values are its own, and what hides gradients in it is seen."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nofreelunch.errors import InputError
from nofreelunch.evaluation.remedies.torchscript import interpreted
from nofreelunch.evaluation.remedies.wrappers import BPDA
from nofreelunch.evaluation.subject import Subject


class Language(nn.Module):
    """Branches, loops, lists, tuples, defaults and attributes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor, rounds: int = 3, scale: float = 2.0) -> Tensor:
        parts: list[Tensor] = []
        for layer in self.layers:
            x = torch.tanh(layer(x))
            parts.append(x[:, : x.shape[1] // 2])
        for count in range(rounds):
            x = x + count if bool(x.sum() > 0) else x - scale * count
            if count + 1 in [2, 5]:
                break
        highest, place = x.max(1)
        self.seen = self.seen + 1
        table = {"sum": torch.cat(parts[1:], dim=1).sum(1), "most": highest}
        return torch.stack([table["sum"], table["most"], place.to(x.dtype), x.mean(dim=1, dtype=x.dtype)], 1)


class Hides(nn.Module):
    """The input is rounded and leaves the graph on its way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.round(x.detach() * 4) / 4)


class Raises(Hides):
    """An error of its own, where an input is large."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.max() > 1):
            raise ValueError("too large")
        return self.net(x)


def rounded(x: Tensor) -> Tensor:
    return torch.round(x * 4) / 4


def scripted(code: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        return torch.jit.script(code)


def points() -> Tensor:
    return torch.rand(5, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("given", [(), (2,), (7, 0.5)])
def test_the_language_is_run_as_torchscript_runs_it(given: tuple[float, ...], sign: int) -> None:
    program, x = scripted(Language().eval()), sign * points()
    assert torch.equal(interpreted(program, x, *given), program(x, *given))
    assert program.seen == 2  # both have counted


def as_it_is(program: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return program


def in_a_module(program: Callable[[Tensor], Tensor]) -> nn.Module:
    assert isinstance(program, nn.Module)
    return nn.Sequential(nn.Identity(), program)


@pytest.mark.parametrize("used", [as_it_is, in_a_module])
@pytest.mark.parametrize("made", [scripted, lambda module: torch.jit.trace(module, points())], ids=["script", "trace"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_a_program_hides_is_seen(made: Callable[[nn.Module], nn.Module], used: Callable[..., Any]) -> None:
    module, z = Hides().eval(), points().requires_grad_()
    logits = BPDA(Subject(used(made(module))))(z)
    assert torch.equal(logits, module(z))
    (slope,) = torch.autograd.grad(logits[:, 0].sum(), z)
    torch.testing.assert_close(slope, module.net.weight[0].detach().expand(5, 6))


def test_a_script_function_is_seen_through() -> None:
    function, net, z = scripted(rounded), Hides().net, points().requires_grad_()
    logits = BPDA(Subject(lambda x: net(function(x))))(z)
    (slope,) = torch.autograd.grad(logits[:, 0].sum(), z)
    torch.testing.assert_close(slope, net.weight[0].detach().expand(5, 6))


def test_an_error_of_the_program_s_own_is_told_by_torchscript() -> None:
    model = BPDA(Subject(scripted(Raises().eval())))
    assert model(points()).shape == (5, 3)
    with pytest.raises(InputError, match="cannot take x") as caught:
        model(points() + 1)
    assert isinstance(caught.value.__cause__, torch.jit.Error)
    assert "too large" in str(caught.value.__cause__)


def test_outside_of_the_block_torchscript_runs_programs_again() -> None:
    call = nn.Module.__call__, torch.jit.ScriptFunction.__call__
    BPDA(Subject(scripted(Hides().eval())))(points())
    assert (nn.Module.__call__, torch.jit.ScriptFunction.__call__) == call
