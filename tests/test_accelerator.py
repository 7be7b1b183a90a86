"""Attacks, evaluation, training and explanation where models do not lie in the CPU's memory: the same results."""

import copy
import dataclasses
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nofreelunch as nfl
from accelerator import DEVICE, accelerator
from nofreelunch.attacks import APGD, FAB, PGD, Attack, EachTarget, Square
from nofreelunch.data import Dataset
from nofreelunch.evaluation import catalogue
from nofreelunch.evaluation.protocols import Protocol
from nofreelunch.evaluation.remedies import substitute
from nofreelunch.experiments import explanation
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.training.devices import Devices
from nofreelunch.training.events import Event, Step

pytestmark = pytest.mark.usefixtures("unchecked")

IMAGES = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
THREATS = (nfl.Linf(0.1), nfl.L2(0.5))
SMALL = Protocol(
    "small",
    first=("pgd", lambda threat: PGD(threat, steps=3)),
    main={
        "apgd-ce": lambda threat: APGD(threat, steps=6, patience=1.0),
        "apgd-t": lambda threat: EachTarget(APGD(threat, steps=6, loss="dlr-targeted", patience=1.0), 2),
        "fab-t": lambda threat: EachTarget(FAB(threat, steps=5, reach=1.1), 2),
        "square": lambda threat: Square(threat, steps=15, patience=1.0),
    },
    harder=lambda threat: EachTarget(APGD(threat, steps=8, loss="dlr-targeted"), 2),
    sample=4,
    probing=2,
    thorough=2,
    longest=8,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 4))
    return nn.Sequential(*layers).eval()


class Rounded(nn.Module):
    """It sees eight levels of grey."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.network((8 * x).round() / 8)


class Counting(Rounded):
    """Its answer depends on how often it was asked."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x) + (self.calls % 3) * torch.eye(4, device=x.device)[0]


