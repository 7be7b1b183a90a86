"""Training that starts from another model, and the paper's training for Restricted ImageNet."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from nofreelunch.data import Dataset, Split
from nofreelunch.errors import InputError
from nofreelunch.models import build, load_model, save_model
from nofreelunch.models.classifier import Pixels
from nofreelunch.rng import Streams
from nofreelunch.threats import L2, Linf
from nofreelunch.training import TrainConfig, start, train
from nofreelunch.training.augment import resized_crop_flip
from nofreelunch.training.events import Event, Step
from nofreelunch.training.optimisers import optimiser
from nofreelunch.training.presets import preset
from nofreelunch.training.schedules import SCHEDULES, progress
from nofreelunch.training.start import initial_model
from nofreelunch.training.state import State, load_state, save_state
from nofreelunch.workspace import digest, plain
from training_toy import toy_config, toy_data

ARCH = "mnist-cnn-small"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A saved model of other first weights, which normalises its pixels in its own way."""
    path = tmp_path / "source.safetensors"
    save_model(build(ARCH, replace(toy_data(8), mean=(0.1,), std=(0.9,)), seed=7), path)
    return str(path)


def test_all_but_the_last_layer_is_the_other_model(source: str, tmp_path: Path) -> None:
    config = toy_config(arch=ARCH, start=source)
    theirs, fresh = load_model(source).state_dict(), build(ARCH, toy_data(), config.seed).state_dict()
    model = initial_model(toy_data(), config)
    for name, value in model.state_dict().items():
        expected = fresh if name.startswith("network.fc2.") else theirs
        assert torch.equal(value, expected[name]), name
    assert (model.card.mean, model.card.std) == (pytest.approx((0.1,)), pytest.approx((0.9,)))
    save_model(model, tmp_path / "begun.safetensors")
    x = toy_data().test.images(slice(9))
    assert torch.equal(load_model(tmp_path / "begun.safetensors")(x), model.eval()(x))


def test_a_network_of_torchvision_loses_its_thousand_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    network = resnet50(weights=None)
    monkeypatch.setattr(start, "load_model", lambda spec: nn.Sequential(Pixels((3, None, None), *IMAGENET), network))
    grey = toy_data(8)
    colours = (Split(part.x.expand(-1, 3, -1, -1), part.y, part.labels) for part in (grey.train, grey.test))
    data = Dataset("colours", grey.classes, (0.5,) * 3, (0.25,) * 3, *colours)
    begun = initial_model(data, toy_config(arch="resnet50", start="torchvision:resnet50")).state_dict()
    assert begun["network.fc.weight"].shape == (2, 2048)
    assert torch.equal(begun["pixels.std"].flatten(), torch.tensor(IMAGENET[1]))
    for name, value in network.state_dict().items():
        assert name.startswith("fc.") or torch.equal(begun[f"network.{name}"], value)


