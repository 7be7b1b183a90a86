"""The loop and its recipes: what is minimised, what comes of it, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nofreelunch.attacks import ATTACKS, PGD
from nofreelunch.data import Dataset
from nofreelunch.errors import InputError, RunError
from nofreelunch.evaluation import Tally
from nofreelunch.evaluation.accuracy import Examples
from nofreelunch.models import ARCHITECTURES, Classifier, build, load_model
from nofreelunch.models.registry import Architecture
from nofreelunch.output import locked
from nofreelunch.rng import Streams
from nofreelunch.threats import L2, Linf, Threat
from nofreelunch.training import RECIPES, TrainConfig, devices, loop, order, session, train
from nofreelunch.training.devices import Devices
from nofreelunch.training.events import Epoch, Event, Finished, Notice, Started, Step
from nofreelunch.training.loop import Loop
from nofreelunch.training.recipes import InnerProblem
from nofreelunch.training.recipes.base import Chosen
from nofreelunch.training.recipes.trades import kl_divergence
from nofreelunch.training.train import fresh_learner, fresh_loop
from nofreelunch.types import Model
from training_toy import EPS, batch_norm_network, toy_config, toy_data, toy_split


def accuracies(model: Classifier, threat: Threat) -> tuple[float, float]:
    """Clean and robust accuracy on the toy's test images."""
    split = toy_data().test
    x, y = split.images(), split.targets
    x_adv = ATTACKS["pgd-10"](threat)(model, x, y, torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean, robust = ((model(z).argmax(1) == y).float().mean().item() for z in (x, x_adv))
    return clean, robust


def run(config: TrainConfig, data: Dataset | None = None, **where: object) -> tuple[Classifier, list[Event]]:
    events: list[Event] = []
    model = train(data or toy_data(), config, device="cpu", report=events.append, **where)
    return model, events


def same(a: Classifier, b: Classifier) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Step)]


def test_standard_training_is_accurate_and_not_robust() -> None:
    clean, robust = accuracies(run(toy_config(threat=None))[0], Linf(EPS))
    assert clean > 0.97  # the faint pattern is always right
    assert robust < 0.4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("recipe", "arch"),
    [*((recipe, "linear") for recipe in sorted(set(RECIPES) - {"standard"})), ("pgd-at", "mnist-cnn-small")],
)
def test_every_recipe_lowers_its_loss_and_gives_robustness(recipe: str, arch: str) -> None:
    epochs = 8.0 if recipe == "free" else 3.0
    rate = 0.02 if arch == "linear" else 0.005
    model, events = run(toy_config(recipe=recipe, arch=arch, epochs=epochs, lr=rate))
    curve = losses(events)
    assert sum(curve[-8:]) < 0.8 * sum(curve[:8])
    clean, robust = accuracies(model, Linf(EPS))
    assert robust > 0.75  # the block alone is right for 90 %
    assert clean < 0.99


@pytest.mark.usefixtures("unchecked")
def test_the_l2_threat_gives_l2_robustness() -> None:
    threat = L2(0.75)
    standard, robust = (accuracies(run(toy_config(threat=t))[0], threat)[1] for t in (None, threat))
    assert robust > standard + 0.5


def problem(model: nn.Module, threat: Threat, n: int = 6, steps: int = 3) -> InnerProblem:
    split = toy_split(n, 5)
    return InnerProblem(
        model=model,
        attack=PGD(threat, steps=steps),
        x=split.images(),
        y=split.targets,
        streams=Streams.for_examples(0, torch.arange(n)),
        delta=torch.full((n, 1, 8, 8), 0.03),
    )


def linear_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def uphill(model: nn.Module, y: torch.Tensor) -> torch.Tensor:
    """The signs of the gradient of the cross-entropy of a linear model with two classes."""
    weight = model[1].weight.detach()
    return (weight[1 - y] - weight[y]).sign().view(-1, 1, 8, 8)


def test_pgd_at_trains_on_the_last_iterate() -> None:
    p = problem(linear_model(), Linf(0.1))
    z = RECIPES["pgd-at"].examples(p).z
    assert torch.equal(z, p.attack.ascend(p.model, p.x, p.y, p.streams))
    assert p.threat.contains(z, p.x).all()


