"""The pieces of training, each against its formula."""

import dataclasses
import io
import json
import math
import re
import shlex

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from nofreelunch.cli import parse
from nofreelunch.cli.train import Train
from nofreelunch.errors import InputError
from nofreelunch.models import Card, Classifier, load_model, zoo_names
from nofreelunch.rng import Streams
from nofreelunch.threats import L2, Linf
from nofreelunch.training import RECIPES, TrainConfig, order
from nofreelunch.training.augment import crop, crop_flip, flip
from nofreelunch.training.average import average_of, update_average
from nofreelunch.training.config import differences
from nofreelunch.training.events import Epoch, Finished, Notice, Started, Step
from nofreelunch.training.log import Log
from nofreelunch.training.optimisers import OPTIMISERS, optimiser
from nofreelunch.training.presets import PRESETS, preset
from nofreelunch.training.progress import Pace, duration, sentence, shown
from nofreelunch.training.schedules import SCHEDULES, progress, warmup
from nofreelunch.training.watch import overfitting
from nofreelunch.workspace import plain, to_json
from training_toy import toy_config


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("constant", {0.01: 1, 0.99: 1}),
        ("one-cycle", {0.003: 0.01, 0.15: 0.5, 0.3: 1, 0.65: 0.5, 0.993: 0.01}),
        ("cosine", {1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25}),
        ("step", {0.49: 1, 0.51: 0.1, 0.74: 0.1, 0.76: 0.01}),
    ],
)
def test_schedules_pass_through_known_points(name: str, points: dict[float, float]) -> None:
    for done, factor in points.items():
        assert SCHEDULES[name](done) == pytest.approx(factor, abs=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_stay_between_0_and_1(name: str) -> None:
    factors = [SCHEDULES[name](progress(step, 200)) for step in range(200)]
    assert 0 < min(factors) <= max(factors) <= 1
    assert max(factors) > 0.99


def test_the_radius_rises_linearly_then_stays() -> None:
    assert [warmup(done, 0.4) for done in (0.1, 0.2, 0.4, 0.9)] == pytest.approx([0.25, 0.5, 1, 1])
    assert warmup(0.001, 0.0) == 1


@given(seed=st.integers(0, 2**40), n=st.integers(2, 60), size=st.integers(1, 17))
def test_each_epoch_uses_each_image_once(seed: int, n: int, size: int) -> None:
    row = torch.cat([order.batch(seed, step, n, size) for step in range(math.ceil(2 * n / size))])
    for epoch in (row[:n], row[n : 2 * n]):
        assert torch.equal(epoch.sort().values, torch.arange(n))


def test_the_order_changes_with_epoch_and_seed_alone() -> None:
    first, second = order.batch(0, 0, 100, 100), order.batch(0, 1, 100, 100)
    assert not torch.equal(first, second)
    assert not torch.equal(first, order.batch(1, 0, 100, 100))
    halves = torch.cat([order.batch(0, step, 100, 50) for step in range(4)])
    assert torch.equal(halves, torch.cat([first, second]))


@given(seed=st.integers(0, 2**40), n=st.integers(2, 200), share=st.floats(0, 0.99))
def test_held_out_images_are_not_trained_on(seed: int, n: int, share: float) -> None:
    trained, held = order.held_out(seed, n, share)
    assert torch.equal(torch.cat([trained, held]).sort().values, torch.arange(n))
    assert len(trained) >= 1
    assert len(held) == (min(n - 1, max(1, round(share * n))) if share else 0)


def test_a_step_has_random_numbers_of_its_own() -> None:
    index = torch.tensor([3, 8])
    draws = [order.step_streams(0, step, index).uniform() for step in (0, 1)]
    assert not torch.equal(*draws)
    assert torch.equal(order.step_streams(0, 1, index[1:]).uniform(), draws[1][1:])


def test_a_crop_is_one_of_the_81_shifts() -> None:
    x = torch.rand(200, 2, 6, 5)
    cropped = crop(x, Streams.for_examples(0, torch.arange(200)))
    padded = F.pad(x, (4, 4, 4, 4))
    shifts = {(i, j): padded[:, :, i : i + 6, j : j + 5] for i in range(9) for j in range(9)}
    found = torch.stack([(shift == cropped).flatten(1).all(1) for shift in shifts.values()])
    assert found.any(0).all()
    assert found.any(1).sum() > 60  # all shifts occur: 200 draws of 81


def test_a_flip_mirrors_half_of_the_images() -> None:
    x = torch.rand(400, 1, 3, 4)
    flipped = flip(x, Streams.for_examples(0, torch.arange(400)))
    same, mirrored = ((flipped == z).flatten(1).all(1) for z in (x, x.flip(3)))
    assert (same ^ mirrored).all()
    assert 160 < same.sum() < 240


def test_augmentation_belongs_to_the_image() -> None:
    x, streams = torch.rand(9, 1, 8, 8), Streams.for_examples(5, torch.arange(9))
    alone = crop_flip(x[4:5], streams.take(slice(4, 5)))
    assert torch.equal(crop_flip(x, streams)[4:5], alone)


def test_the_average_forgets_as_its_formula_says() -> None:
    norm = nn.BatchNorm2d(2)
    model = Classifier(norm, Card("linear", (2, 1, 1), 2, (0.5, 0.5), (1.0, 1.0)))
    average = average_of(model)
    expected = norm.weight.detach().clone()
    for t in range(12):
        with torch.no_grad():
            norm.weight.add_(1.0)
            norm.num_batches_tracked.add_(1)
        update_average(average, model, 0.5, t)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * norm.weight.detach()
    assert torch.allclose(average.state_dict()["network.weight"], expected, atol=1e-6)
    assert average.state_dict()["network.num_batches_tracked"] == 12
    assert not any(parameter.requires_grad for parameter in average.parameters())


@pytest.mark.parametrize("name", OPTIMISERS)
def test_weight_decay_spares_biases(name: str) -> None:
    model = nn.Linear(3, 2)
    groups = optimiser(name, model, 0.1).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays == {id(model.weight): 0.1, id(model.bias): 0.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "mnist-cn"}, 'did you mean "mnist-cnn"'),
        ({"recipe": "trade"}, 'did you mean "trades"'),
        ({"attack": "pdg-10"}, 'did you mean "pgd-10"'),
        ({"attack": "square-5000"}, "square"),
        ({"schedule": "cosin"}, 'did you mean "cosine"'),
        ({"optimiser": "adm"}, 'did you mean "adam"'),
        ({"augment": "flipp"}, "known: crop"),
        ({"precision": "float16"}, "bfloat16"),
        ({"epochs": 0.0}, "epochs must be in (0"),
        ({"epochs": math.nan}, "epochs"),
        ({"lr": -1.0}, "lr must be in (0"),
        ({"ema": 1.0}, "ema must be in [0, 1)"),
        ({"holdout": 1.0}, "holdout"),
        ({"eps_warmup": 1.5}, "eps_warmup"),
        ({"step_size": 0.0}, "step_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"accumulate": 5}, "equal parts"),
        ({"seed": -1}, "seed"),
        ({"threat": None, "attack": "pgd-10"}, "without a threat"),
        ({"threat": None, "eps_warmup": 0.3}, "without a threat"),
        ({"recipe": "standard"}, "no threat"),
        ({"recipe": "fgsm-rs", "attack": "pgd-10"}, "its own attack"),
    ],
)
def test_a_config_is_checked_when_it_is_made(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        toy_config(**changes)
    assert words in str(caught.value)


@pytest.mark.parametrize("threat", [None, Linf(8 / 255), L2(0.5)])
def test_a_config_survives_json(threat: Linf | L2 | None) -> None:
    config = toy_config(threat=threat, epochs=2.5)
    back = TrainConfig.from_plain(json.loads(to_json(config)))
    assert back == config
    assert back.digest == config.digest
    assert dataclasses.replace(config, seed=2).digest != config.digest


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(InputError, match="did you mean"):
        TrainConfig.from_plain({"epoch": 3})


@pytest.mark.parametrize("norm", [[], "linff", None])
def test_an_unknown_norm_is_refused(norm: object) -> None:
    with pytest.raises(InputError, match="threat must have a norm of linf, l2"):
        TrainConfig.from_plain({"threat": {"norm": norm, "eps": 0.1}})


def test_differences_name_both_values() -> None:
    found = differences(plain(toy_config()), plain(toy_config(lr=0.5, threat=Linf(0.2))))
    assert len(found) == 2
    assert "lr: saved 0.02, now 0.5" in found


def test_the_attack_keeps_its_proportions_while_eps_rises() -> None:
    config = toy_config(attack="pgd-5", step_size=0.05)
    half = config.attack_on(Linf(0.05))
    assert (half.threat, half.steps, half.length) == (Linf(0.05), 5, pytest.approx(0.025))
    assert toy_config(attack="pgd-5").attack_on(Linf(0.05)).length == pytest.approx(2.5 * 0.05 / 5)


@pytest.mark.parametrize("scale", ["laptop", "gpu", "paper"])
@pytest.mark.parametrize("data", PRESETS)
def test_presets_fit_every_threat(scale: str, data: str) -> None:
    for threat in (None, Linf(0.0), Linf(8 / 255), L2(1.5)):
        config = preset(scale, data, threat, seed=3)
        assert (config.threat, config.seed) == (threat, 3)


def test_the_paper_presets_are_appendix_a() -> None:
    """The released settings of the MNIST and CIFAR-10 challenges that the appendix refers to."""
    mnist, cifar10 = preset("paper", "mnist", Linf(0.3)), preset("paper", "cifar10", Linf(8 / 255))
    attacks = [config.attack_on(config.threat) for config in (mnist, cifar10) if config.threat]
    assert [(a.steps, a.length, a.random_start) for a in attacks] == [
        (40, pytest.approx(0.01), True),
        (7, pytest.approx(2 / 255), True),
    ]
    assert round(mnist.epochs * 60_000 / mnist.batch_size) == 100_000
    assert round(cifar10.epochs * 50_000 / cifar10.batch_size) == 80_000
    assert [(c.arch, c.optimiser, c.lr, c.batch_size) for c in (mnist, cifar10)] == [
        ("mnist-cnn", "adam", 1e-4, 50),
        ("cifar-resnet", "sgd", 0.1, 128),
    ]
    assert (mnist.schedule, cifar10.schedule, cifar10.weight_decay) == ("constant", "step", 2e-4)
    rates = [0.1 * SCHEDULES["step"](progress(k, 80_000)) for k in (0, 39_999, 40_000, 59_999, 60_000, 79_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("names", [("laptp", "mnist"), ("laptop", "mnits")])
def test_unknown_presets_are_answered(names: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="did you mean"):
        preset(*names)


def test_every_recipe_names_its_source() -> None:
    year, equation = re.compile(r"\b(19|20)\d\d\b"), "equation (1)"
    assert all(year.search(recipe.source) or equation in recipe.source for recipe in RECIPES.values())


def history(robust: list[float], train: list[float], held_out: int = 1000) -> list[Epoch]:
    pairs = zip(robust, train, strict=True)
    return [Epoch(10 * i, float(i), 0.9, r, held_out, t) for i, (r, t) in enumerate(pairs, 1)]


@pytest.mark.parametrize(
    ("robust", "train", "name"),
    [
        ([0.40, 0.45, 0.47], [0.40, 0.50, 0.55], None),
        ([0.40, 0.45, 0.44], [0.40, 0.50, 0.55], None),  # within the noise of 1000 images
        ([0.40, 0.50, 0.43], [0.40, 0.50, 0.60], "robust overfitting"),
        ([0.40, 0.50, 0.43], [0.40, 0.50, 0.45], None),  # training got worse too: not overfitting
        ([0.40, 0.45, 0.02], [0.40, 0.50, 0.95], "catastrophic overfitting"),
        ([0.40, 0.50, 0.43, 0.42], [0.40, 0.50, 0.60, 0.65], None),  # said before
        ([0.40, 0.50, 0.43, 0.01], [0.40, 0.50, 0.60, 0.95], "catastrophic overfitting"),
        ([0.40], [0.40], None),
    ],
)
def test_overfitting_is_named_once(robust: list[float], train: list[float], name: str | None) -> None:
    finding = overfitting(history(robust, train))
    assert finding is None if name is None else finding.startswith(f"{name}: ")


def test_the_epoch_said_to_be_kept_is_the_one_that_is() -> None:
    """Of two equally robust epochs, the more accurate one."""
    first, second, last = history([0.50, 0.50, 0.10], [0.5, 0.6, 0.9])
    finding = overfitting([first, dataclasses.replace(second, clean=0.95), last])
    assert finding
    assert finding.endswith("the weights of epoch 2 are kept")


@pytest.mark.parametrize(("drop", "images", "seen"), [(0.015, 10**6, False), (0.03, 10**6, True), (0.03, 1000, False)])
def test_a_drop_must_exceed_two_points_and_two_standard_errors(drop: float, images: int, seen: bool) -> None:
    assert (overfitting(history([0.5, 0.5 - drop], [0.5, 0.6], images)) is not None) == seen


def step(number: int) -> Step:
    return Step(number, number / 10, 1.5, 0.25, 0.01, 0.1)


def test_the_log_keeps_each_step_once(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    log = Log(path, 0, 0)
    for number in range(1, 41):
        log(step(number))
    whole = path.read_bytes()
    assert [json.loads(line)["step"] for line in whole.splitlines()] == [10, 20, 30, 40]
    path.write_bytes(whole + b'{"event": "step", "st')
    Log(path, 40, 0)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])  # the last line is whole but for its end: the next one must not join it
    Log(path, 40, 0)
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])
    path.write_bytes(whole)
    log = Log(path, 20, 0)
    for number in range(21, 41):
        log(step(number))
    assert path.read_bytes() == whole