class Affine(Rounded):
    """The closed form's."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


LABELS = network()(IMAGES).argmax(1)


def test_it_refuses_what_a_gpu_refuses() -> None:
    with accelerator() as device:
        there = torch.ones(3, device=device)
        assert (2 * there + torch.tensor(1.0)).tolist() == [3, 3, 3]
        assert there[torch.tensor([0, 1])].device == device
        for wrong in (
            lambda: there + torch.ones(3),
            lambda: torch.ones(3)[there.long()],
            lambda: there.index_select(0, torch.tensor([0])),
            lambda: torch.rand(3, generator=torch.Generator(), device=device),
        ):
            with pytest.raises(RuntimeError):
                wrong()
        with pytest.raises(TypeError):
            there.numpy()


ATTACKS: dict[str, Callable[[Threat], Attack]] = {
    "pgd": lambda threat: PGD(threat, steps=4),
    "apgd": lambda threat: EachTarget(APGD(threat, steps=6, loss="dlr-targeted"), 2),
    "fab": lambda threat: FAB(threat, steps=6),
    "square": lambda threat: Square(threat, steps=20),
}


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_find_the_same_points(name: str, threat: Threat) -> None:
    attack = ATTACKS[name](threat)
    expected = attack(network(), IMAGES, LABELS, torch.Generator().manual_seed(0))
    with accelerator() as device:
        model, x, y = network().to(device), IMAGES.to(device), LABELS.to(device)
        found = [attack(model, x, y, rng) for rng in (torch.Generator().manual_seed(0), streams_of(0))]
        assert all(z.device == device and threat.contains(z, x).all() for z in found)
        assert torch.equal(found[0].cpu(), expected)


def streams_of(seed: int) -> Streams:
    return Streams.for_examples(seed, torch.arange(len(IMAGES)))


CASES = (
    (network, THREATS[1]),
    (Rounded, THREATS[0]),
    (Counting, THREATS[0]),
    (Affine, THREATS[1]),
)


@pytest.mark.parametrize(("make", "threat"), CASES, ids=lambda value: getattr(value, "norm", None) or value.__name__)
def test_evaluations_are_the_same(
    make: Callable[[], nn.Module], threat: Threat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in ((substitute, "_STEPS", 5), (catalogue, "_DIRECTIONS", (8, 8)), (catalogue, "_MANY", 8)):
        monkeypatch.setattr(module, name, value)
    expected = nfl.evaluate(make(), (IMAGES, LABELS), threat, SMALL, keep_examples=True)
    with accelerator() as device:
        x, y = IMAGES.to(device), LABELS.to(device)
        found = nfl.evaluate(make().to(device), (x, y), threat, SMALL, keep_examples=True, out=tmp_path)
    for name in ("robust", "by_attack", "flags", "broken_by", "certified", "exact"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.x_adv is not None
    assert threat.contains(found.x_adv, IMAGES).all()


def test_a_randomised_model_is_evaluated_there() -> None:
    class Noisy(Affine):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network(x)
            return logits + 0.05 * torch.randn(logits.shape, device=x.device)

    short = Protocol("short", ("pgd", lambda threat: PGD(threat, 1)), {}, lambda threat: PGD(threat, 1), 2, 1, 1)
    with accelerator() as device:
        found = nfl.evaluate(Noisy().to(device), (IMAGES[:2], LABELS[:2]), nfl.Linf(0.1), short)
    assert "randomised" in {flag.name for flag in found.flags}


class There(Devices):
    """One process, whose module and tensors lie on the accelerator."""

    def __init__(self, device: str, precision: str) -> None:
        super().__init__("cpu", precision)
        self.device = DEVICE

    def setup(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> Any:
        return self._fabric.setup(model, optimiser, move_to_device=False)

    def total(self, value: Tensor) -> Tensor:
        return value

    def largest(self, number: int) -> int:
        return number

    def all_gather(self, rows: Tensor) -> Tensor:
        return rows


@pytest.fixture
def on_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(importlib.import_module("nofreelunch.training.train"), "Devices", There)
    with accelerator():
        yield


def digits() -> Dataset:
    data = nfl.load_data("mnist")
    return dataclasses.replace(data, train=data.train.take(96))


def settings(recipe: str, **changes: Any) -> nfl.TrainConfig:
    usual: dict[str, Any] = {
        "arch": "mnist-cnn-small", "epochs": 2, "batch_size": 32, "holdout": 0.2, "ema": 0.9, "lr": 1e-3,
        "attack_precision": "float32", "weight_decay": 1e-3, "seed": 1,
    }  # fmt: skip
    return nfl.TrainConfig(threat=nfl.Linf(0.1), recipe=recipe, **(usual | changes))


@pytest.mark.parametrize("recipe", ["pgd-at", "bullet-train", "fgsm-rs", "n-fgsm", "free", "trades"])
def test_every_recipe_trains_there(recipe: str, on_accelerator: None) -> None:
    made = {"attack": "pgd-5"} if recipe in ("pgd-at", "trades") else {}
    model = nfl.train(digits(), settings(recipe, augment="crop", **made), device="cpu")
    assert all(weight.device == DEVICE and weight.isfinite().all() for weight in model.parameters())
    assert model.card.metrics["held_out_clean"] > 0


class Stopped(Exception):
    """As if the process had ended."""


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_run_goes_on_there(optimiser: str, on_accelerator: None, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Step) and event.step >= 4:
            raise Stopped

    config = settings("free", optimiser=optimiser)
    whole = nfl.train(digits(), config, device="cpu")
    with pytest.raises(Stopped):
        nfl.train(digits(), config, tmp_path, device="cpu", report=stop)
    resumed = nfl.train(digits(), config, tmp_path, device="cpu")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name].cpu(), value.cpu())


def test_an_explanation_is_the_same() -> None:
    data, asked = nfl.load_data("mnist"), explanation.Settings(nfl.Linf(0.1), n=2, measure=4, points=3)
    model = nfl.load_model("zoo:mnist-linf-0.3")
    expected = explanation.explain(copy.deepcopy(model), data, asked)
    with accelerator() as device:
        found = explanation.explain(model, data, asked, str(device))
    assert (found.labels, found.flat) == (expected.labels, expected.flat)
    for name, estimate in expected.measures.items():
        assert found.measures[name] == pytest.approx(estimate, rel=1e-4)