@pytest.mark.filterwarnings("ignore:.*cannot reach")
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_bullet_train_works_where_the_loss_is_high(steps: int) -> None:
    def streams() -> Streams:
        return Streams.for_examples(0, torch.arange(8))

    p = replace(problem(linear_model(), Linf(0.1), n=8), attack=PGD(Linf(0.1), steps=steps, step_size=0.04))
    z, rows = RECIPES["bullet-train"].examples(replace(p, streams=streams()))
    start = p.threat.random_start(p.x, streams())
    first, near, far = (
        replace(p.attack, steps=count).ascend(p.model, p.x, p.y, streams()) for count in (1, min(2, steps), steps)
    )
    half = F.cross_entropy(p.model(start), p.y, reduction="none").topk(4).indices
    quarter = F.cross_entropy(p.model(first)[half], p.y[half], reduction="none").topk(2).indices
    assert rows is not None
    assert torch.equal(rows, half)
    assert torch.equal(z, near[half].index_copy(0, quarter, far[half][quarter]))
    assert steps == 4 or torch.equal(z, far[half])


def test_what_a_recipe_leaves_out_counts_as_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_half(p: InnerProblem) -> Chosen:
        return Chosen(p.x[:4], torch.arange(4))

    config, split = toy_config(recipe="fgsm-rs", batch_size=8), toy_data().train
    monkeypatch.setitem(RECIPES, "fgsm-rs", replace(RECIPES["fgsm-rs"], examples=first_half))
    run = fresh_loop(toy_data(), config, "cpu")
    batch = run.trained[order.batch(config.seed, 0, len(run.trained), 8)][:4]
    logits = run.learner.model.eval()(split.images(batch))
    loss = F.cross_entropy(logits, split.targets[batch], reduction="sum")
    right = (logits.argmax(1) == split.targets[batch]).sum()
    step = run.update()
    assert step.loss == pytest.approx(loss.item() / 8, rel=1e-4)
    assert step.accuracy == pytest.approx((4 + int(right)) / 8)


def test_fgsm_rs_steps_by_5_quarters_of_eps() -> None:
    p = problem(linear_model(), Linf(0.1))
    start = p.threat.random_start(p.x, Streams.for_examples(0, torch.arange(6)))
    expected = p.threat.project(start + 0.125 * uphill(p.model, p.y), p.x)
    assert torch.equal(RECIPES["fgsm-rs"].examples(p).z, expected)


def test_n_fgsm_steps_by_eps_from_noise_of_2_eps_and_stays_in_the_box_only() -> None:
    p = problem(linear_model(), Linf(0.1))
    noise = 2 * p.threat.draw(p.x, Streams.for_examples(0, torch.arange(6)))
    expected = (p.x + noise + 0.1 * uphill(p.model, p.y)).clamp(0, 1)
    assert torch.equal(RECIPES["n-fgsm"].examples(p).z, expected)
    assert not p.threat.contains(expected, p.x).any()


def test_free_moves_the_perturbation_by_eps_up_the_training_gradient() -> None:
    p = problem(linear_model(), Linf(0.1))
    z = RECIPES["free"].examples(p).z
    assert torch.allclose(z, (p.x + 0.03).clamp(0, 1))
    carry = RECIPES["free"].carry
    assert carry
    delta = carry(p, z, torch.ones_like(z))
    assert torch.allclose(delta, torch.full_like(z, 0.1))
    assert torch.allclose(carry(p, z, -torch.ones_like(z)), z - p.x - 0.1, atol=1e-6)


