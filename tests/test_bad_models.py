"""Bad uses, lines 29 to 40: models in another state, of another kind, or none at all; an evaluation that is stopped."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bad_uses import (
    NET,
    Commands,
    Refused,
    X,
    _no_type_checker,
    asked,
    attacked,
    evaluated,
    here,
    line,
    names,
    refused,
    refused_by_command,
    run,
)  # fmt: skip
from nofreelunch.evaluation.trial import Trial
from nofreelunch.threats import Linf

__all__ = ["_no_type_checker", "here"]


@dataclass
class Answer:
    logits: Tensor


def doubled(z: Tensor) -> Tensor:
    return torch.stack([NET(z), NET(z)], 2)


ELSEWHERE = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, device="meta"))
REFUSED: Refused = {
    "one logit": (30, lambda: attacked(lambda z: NET(z)[:, 0]), r"logits \(n, k\), got \(24,\).*\[-z, z\]"),
    "one column": (30, lambda: evaluated(lambda z: NET(z)[:, :1]), r"at least 2 logits, got 1; .*\[-z, z\]"),
    "three dimensions": (30, lambda: evaluated(doubled), r"logits \(n, k\), got \(2, 2, 2\)"),
    "a tuple": (31, lambda: attacked(lambda z: (NET(z), z)), "tensor of logits, got tuple; wrap it"),
    "a dict": (31, lambda: evaluated(lambda z: {"logits": NET(z)}), "tensor of logits, got dict; wrap it"),
    "a dataclass": (31, lambda: evaluated(lambda z: Answer(NET(z))), "tensor of logits, got Answer; wrap it"),
    "complex numbers": (31, lambda: attacked(lambda z: NET(z) * 1j), "must return real logits, got torch.complex64"),
    "complex numbers, evaluated": (31, lambda: evaluated(lambda z: NET(z) * 1j), "real logits, got torch.complex64"),
    "no weights yet": (31, lambda: evaluated(nn.Sequential(nn.Flatten(), nn.LazyLinear(2))), "call it once on a batch"),
    "another device": (35, lambda: attacked(ELSEWHERE), "the model is on meta and x on cpu; move one of them"),
    "a path": (39, lambda: evaluated("model.pt"), "callable from inputs to logits, got 'model.pt'"),
    "a class": (39, lambda: evaluated(nn.Linear), r"got the class Linear; write Linear\(\.\.\.\)"),
    "nothing": (39, lambda: attacked(None), "callable from inputs to logits, got None"),
}
asked(REFUSED)

OF_HALVES = ["--data", "npz:halves.npz", "--threat", "linf", "--eps", "0.1"]
COMMANDS: Commands = {
    "a class": (39, ["evaluate", "python:toy_nets:nn", *OF_HALVES], "unknown factory|failed|must return"),
    "no module": (39, ["evaluate", "python:toy_nots:linear", *OF_HALVES], "No module named 'toy_nots'"),
    "no model": (39, ["evaluate", "halves.npz", *OF_HALVES], "neither a .safetensors nor an .onnx file"),
    "a factory misspelt": (39, ["evaluate", "python:toy_nets:liner", *OF_HALVES], 'did you mean "linear"'),
}
asked(COMMANDS)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    _, use, words = REFUSED[name]
    refused(use, words)


@pytest.mark.parametrize("name", COMMANDS)
def test_refused_by_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, words, said = COMMANDS[name]
    refused_by_command(words, said, capsys)


@line(29)
def test_a_model_in_training_mode_is_evaluated_as_in_use_and_given_back() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 1)), nn.BatchNorm3d(1), nn.Dropout(), nn.Flatten(), NET[1])
    model[2].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = evaluated(model)
    attacked(model)
    assert "training mode" in found.notes[0]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    NET.eval()


@line(32)
@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid()])
def test_probabilities_are_flagged(last: nn.Module) -> None:
    sharp = nn.Sequential(NET, last)
    assert "probabilities" in names(evaluated(sharp, threat=Linf(0)))


@line(33)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients_get_the_same(mode: Callable[[], Any]) -> None:
    expected = attacked(), evaluated().broken_by
    with mode():
        assert torch.equal(attacked(), expected[0])
        assert evaluated().broken_by == expected[1]


@line(34)
def test_frozen_parameters_are_no_obstacle() -> None:
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).requires_grad_(False)
    frozen.load_state_dict(NET.state_dict())
    assert torch.equal(attacked(frozen), attacked())
    assert evaluated(frozen).broken_by == evaluated().broken_by


@line(36)
def test_half_precision_is_flagged_and_autocast_switched_off() -> None:
    half = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).bfloat16()
    half.load_state_dict(NET.state_dict())
    assert "half-precision" in names(evaluated(half, threat=Linf(0)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attacked(), attacked())
        inside = evaluated()
    assert inside == evaluated()


class Noisy(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return NET(z) + torch.randn(len(z), 2)


class Together(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return NET(z - z.mean() + 0.5)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, z: Tensor) -> Tensor:
        self.calls += 1
        return NET(z) * (1 + self.calls)


@line(37)
@pytest.mark.parametrize(
    ("model", "flag"), [(Noisy(), "randomised"), (Together(), "batch-dependent"), (Counting(), "stateful")]
)
def test_models_that_are_no_functions_are_flagged(model: nn.Module, flag: str) -> None:
    assert flag in names(evaluated(model, threat=Linf(0)))


def traced() -> nn.Module:
    found: nn.Module = torch.jit.trace(NET, X)
    return found


def quantised() -> nn.Module:
    found: nn.Module = torch.ao.quantization.quantize_dynamic(NET, {nn.Linear}, dtype=torch.qint8)
    return found


KINDS: dict[str, Callable[[], Any]] = {
    "a function": lambda: lambda z: NET(z),
    "DataParallel": lambda: nn.DataParallel(NET),
    "traced": traced,
}


@line(38)
@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_models_are_answered_like_the_plain_one(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on what is deprecated
        model = KINDS[kind]()
        assert torch.equal(attacked(model), attacked())
        found = evaluated(model, threat=Linf(0))
    assert found.trusted, found
    assert found.clean == evaluated(threat=Linf(0)).clean


@line(38)
def test_a_quantised_model_has_no_gradient_and_that_is_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluated(quantised(), threat=Linf(0))
    assert found.clean == evaluated(threat=Linf(0)).clean
    assert not found.trusted


@line(40)
def test_an_interrupt_keeps_what_is_done_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, stops = Trial.clean, [True]

    def interrupted(self: Trial) -> Any:
        found = clean(self)
        if stops.pop():
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "clean", interrupted)
        assert run("Bent", "--eps", "0.02") == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "stopped: the same command goes on from what was kept, if anything was"
    assert os.listdir("runs/evaluate/evaluation.state")
    assert run("Bent", "--eps", "0.02") in (0, 3)
