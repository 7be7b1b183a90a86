"""What a run is said to take is what it takes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nofreelunch.attacks import gradient
from nofreelunch.errors import InputError
from nofreelunch.training import RECIPES, folder, train
from nofreelunch.training.cost import Cost, estimate, passes_per_image
from nofreelunch.training.devices import Devices
from nofreelunch.training.loop import Loop
from nofreelunch.training.optimisers import OPTIMISERS
from nofreelunch.training.size import state_bytes
from nofreelunch.training.train import fresh_learner
from training_toy import DATA, toy_config

PASSES = {"standard": 1, "pgd-at": 11, "bullet-train": 4, "fgsm-rs": 2, "n-fgsm": 2, "free": 1, "trades": 12}


@pytest.mark.parametrize("recipe", RECIPES)
def test_passes_of_a_step(recipe: str) -> None:
    """By the definition of each recipe, with PGD-10: the attack's steps and the update, which for TRADES is of two."""
    config = toy_config(threat=None) if recipe == "standard" else toy_config(recipe=recipe)
    assert passes_per_image(DATA, config) == PASSES[recipe]


def test_what_is_counted_is_what_a_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients by the input, counted where all attacks take them, and the updates."""
    config = toy_config(epochs=1.5, holdout=0.25)
    said = estimate(DATA, config, "cpu")
    taken, real = [0], gradient.torch.autograd.grad

    def counted(height: torch.Tensor, z: torch.Tensor, allow_unused: bool) -> tuple[torch.Tensor, ...]:
        taken[0] += len(z)
        return real(height, z, allow_unused=allow_unused)

    monkeypatch.setattr(gradient.torch.autograd, "grad", counted)
    train(DATA, config, device="cpu")
    held_out_at_most = 2 * 64 * 10
    assert said.forward_backward_passes == said.examples * 11 + held_out_at_most
    assert said.examples * 10 < taken[0] <= said.examples * 10 + held_out_at_most + 2 * 2 * 2  # two first comparisons


@pytest.mark.parametrize("settings", [{}, {"recipe": "free", "ema": 0.9}, {"optimiser": "sgd", "holdout": 0.0}])
def test_files_are_as_large_as_said(settings: dict[str, object], tmp_path: Path) -> None:
    config = toy_config(arch="mnist-cnn-small", epochs=2.0, **settings)
    train(DATA, config, out=tmp_path, device="cpu", save_seconds=0.0)
    there = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert estimate(DATA, config, "cpu").bytes_on_disk == pytest.approx(there, rel=0.03)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("settings", [{}, {"recipe": "free", "ema": 0.9}, {"holdout": 0.0}])
def test_the_size_of_a_state_is_known_before_the_first_step(optimiser: str, settings: dict[str, object]) -> None:
    config, devices = toy_config(arch="mnist-cnn-small", optimiser=optimiser, **settings), Devices("cpu", "float32")
    learner = fresh_learner(DATA, config, devices)
    said = state_bytes(config, learner)
    run = Loop(config, DATA.train, devices, learner)
    run.update()
    if config.holdout:
        run.validate()
    assert said == sum(value.nbytes for value in learner.state().tensors.values()) == state_bytes(config, learner)


def test_room_is_asked_for_what_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start all that is kept, and a state being written; later the latter only."""
    config = toy_config(arch="mnist-cnn-small", epochs=1.5, ema=0.9)
    learner = fresh_learner(DATA, config, Devices("cpu", "float32"))
    state = state_bytes(config, learner)
    free = [0]
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
    for needed in (estimate(DATA, config, "cpu").bytes_on_disk + state, state):
        free[0] = int(0.98 * needed)  # files have headers besides
        with pytest.raises(InputError, match="MiB free, the run needs"):
            train(DATA, config, out=tmp_path, device="cpu", save_seconds=0.0)
        free[0] = needed
        train(DATA, config, out=tmp_path, device="cpu", save_seconds=0.0)


def test_memory_grows_with_the_part_of_a_batch_that_is_in_it() -> None:
    """Three sizes on a line; half a batch at a time keeps what half the batch would."""
    config = toy_config(arch="mnist-cnn-small", optimiser="sgd")
    at = {size: estimate(DATA, replace(config, batch_size=size), "cpu").bytes_per_batch for size in (16, 32, 64)}
    assert at[32] > at[16]
    assert at[64] - at[32] == 2 * (at[32] - at[16])
    assert estimate(DATA, replace(config, batch_size=64, accumulate=2), "cpu").bytes_per_batch == at[32]


def test_a_plain_layer_keeps_what_it_must() -> None:
    """A linear model: weights and momentum (x2), gradients, and at least the normalised images for the way back."""
    config = toy_config(arch="linear", optimiser="sgd", threat=None)
    weights, images = 4 * (64 * 2 + 2), 4 * 32 * 64
    found = estimate(DATA, config, "cpu").bytes_per_batch
    assert 3 * weights + images <= found <= 3 * weights + 2 * images


def test_an_estimate_leaves_nothing_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = toy_config(epochs=0.1)
    before = train(DATA, config, device="cpu").state_dict()
    cost = estimate(DATA, config, "cpu")
    assert isinstance(cost, Cost)
    assert cost.seconds > 0
    after = train(DATA, config, device="cpu").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not list(tmp_path.iterdir())


def test_bad_settings_are_refused_as_by_train() -> None:
    with pytest.raises(InputError, match="batch_size must be at most"):
        estimate(DATA, toy_config(batch_size=512), "cpu")


def test_a_run_shorter_than_its_probe_is_probed_within_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    real = Loop.update

    def noted(loop: Loop) -> object:
        step = real(loop)
        rates.append(step.lr)
        return step

    monkeypatch.setattr(Loop, "update", noted)
    estimate(DATA, toy_config(optimiser="sgd", lr=1.0, epochs=0.01, threat=None), "cpu")
    assert len(rates) > 1
    assert min(rates) > 0