def test_free_replays_each_batch_8_times_and_hands_the_perturbation_on(monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[InnerProblem] = []

    def examples(problem: InnerProblem) -> Chosen:
        problems.append(problem)
        return Chosen(RECIPES["standard"].examples(problem).z.clone())

    def carry(problem: InnerProblem, z: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        return torch.full_like(z, len(problems))

    monkeypatch.setitem(RECIPES, "free", replace(RECIPES["free"], examples=examples, carry=carry))
    run(toy_config(recipe="free", augment="crop-flip", epochs=20 * 32 / 384))
    groups = [problems[start : start + 8] for start in (0, 8, 16)]
    assert all(torch.equal(problem.x, group[0].x) for group in groups for problem in group)
    assert not torch.equal(groups[0][0].x, groups[1][0].x)
    assert [problem.delta.unique().tolist() for problem in problems] == [[float(step)] for step in range(20)]


def test_trades_adds_6_times_the_divergence() -> None:
    model = linear_model()
    p = problem(model, Linf(0.1))
    z = RECIPES["trades"].examples(p).z
    assert p.threat.contains(z, p.x).all()
    loss, logits = RECIPES["trades"].loss(model, p, z)
    before, after = model(p.x).softmax(1), model(z).softmax(1)
    divergence = (before * (before / after).log()).sum(1)
    assert torch.equal(logits, model(z))
    assert torch.allclose(loss, F.cross_entropy(model(p.x), p.y, reduction="none") + 6 * divergence, atol=1e-5)
    around = p.threat.random_start(p.x, Streams.for_examples(3, torch.arange(6)))
    assert (divergence >= kl_divergence(model(around), model(p.x))).all()


def plain_loop(model: nn.Module, config: TrainConfig, steps: int) -> list[float]:
    """The same training in the plainest words: FGSM in evaluation mode, then a step of SGD in training mode."""
    split, losses = toy_data().train, []
    sgd = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    for step in range(steps):
        index = order.batch(config.seed, step, 512, 32)
        x, y = split.images(index), split.targets[index]
        z = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model.eval()(z), y), z)
        eps = EPS * min(1.0, (step + 0.5) / steps / config.eps_warmup)
        z = (x + eps * grad.sign()).clamp(0, 1)
        loss = F.cross_entropy(model.train()(z), y)
        sgd.zero_grad()
        loss.backward()
        sgd.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * (step + 0.5) / steps)) / 2
        sgd.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loop_is_the_plain_one(monkeypatch: pytest.MonkeyPatch, accumulate: int) -> None:
    monkeypatch.setitem(ARCHITECTURES, "batch-norm", Architecture(batch_norm_network))
    config = toy_config(
        arch="batch-norm",
        attack="fgsm",
        optimiser="sgd",
        lr=0.1,
        schedule="cosine",
        eps_warmup=0.5,
        epochs=0.5,
        holdout=0.0,
    )
    expected = build("batch-norm", toy_data(), config.seed)
    curve = plain_loop(expected, config, 8)
    model, events = run(replace(config, accumulate=accumulate))
    tracked = model.state_dict()["network.1.num_batches_tracked"]
    assert tracked == 8 * accumulate, "the attack must not feed batch-norm's statistics"
    if accumulate == 1:
        assert losses(events) == pytest.approx(curve, abs=1e-4)
        for name, value in expected.state_dict().items():
            assert torch.allclose(model.state_dict()[name].double(), value.double(), atol=1e-4), name


@pytest.mark.usefixtures("unchecked")
def test_accumulation_changes_only_the_rounding() -> None:
    whole, parts = (losses(run(toy_config(epochs=1.0, accumulate=k))[1]) for k in (1, 4))
    assert whole == pytest.approx(parts, abs=1e-5)
    free = [losses(run(toy_config(epochs=1.0, recipe="free", accumulate=k))[1]) for k in (1, 4)]
    assert free[0] == pytest.approx(free[1], abs=1e-5)