def test_a_look_that_the_state_does_not_know_leaves_the_log(tmp_path) -> None:
    log = Log(tmp_path / "log.jsonl", 0, 0)
    log(step(10))
    before = log.path.read_bytes()
    for event in (history([0.5], [0.5])[0], Notice(10, "look out"), Started(10, 20, 1.0, 640, 64, 10, 5, True, 0.1)):
        log(event)
    Log(log.path, 10, 0)
    assert log.path.read_bytes() == before


def test_pace_leaves_out_the_first_step() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    pace.follow(Started(0, 100, 2.0, 640, 64, 10, 5, True, 0.1))
    for number, moment in ((1, 30.0), (2, 31.0), (3, 32.0)):
        now[0] = moment
        pace.follow(step(number))
    assert (pace.images_per_second, pace.seconds_left) == (64.0, 97.0)


def test_lines_are_plain_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with shown(Console(file=stream)) as report:
        report(Started(0, 100, 2.0, 640, 64, 10, 5, True, 0.1))
        for number in range(1, 9):
            report(step(number))
        report(history([0.5], [0.5])[0])
        report(Notice(8, "look out"))
        report(Finished(8, None))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("training 100 steps, 2 epochs of 640 images")
    assert lines[1].startswith("about ")
    assert lines[2:] == [
        "epoch 1.00: held-out images: clean 90.00%, robust 50.00%",
        "notice at step 8: look out",
        "finished after 8 steps: the last weights",
    ]
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_a_bar() -> None:
    stream = io.StringIO()
    with shown(Console(file=stream, force_terminal=True, width=200)) as report:
        report(Started(0, 4, 2.0, 640, 64, 10, 5, True, 0.1))
        for number in range(1, 5):
            report(step(number))
    assert "100%" in stream.getvalue()
    assert "loss 1.5000" in stream.getvalue()