def test_a_start_of_another_kind_is_refused(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"source.safetensors does not fit the model: network.conv1.bias has shape \(16,\)"
    ):
        initial_model(toy_data(8), toy_config(arch="mnist-cnn", start=source))
    with pytest.raises(InputError, match=r"gone\.safetensors|gone\.json"):
        initial_model(toy_data(8), toy_config(arch=ARCH, start=str(tmp_path / "gone.safetensors")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_start.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(2, 2)\n")
    with pytest.raises(InputError, match="start must be a saved model, zoo:NAME or torchvision:NAME, got python:own"):
        initial_model(toy_data(8), toy_config(arch=ARCH, start="python:own_start:make"))


def test_a_network_of_the_users_goes_on_from_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layers = "nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()"
    Path("own_nets.py").write_text(
        f"from torch import nn\ndef deep():\n    return nn.Sequential({layers}, nn.Linear(4, 2))\n"
        "def conv():\n    return nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten())\n"
    )
    arch = "python:own_nets:deep"
    begun = train(toy_data(64), toy_config(arch=arch, epochs=1.0), "run").state_dict()
    tuned = initial_model(toy_data(64), toy_config(arch=arch, start="run/model.safetensors")).state_dict()
    assert torch.equal(tuned["network.0.weight"], begun["network.0.weight"])
    assert not torch.equal(tuned["network.3.weight"], begun["network.3.weight"])
    with pytest.raises(InputError, match="no file makes code run"):
        initial_model(toy_data(8), toy_config(arch=ARCH, start="run/model.safetensors"))
    with pytest.raises(InputError, match="start needs a network that ends in a linear layer"):
        initial_model(toy_data(8), toy_config(arch="python:own_nets:conv", start="zoo:mnist-standard"))


@pytest.mark.parametrize(
    ("forward", "threat", "words"),
    [
        ("self.last(x.flatten(1)).detach()", None, "no gradient to any weight"),
        ("x.flatten(1)[:, :2]", Linf(0.1), "no gradient to any weight"),
        ("self.last(x.detach().flatten(1))", Linf(0.1), r"against Linf\(.* no gradient to pixels"),
        ("self.last((x if self.training else x.detach()).flatten(1))", Linf(0.1), "no gradient to pixels"),
    ],
)
def test_a_network_without_gradients_is_not_trained(
    forward: str, threat: Linf | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"own_blind_{digest(forward.encode())[:8]}"
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\n\nclass Blind(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.last = nn.Linear(64, 2)\n    def forward(self, x):\n        return {forward}\n"
    )
    out, config = tmp_path / "run", toy_config(arch=f"python:{name}:Blind", threat=threat)
    with pytest.raises(InputError, match=words):
        train(toy_data(64), config, out)
    assert not out.exists()


def losses(config: TrainConfig, out: Path) -> list[float]:
    events: list[Event] = []
    train(toy_data(64), config, out, "cpu", events.append)
    return [event.loss for event in events if isinstance(event, Step)]


def test_what_a_run_starts_from_belongs_to_its_identity(source: str, tmp_path: Path) -> None:
    fresh, tuned = (toy_config(arch=ARCH, start=spec, epochs=1.0, holdout=0.0) for spec in ("", source))
    assert fresh.digest != tuned.digest
    assert TrainConfig.from_plain(plain(tuned)) == tuned
    first = losses(tuned, tmp_path / "out")
    assert len(first) == 2
    assert first[0] != losses(fresh, tmp_path / "plain")[0]
    assert losses(tuned, tmp_path / "out") == []  # found, not repeated
    with pytest.raises(InputError, match=r"start: saved .*source\.safetensors, now "):
        losses(fresh, tmp_path / "out")


def test_a_state_from_before_a_setting_existed_goes_on(tmp_path: Path) -> None:
    config = toy_config(epochs=1.0)
    assert losses(config, tmp_path)
    state, _ = load_state(tmp_path)
    assert state is not None
    older = {name: value for name, value in state.about["config"].items() if name != "start"}
    save_state(tmp_path, State({**state.about, "config": older}, state.tensors))
    assert losses(config, tmp_path) == []


# The paper's training for Restricted ImageNet


def test_the_paper_preset_is_the_released_training() -> None:
    for threat in (Linf(0.005), L2(1.0)):
        config = preset("paper", "restricted-imagenet", threat)
        attack = config.attack_on(threat)
        assert (attack.steps, attack.step_size, attack.random_start) == (8, pytest.approx(threat.eps / 4), True)
    settings = (config.arch, config.optimiser, config.batch_size, config.lr, config.weight_decay)
    assert settings == ("resnet50", "nesterov", 256, 0.1, 1e-4)
    assert config.epochs * 260_000 / 256 == pytest.approx(33_000)
    assert preset("paper", "restricted-imagenet").attack is None


def test_the_rate_falls_at_the_released_epochs() -> None:
    rates = [0.1 * SCHEDULES["imagenet-step"](progress(300 * epoch, 33_000)) for epoch in (0, 29, 30, 60, 85, 95, 105)]
    assert rates == pytest.approx([0.1, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])


def test_nesterovs_momentum_looks_ahead() -> None:
    """Three steps down w^2 / 2, by the formula."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    descent = optimiser("nesterov", model, 0.0)
    descent.param_groups[0]["lr"] = 0.1
    w, velocity = 1.0, 0.0
    for _ in range(3):
        descent.zero_grad()
        (model.weight.square().sum() / 2).backward()
        descent.step()
        velocity = 0.9 * velocity + w
        w -= 0.1 * (w + 0.9 * velocity)
        assert model.weight.item() == pytest.approx(w)


def test_a_resized_crop_is_a_part_of_its_image() -> None:
    """On an image whose channels are its coordinates, the result says where each pixel comes from."""
    side, n = 64, 300
    line = (torch.arange(side) + 0.5) / side
    ramps = torch.stack([line.expand(side, side), line[:, None].expand(side, side)])
    found = resized_crop_flip(ramps.expand(n, 2, side, side), Streams.for_examples(0, torch.arange(n)))
    across, down = found[:, 0, 0], found[:, 1, :, 0]
    mirrored = across[:, -1] < across[:, 0]
    assert 110 < mirrored.sum() < 190
    width, height = (abs(ends[:, 40] - ends[:, 23]) * side / 17 for ends in (across, down))
    area, ratio = width * height, (width / height).log() / torch.tensor(4 / 3).log()
    assert 0.079 < area.min() < 0.12
    assert 0.9 < area.max() < 1.001
    assert ratio.abs().max() < 1.001
    assert ratio.min() < -0.9
    assert ratio.max() > 0.9
    assert torch.allclose(found[:, 0], across[:, None].expand(-1, side, -1), atol=1e-5)  # straight, not turned
    starts = torch.cat([across.amin(1), down.amin(1)])
    assert starts.min() < 0.03
    assert starts.max() > 0.5


def test_a_resized_crop_belongs_to_the_image() -> None:
    x, streams = torch.rand(9, 3, 16, 16), Streams.for_examples(5, torch.arange(9))
    alone = resized_crop_flip(x[4:5], streams.take(slice(4, 5)))
    assert torch.equal(resized_crop_flip(x, streams)[4:5], alone)


def test_a_start_that_was_replaced_is_another_run(source: str, tmp_path: Path) -> None:
    """The path says nothing of what lies there."""
    config = toy_config(arch=ARCH, start=source)
    train(toy_data(), config, out=tmp_path / "run")
    save_model(build(ARCH, toy_data(8), seed=8), Path(source))
    with pytest.raises(InputError, match=r"source\.safetensors was another one then"):
        train(toy_data(), config, out=tmp_path / "run")


def test_a_network_whose_code_was_edited_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name says nothing of what it does, and its weights may fit all the same."""
    monkeypatch.chdir(tmp_path)
    code = Path("own_edited.py")
    code.write_text("from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n")
    config = toy_config(arch="python:own_edited:make")
    first = train(toy_data(), config, out=tmp_path / "run")
    again = train(toy_data(), config, out=tmp_path / "run")
    assert torch.equal(first.network[1].weight, again.network[1].weight)
    code.write_text(code.read_text().replace("nn.Flatten()", "nn.Flatten(), nn.Tanh()"))
    with pytest.raises(InputError, match="python:own_edited:make was another one then"):
        train(toy_data(), config, out=tmp_path / "run")