def test_the_seed_decides_everything() -> None:
    first, again, other = (run(toy_config(epochs=0.5, seed=seed))[0] for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_training_draws_from_no_global_stream() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    run(toy_config(epochs=0.2))
    assert torch.equal(torch.rand(1), expected)


def test_events_follow_the_plan() -> None:
    _, events = run(toy_config(eps_warmup=0.5, schedule="cosine"))
    started, steps = events[0], [event for event in events if isinstance(event, Step)]
    assert started == Started(0, 36, 3.0, 384, 32, 128, 130, True, EPS)
    assert [step.step for step in steps] == list(range(1, 37))
    assert [event.step for event in events if isinstance(event, Epoch)] == [12, 24, 36]
    assert steps[8].eps == pytest.approx(EPS * (8.5 / 36) / 0.5)
    assert steps[8].lr == pytest.approx(0.02 * (1 + math.cos(math.pi * 8.5 / 36)) / 2)
    assert steps[-1].eps == EPS
    assert isinstance(events[-1], Finished)


@pytest.mark.usefixtures("unchecked")
def test_the_best_epoch_by_held_out_robust_accuracy_is_returned() -> None:
    model, events = run(toy_config(lr=0.5, schedule="constant", epochs=6.0))
    looks = [event for event in events if isinstance(event, Epoch)]
    best = max(looks, key=lambda epoch: (epoch.robust, epoch.clean))
    assert best is not looks[-1], "the rate is so high that the last epoch is not the best; else this tests nothing"
    assert events[-1] == Finished(looks[-1].step, best)
    assert model.card.metrics == {"held_out_clean": best.clean, "held_out_robust": best.robust, "epoch": best.epoch}
    shorter, _ = run(toy_config(lr=0.5, schedule="constant", epochs=best.epoch))
    assert same(model, shorter)


def test_a_look_measures_pgd_10_on_the_held_out_images(monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(epochs=0.5)
    model, events = run(config)
    (look,) = (event for event in events if isinstance(event, Epoch))
    split = toy_data().train
    index = order.held_out(config.seed, 512, 0.25)[1]
    x, y = split.images(index), split.targets[index]
    x_adv = ATTACKS["pgd-10"](Linf(EPS))(model, x, y, Streams.for_examples(config.seed, index))
    with torch.no_grad():
        clean, robust = ((model(z).argmax(1) == y).double().mean().item() for z in (x, x_adv))
    assert (look.clean, look.robust, look.held_out) == (pytest.approx(clean), pytest.approx(robust), 128)
    accuracies = [event.accuracy for event in events if isinstance(event, Step)]
    running = accuracies[0]
    for accuracy in accuracies[1:]:
        running = 0.9 * running + 0.1 * accuracy
    assert look.train_accuracy == pytest.approx(running)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_look_takes_no_more_images_at_a_time_than_a_step(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def seen(model: nn.Module, climbed: Model, examples: Examples, *rest: object) -> tuple[Tally, Tally]:
        sizes.append(examples.batch_size)
        return Tally(1, 2), Tally(1, 2)

    monkeypatch.setattr(loop, "accuracies", seen)
    config, devices = toy_config(accumulate=4), Devices("cpu", "float32")
    planned = Loop(config, toy_data().train, devices, fresh_learner(toy_data(), config, devices))
    devices.processes = processes
    planned.validate()
    assert sizes == [32 // 4 // processes]


def test_the_first_weights_are_never_looked_at() -> None:
    """Not even where several epochs are one step."""
    config = toy_config(epochs=4, batch_size=200, holdout=0.85)
    devices = Devices("cpu", "float32")
    planned = Loop(config, toy_data().train, devices, fresh_learner(toy_data(), config, devices))
    assert not planned.validation_due
    assert planned.steps == 2


def test_without_held_out_images_the_last_weights_are_returned() -> None:
    _, events = run(toy_config(holdout=0.0, epochs=0.5))
    assert not [event for event in events if isinstance(event, Epoch)]
    assert events[-1] == Finished(8, None)


def test_the_average_is_returned_where_one_is_kept() -> None:
    plain, averaged = (run(toy_config(ema=ema, epochs=1.0))[0] for ema in (0.0, 0.9))
    assert not same(plain, averaged)
    assert accuracies(averaged, Linf(EPS))[1] > 0.7
    assert all(parameter.requires_grad for parameter in averaged.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precisions_change_only_the_rounding(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: True)
    reference = losses(run(toy_config(epochs=1.0))[1])
    here = losses(run(toy_config(epochs=1.0, precision=precision, attack_precision="bfloat16"))[1])
    assert reference == pytest.approx(here, abs=0.05)


def test_bfloat16_is_not_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: False)
    here, there = (losses(run(toy_config(epochs=1.0, precision=each))[1]) for each in ("float32", "bfloat16"))
    assert here == there


def test_the_card_says_how_the_model_was_made(tmp_path: Path) -> None:
    config = toy_config(epochs=1.0)
    model, _ = run(config, out=tmp_path)
    loaded = load_model(tmp_path / "model.safetensors")
    assert TrainConfig.from_plain(loaded.card.recipe) == config
    assert (loaded.card.data, loaded.card.seed) == ("toy", 1)
    assert "Linf" in loaded.card.threat
    assert not model.training
    assert same(model, loaded)


def test_overfitting_is_told_after_the_epoch_that_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "overfitting", lambda history: "worse" if len(history) == 2 else None)
    _, events = run(toy_config(epochs=3.0))
    told = [event for event in events if isinstance(event, (Epoch, Notice))]
    assert [event.event for event in told] == ["epoch", "epoch", "notice", "epoch"]
    assert told[2] == Notice(24, "worse")
    _, events = run(toy_config(epochs=2.0, threat=None))
    assert not [event for event in events if isinstance(event, Notice)], "standard training has no robust accuracy"


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    config = toy_config(optimiser="sgd", schedule="constant", lr=1e38)
    with pytest.raises(RunError) as caught:
        run(config, out=tmp_path, save_seconds=0.0)
    message = str(caught.value)
    assert "learning rate 1e+38" in message
    assert "at step" in message or "after step" in message
    assert "the last good state is that of step" in message or "no state was saved" in message


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory at step 1; a larger accumulate needs less"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "the device failed at step 1 (CUDA error"),
    ],
)
def test_a_failing_device_is_named_with_what_is_left(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, words: str
) -> None:
    def fail(self: Loop) -> Step:
        raise failure

    monkeypatch.setattr(Loop, "update", fail)
    with pytest.raises(RunError) as caught:
        run(toy_config())
    assert words in str(caught.value)
    assert "no state was kept" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (toy_config(batch_size=600), "batch_size must be at most the number of training images, 512"),
        (toy_config(threat=L2(80.0)), "80/255 = 0.3137"),
    ],
)
def test_config_and_data_must_go_together(config: TrainConfig, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        run(config)


def test_a_folder_is_for_one_run_and_one_process(tmp_path: Path) -> None:
    run(toy_config(epochs=0.5), out=tmp_path)
    with pytest.raises(InputError) as caught:
        run(toy_config(epochs=0.5, lr=0.5, batch_size=64), out=tmp_path)
    assert "batch_size: saved 32, now 64; lr: saved 0.02, now 0.5" in str(caught.value)
    with pytest.raises(InputError, match="data: saved"):
        run(toy_config(epochs=0.5), data=toy_data(500), out=tmp_path)
    with locked(tmp_path), pytest.raises(InputError, match="another process is writing"):
        run(toy_config(epochs=0.5), out=tmp_path)


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        run(toy_config(), out=tmp_path / "file")


def test_a_model_without_its_state_is_not_overwritten(tmp_path: Path) -> None:
    run(toy_config(epochs=0.1), out=tmp_path)
    for name in ("state", "previous"):
        (tmp_path / f"{name}.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match="no state of its training"):
        run(toy_config(epochs=0.1), out=tmp_path)


def test_a_finished_run_is_not_repeated_and_nothing_half_written_stays(tmp_path: Path) -> None:
    (tmp_path / ".state.safetensors.x7").write_bytes(b"half")
    first, _ = run(toy_config(epochs=0.5), out=tmp_path)
    again, events = run(toy_config(epochs=0.5), out=tmp_path)
    assert not losses(events)
    assert same(first, again)
    kept = {"state", "previous", "model"}
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} <= {
        "log.jsonl",
        *(f"{name}.{suffix}" for name in kept for suffix in ("json", "safetensors")),
    }


def test_notices_become_warnings_where_nobody_listens(tmp_path: Path) -> None:
    run(toy_config(epochs=0.2), out=tmp_path, save_seconds=0.0)
    (tmp_path / "state.safetensors").write_bytes(b"gone")
    with pytest.warns(UserWarning, match="digest does not hold"):
        train(toy_data(), toy_config(epochs=0.2), out=tmp_path, device="cpu")
    assert any('"notice"' in line for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert Notice(1, "x").event == "notice"