def test_a_bar_keeps_its_numbers_in_80_columns() -> None:
    stream = io.StringIO()
    with shown(Console(file=stream, force_terminal=True, width=80)) as report:
        report(Started(0, 900_000, 9.0, 640, 64, 10, 5, True, 0.1))
        report(step(1))
    last = stream.getvalue().split("\r")[-1]
    assert "left  loss 1.5000  accuracy 25.0%  0 images/s" in last


def test_standard_training_speaks_of_no_attack() -> None:
    pace, look = Pace(), history([0.9], [0.5])[0]
    for eps, word in ((0.1, True), (0.0, False)):
        pace.follow(Started(0, 9, 1.0, 90, 10, 5, 5, True, eps))
        told = " ".join(sentence(event, pace) for event in (step(1), look, Finished(9, look)))
        assert ("under attack" in told, "robust" in told) == (word, word)


def test_a_resumed_run_and_its_end_are_told() -> None:
    assert "goes on after step 7 of 9" in sentence(Started(7, 9, 1.0, 90, 10, 0, 5, False, 0.1), Pace())
    assert "deterministic" in sentence(Started(7, 9, 1.0, 90, 10, 0, 5, False, 0.1), Pace())
    assert "weights of epoch 2.00" in sentence(Finished(9, history([0.1, 0.2], [0, 0])[1]), Pace())
    assert [duration(seconds) for seconds in (59.4, 60, 3700)] == ["59 s", "1 min 0 s", "1 h 1 min"]


@pytest.mark.parametrize("name", zoo_names())
def test_a_model_of_the_package_is_what_its_command_makes(name: str) -> None:
    card = load_model(f"zoo:{name}").card
    command = parse(shlex.split(card.metrics["command"])[1:])
    assert isinstance(command, Train)
    assert command.data == card.data
    assert command.config(card.data) == TrainConfig.from_plain(card.recipe)
