"""Figures 1, 3 to 8 and `explain`, on toy models: what is drawn is what was made, what is measured is what is said."""

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from nofreelunch.attacks import PGD
from nofreelunch.cli import main
from nofreelunch.data import Dataset, Split
from nofreelunch.drawing import drawn
from nofreelunch.evaluation.tally import Tally
from nofreelunch.experiments import deep, figure_1, figure_3, figure_4, figure_5, retrained
from nofreelunch.experiments.base import Experiment
from nofreelunch.experiments.batches import balanced
from nofreelunch.experiments.estimates import all_above_zero, exceeds, gain, geometric_mean, mean, over_seeds, share
from nofreelunch.experiments.gallery import packed, unpacked
from nofreelunch.experiments.image_grid import Grid, to_pictures
from nofreelunch.experiments.judges import judged
from nofreelunch.experiments.runner import reproduce
from nofreelunch.features import gradient_alignment, input_gradient, large_eps_examples
from nofreelunch.models import Classifier, build, save_model
from nofreelunch.threats import L2, Linf, Threat
from nofreelunch.training import TrainConfig
from nofreelunch.workspace import Workspace, plain

pytestmark = pytest.mark.usefixtures("unchecked")

SIDE, CLASSES = 12, 4
FIGURES = (
    figure_1.EXPERIMENT,
    figure_3.FIGURE_3,
    figure_4.EXPERIMENT,
    figure_5.FIGURE_5,
    figure_3.FIGURE_6,
)
THREATS_OF = {"mnist-standard": None, "mnist-linf-0.3": Linf(0.3), "mnist-l2-1.5": L2(1.5)}


def bars(n: int, seed: int) -> Split:
    """Images of a bright bar in one of four places, on noise."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    x = 0.3 * torch.rand(n, 1, SIDE, SIDE, generator=rng)
    for place in range(CLASSES):
        x[y == place, :, 2:10, 3 * place : 3 * place + 2] += 0.6
    return Split((255 * x).round().to(torch.uint8), y, tuple(range(CLASSES)))


def toy() -> Dataset:
    return Dataset("mnist", tuple("abcd"), (0.3,), (0.3,), bars(80, 0), bars(60, 1))


def trained(data: Dataset, threat: Threat | None, seed: int) -> Classifier:
    """A small network after a few steps of training."""
    model = build("mnist-cnn-small", data, seed)
    x, y = data.train.images(), data.train.targets
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    rng = torch.Generator().manual_seed(seed)
    for _ in range(12):
        z = PGD(threat, steps=2)(model, x, y, rng) if threat else x
        optimiser.zero_grad()
        F.cross_entropy(model(z), y).backward()
        optimiser.step()
    recipe = plain(TrainConfig(threat=threat))
    model.card = dataclasses.replace(model.card, data="mnist", threat=str(threat or ""), recipe=recipe, seed=seed)
    return model.eval()


@pytest.fixture(scope="module")
def zoo() -> dict[str, Classifier]:
    return {name: trained(toy(), threat, seed) for seed, (name, threat) in enumerate(THREATS_OF.items())}


@pytest.fixture(scope="module")
def shipped(zoo: dict[str, Classifier]) -> Iterator[dict[str, Classifier]]:
    """The toy models in place of the package's; a test may take some away, for as long as it lasts."""
    there = dict(zoo)
    with pytest.MonkeyPatch.context() as patch:
        for module in (deep, figure_1):
            patch.setattr(module, "zoo_names", lambda: tuple(there))
            patch.setattr(module, "zoo_card", lambda name: there[name].card)
            patch.setattr(module, "load_model", lambda spec: there[spec.removeprefix("zoo:")])
        patch.setattr(deep, "zoo_digest", lambda name: str(id(there[name])))
        patch.setattr(deep, "data_here", lambda name, root, size: toy())
        yield there


@pytest.fixture(scope="module")
def exhibit(shipped: dict[str, Classifier], tmp_path_factory: pytest.TempPathFactory) -> deep.Exhibit:
    return deep.exhibits(figure_3.FIGURE_3.presets["smoke"], Workspace(tmp_path_factory.mktemp("none")))[0][0]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("space"))


@pytest.fixture(scope="module")
def results(shipped: dict[str, Classifier], space: Workspace) -> dict[str, Any]:
    """Every figure of all toy models."""
    return {each.name: reproduce(each, small(each), space, "", lambda line: None) for each in FIGURES}


def small(experiment: Experiment, **changes: object) -> object:
    return dataclasses.replace(experiment.presets["smoke"], n=16, **changes)


# --- data sets and models


def test_models_carry_the_eps_that_table_2_prints() -> None:
    names = [deep.zoo_name(data, role) for data in ("mnist", "cifar10") for role in deep.ROLES]
    assert names == [*THREATS_OF, "cifar10-standard", "cifar10-linf-4", "cifar10-l2-80"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 80), st.integers(0, 9))
def test_balanced_takes_each_class_in_turn(labels: list[int], n: int, seed: int) -> None:
    targets = torch.tensor(labels)
    index = balanced(targets, n, seed)
    assert len(set(index.tolist())) == len(index) == min(n, len(labels))
    counts, there = torch.bincount(targets[index], minlength=5), torch.bincount(targets, minlength=5)
    waiting = counts < there
    assert not waiting.any() or counts[waiting].min() >= counts.max() - 1
    assert torch.equal(index, balanced(targets, n, seed))
    assert len(set(targets[index[: len(set(labels))]].tolist())) == min(n, len(set(labels)))


def test_other_seeds_show_other_images() -> None:
    targets = torch.arange(100) % 10
    assert not torch.equal(balanced(targets, 10, 0), balanced(targets, 10, 1))


def test_judges_had_no_part_in_what_they_judge(exhibit: deep.Exhibit) -> None:
    assert exhibit.judges("standard") == ("linf", "l2")
    assert exhibit.judges("linf") == ("l2",)
    assert exhibit.judges("l2") == ("linf",)


ABSENT = "cifar10-standard, cifar10-linf-4, cifar10-l2-80"
ABSENT += ", restricted-imagenet-standard, restricted-imagenet-linf-0.005, restricted-imagenet-l2-1"


@pytest.mark.parametrize("experiment", FIGURES, ids=lambda each: each.name)
def test_a_figure_is_drawn_from_its_saved_result(
    experiment: Experiment, results: dict[str, Any], space: Workspace
) -> None:
    result, findings = results[experiment.name], experiment.findings(results[experiment.name])
    loaded, about = space.load(experiment.name, experiment.result_type)
    for field in dataclasses.fields(experiment.result_type):
        np.testing.assert_equal(getattr(loaded, field.name), getattr(result, field.name))
    kept = (space.root / "figures" / f"{experiment.name}.svg").read_bytes()
    assert drawn(experiment.plot, loaded)[".svg"] == kept
    assert [finding.ours for finding in findings if "not there" in finding.claim] == [ABSENT]
    assert len(findings) > 1
    assert all(finding.claim.endswith(".") for finding in findings)
    assert about["alt"].endswith(".")
    assert "MNIST" in about["alt"]


@pytest.mark.parametrize("experiment", FIGURES, ids=lambda each: each.name)
def test_a_figure_says_that_its_models_are_missing(
    experiment: Experiment, shipped: dict[str, Classifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREATS_OF:
        monkeypatch.delitem(shipped, name)
    result = experiment.run(small(experiment), Workspace(tmp_path))
    assert [finding.ours for finding in experiment.findings(result)] == [f"{', '.join(THREATS_OF)}, {ABSENT}"]
    assert "none of the models is there" in experiment.alt(result)
    assert b"<svg" in drawn(experiment.plot, result)[".svg"]


@pytest.mark.parametrize("experiment", FIGURES[:4], ids=lambda each: each.name)
def test_a_figure_does_without_one_model(
    experiment: Experiment, shipped: dict[str, Classifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(shipped, "mnist-linf-0.3")
    result = experiment.run(small(experiment), Workspace(tmp_path))
    missing = [finding.ours for finding in experiment.findings(result) if "not there" in finding.claim]
    assert missing == [f"mnist-linf-0.3, {ABSENT}"]
    pyplot.close(experiment.plot(result))


def test_a_figure_is_drawn_anew_when_models_or_data_change(
    shipped: dict[str, Classifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, config = figure_5.FIGURE_5, small(figure_5.FIGURE_5)

    def computed() -> bool:
        return reproduce(experiment, config, Workspace(tmp_path), "", lambda line: None) is not None

    assert [computed(), computed()] == [True, False]
    monkeypatch.setitem(shipped, "mnist-l2-1.5", shipped["mnist-linf-0.3"])
    assert [computed(), computed()] == [True, False]
    monkeypatch.setattr(deep, "data_here", lambda *_: dataclasses.replace(toy(), test=bars(60, 2)))
    assert [computed(), computed()] == [True, False]


def test_data_sets_keep_the_order_of_the_paper(
    shipped: dict[str, Classifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON sorts names; figures, tables and findings do not."""
    for name, model in zip(("standard", "linf-4", "l2-80"), list(shipped.values()), strict=True):
        monkeypatch.setitem(shipped, f"cifar10-{name}", model)
    experiment, space = figure_5.FIGURE_5, Workspace(tmp_path)
    result = experiment.run(small(experiment), space)
    space.save("both", result)
    loaded, _ = space.load("both", experiment.result_type)
    assert experiment.findings(loaded) == experiment.findings(result)
    assert experiment.table is not None
    assert [row[0] for row in experiment.table(loaded).rows] == ["MNIST"] * 3 + ["CIFAR-10"] * 3
    assert experiment.alt(loaded) == experiment.alt(result)


def test_a_sample_is_named(shipped: dict[str, Classifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = dataclasses.replace(toy(), name="cifar10-sample")
    monkeypatch.setattr(deep, "data_here", lambda *_: sample)
    result = figure_5.run(small(figure_5.FIGURE_5), Workspace(tmp_path))
    assert result.samples == ("cifar10-sample",)
    assert any("sample" in finding.claim for finding in figure_5.findings(result))


# --- estimates


def test_estimates_are_those_of_the_textbook() -> None:
    hits = torch.tensor([True] * 7 + [False] * 3)
    assert share(hits) == (0.7, *Tally(7, 10).interval(0.95))
    values = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    error = 3.182446 * np.std(values.numpy(), ddof=1) / 2  # Student's t with 3 degrees of freedom
    assert mean(values) == pytest.approx((3.75, 3.75 - error, 3.75 + error))
    assert geometric_mean(values)[0] == pytest.approx(8**0.5)
    assert geometric_mean(values)[1] < 8**0.5 < geometric_mean(values)[2]


def test_a_claim_is_decided_only_where_intervals_are_apart() -> None:
    def verdict(more: tuple[float, float, float], less: tuple[float, float, float]) -> str:
        return exceeds("c.", "w", more, less, "", "").verdict

    assert verdict((0.9, 0.8, 1.0), (0.5, 0.4, 0.6)) == "agrees"
    assert verdict((0.5, 0.4, 0.6), (0.9, 0.8, 1.0)) == "refuted"
    assert verdict((0.6, 0.5, 0.7), (0.5, 0.4, 0.6)) == "undecided"


def test_a_95_percent_interval_of_few_values_covers_the_mean_that_often() -> None:
    draws = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covered = [low <= 0 <= high for _, low, high in map(mean, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_the_interval_over_seeds_covers_images_and_seeds() -> None:
    alike, apart = [Tally(90, 100)] * 3, [Tally(700, 1000), Tally(900, 1000)]
    assert over_seeds(alike[:1]) == over_seeds(alike) == pytest.approx((0.9, *Tally(90, 100).interval(0.95)))
    assert over_seeds(apart) == (pytest.approx(0.8), 0.0, 1.0)  # 12.7 standard errors of 0.1


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.6), (0.0, 0.0), (1.0, 0.9)])
def test_a_gain_has_an_interval_that_covers_it(before: float, after: float) -> None:
    """Also where a rate is 0 or 1: Newcombe's is far from empty there."""
    value, low, high = gain(before, after, 100)
    assert value == pytest.approx(after - before)
    assert low < value < high
    assert gain(after, before, 100) == pytest.approx((-value, -high, -low))
    rng = np.random.default_rng(0)
    ends = [gain(*pair, 100)[1:] for pair in rng.binomial(100, (before, after), (2000, 2)) / 100]
    assert np.mean([low <= value <= high for low, high in ends]) >= 0.935


def test_several_differences_are_above_zero_only_together() -> None:
    def verdict(*differences: tuple[float, float, float], margin: float = 0.0) -> str:
        return all_above_zero("c.", "w", differences, "", "", margin).verdict

    above, unclear, below = (0.2, 0.1, 0.3), (0.02, -0.01, 0.05), (-0.02, -0.03, -0.01)
    assert verdict(above, above) == verdict(above, unclear, margin=0.05) == "agrees"
    assert verdict(above, unclear) == verdict(above, (0.0, -0.1, 0.1), margin=0.05) == "undecided"
    assert verdict(above, below) == verdict(above, below, margin=0.05) == verdict(unclear, below) == "refuted"


# --- large-eps examples


def test_figure_3_shows_the_examples_and_the_classes_seen_in_them(
    exhibit: deep.Exhibit, results: dict[str, Any]
) -> None:
    result = results["figure-3"]
    pictures = unpacked(result.pictures, result.shapes)["mnist"]
    x, y = exhibit.test_images(16, 0)
    assert np.array_equal(pictures[0, ..., 0], (255 * x[:4, 0]).round().numpy())
    assert result.captions["mnist"][0] == tuple("abcd"[k] for k in y[:4])
    for row, model in enumerate(exhibit.models.values(), start=1):
        z = large_eps_examples(model, x, y, L2(4.0))
        assert np.abs(pictures[row, ..., 1].astype(float) - 255 * z[:4, 0].numpy()).max() < 2
        assert result.captions["mnist"][row] == tuple("abcd"[k] for k in model(z[:4]).argmax(1))


def test_judges_are_counted(exhibit: deep.Exhibit) -> None:
    """Handed training images of the next class, the nearest-image judge always agrees; a blind judge as it must."""
    x, y = exhibit.test_images(40, 0)
    real, targets = exhibit.data.train.images(), exhibit.data.train.targets
    next_class = (y + 1) % CLASSES
    z = torch.stack([real[targets == k][0] for k in next_class]) + 1e-3
    models = dict(exhibit.models) | {"l2": _always(2)}
    made, seen = {"standard": z, "linf": x}, {"standard": next_class, "linf": y}
    found = judged(dataclasses.replace(exhibit, models=models), x, y, made, seen)
    assert found["standard"]["changed"][0] == 1
    assert found["standard"]["nearest"][0] == 1
    assert found["standard"]["distance"][0] < 0.1 < 1 < found["standard"]["distance before"][0]
    assert found["standard"]["judged l2"] == share(next_class == 2)
    others = models["linf"](z).argmax(1) != y
    assert found["linf"] == {"changed": share(torch.zeros(40, dtype=torch.bool)), "moved by others": share(others)}


def test_masked_gradients_are_found_out(results: dict[str, Any]) -> None:
    """Where other models' examples mislead a model more often than its own, its gradients hide the way."""
    result = results["figure-3"]
    clear, none = (0.7, 0.6, 0.8), share(torch.zeros(20, dtype=torch.bool))
    for own, others, verdict in (
        ((0.2, 0.1, 0.3), clear, "refuted"),
        ((0.9, 0.85, 1.0), clear, "agrees"),
        ((0.75, 0.65, 0.85), clear, "undecided"),
        ((0.6, 0.5, 0.7), clear, "undecided"),
        (none, none, "undecided"),  # where nothing is misled, nothing is shown
    ):
        cells = {**result.estimates["mnist"]["l2"], "changed": own, "moved by others": others}
        estimates = {"mnist": {**result.estimates["mnist"], "l2": cells}}
        lines = figure_3.findings(dataclasses.replace(result, estimates=estimates))
        assert [line.verdict for line in lines if "masked" in line.claim and "ℓ₂" in line.claim] == [verdict]


def test_real_images_are_at_distance_one(exhibit: deep.Exhibit) -> None:
    """Test images themselves, called what they are by a model that saw another class in the originals."""
    x, y = exhibit.test_images(60, 0)
    turn = torch.cat([torch.arange(1, 60), torch.tensor([0])])
    z, new = x[turn], y[turn]
    found = judged(exhibit, x, y, {"standard": z}, {"standard": new})["standard"]
    assert found["distance"][0] == pytest.approx(1, abs=0.02)


def _always(k: int) -> nn.Module:
    class Always(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot(torch.full((len(x),), k), CLASSES).float() + 0 * x.flatten(1).sum(1, keepdim=True)

    return Always()


def test_figures_3_6_and_7_differ_in_norm_and_images() -> None:
    configs = [each.presets["laptop"] for each in (figure_3.FIGURE_3, figure_3.FIGURE_6, figure_3.FIGURE_7)]
    assert [config.norm for config in configs] == ["l2", "linf", "l2"]
    assert len({config.seed for config in configs}) == 3


def test_table_3_against_the_text(results: dict[str, Any]) -> None:
    """MNIST's large l_inf eps equals its training eps, against the text; its l_2 eps is larger."""
    for experiment, verdict in ((figure_3.FIGURE_3, "agrees"), (figure_3.FIGURE_6, "refuted")):
        findings = experiment.findings(results[experiment.name])
        assert next(finding.verdict for finding in findings if "much larger" in finding.claim) == verdict


# --- interpolations


def test_a_direct_way_changes_once_and_arrives() -> None:
    labels = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 2, 1, 0], [1, 0, 1, 0, 0], [1, 1, 1, 1, 2]])
    x = torch.zeros(5, 1, 2, 2)
    line = figure_4.Line(x, x, torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.int64))
    assert figure_4.leads_directly(labels, line).tolist() == [True, True, False, False, False]


def test_figure_4_asks_the_judge_at_every_point(exhibit: deep.Exhibit, results: dict[str, Any]) -> None:
    result = results["figure-4"]
    x, y = exhibit.test_images(16, 3)
    z = large_eps_examples(exhibit.models["standard"], x, y, L2(4.0))
    new = exhibit.models["standard"](z).argmax(1)
    changed = new != y
    for point, t in ((0, 0), (5, 5 / 19), (19, 1)):
        belief = exhibit.models["linf"](x + t * (z - x)).softmax(1).gather(1, new[:, None]).squeeze(1)[changed]
        assert result.curves["mnist"]["standard"][point][0] == pytest.approx(belief.mean().item(), abs=1e-4)
    assert result.estimates["mnist"]["standard"]["changed"] == share(changed)
    assert unpacked(result.pictures, result.shapes)["mnist"].shape == (3, 10, SIDE, SIDE, 3)


# --- gradients


def test_figure_5_measures_the_gradients_it_draws(exhibit: deep.Exhibit, results: dict[str, Any]) -> None:
    result = results["figure-5"]
    x, y = exhibit.test_images(16, 0)
    measured = {role: gradient_alignment(x, input_gradient(model, x, y)) for role, model in exhibit.models.items()}
    for role, alignment in measured.items():
        for name in figure_5.MEASURES:
            here = result.estimates["mnist"][role]
            np.testing.assert_allclose(here[name], mean(getattr(alignment, name)), rtol=1e-4)
            if role != "standard":
                paired = mean(getattr(alignment, name) - getattr(measured["standard"], name))
                np.testing.assert_allclose(here[f"{name} - standard"], paired, rtol=1e-2, atol=1e-5)
    assert set(figure_5.MEASURES) == {field.name for field in dataclasses.fields(measured["l2"])}


class FlatAt(nn.Module):
    """A model that does not react to one image."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.model, self.image = model, image

    def forward(self, x: Tensor) -> Tensor:
        here = (x == self.image).flatten(1).all(1, keepdim=True)
        logits = self.model(x)
        return torch.where(here, logits.detach(), logits)


def test_an_image_at_which_a_gradient_is_zero_is_left_out_of_the_measures(exhibit: deep.Exhibit) -> None:
    x, y = exhibit.test_images(16, 0)
    models = {**exhibit.models, "standard": FlatAt(exhibit.models["standard"], x[3])}
    estimates = figure_5._examined(figure_5.Config(columns=2, n=16), dataclasses.replace(exhibit, models=models))[1]
    others = torch.arange(16) != 3
    for role, model in exhibit.models.items():
        alignment = gradient_alignment(x[others], input_gradient(model, x[others], y[others]))
        np.testing.assert_allclose(estimates[role]["edge_energy"], mean(alignment.edge_energy), rtol=1e-4)


def test_alignment_says_nothing_of_networks_that_standardise_each_image() -> None:
    """Their answer does not change with brightness and contrast, so <x, g> is 0."""
    data = toy()
    models = {role: build("cifar-resnet", data, seed).eval() for seed, role in enumerate(("standard", "l2"))}
    made = figure_5._examined(figure_5.Config(columns=2, n=8), deep.Exhibit("mnist", data, models))
    assert made[1]["l2"]["alignment"][0] < 1e-5
    result = figure_5.Result(
        captions={}, roles={"mnist": tuple(models)}, shapes={}, pictures=np.zeros(0), estimates={"mnist": made[1]},
        missing=(), samples=(),
    )  # fmt: skip
    claims = [line.claim for line in figure_5.findings(result) if "align better" in line.claim]
    assert len(claims) == 2
    assert not any("alignment" in claim for claim in claims)


# --- accuracies


def test_figure_1_counts_what_the_models_get_right(shipped: dict[str, Classifier], results: dict[str, Any]) -> None:
    result = results["figure-1"]
    points = [figure_1.Point(*values) for values in result.points]
    assert [(point.norm, point.eps) for point in points] == [("l2", 0.0), ("l2", 1.5), ("linf", 0.0), ("linf", 0.3)]
    data = toy()
    for point in points:
        name = next(name for name, threat in THREATS_OF.items() if (threat.eps if threat else 0) == point.eps)
        right = (shipped[name](data.test.images()).argmax(1) == data.test.targets).sum()
        assert (point.clean, point.clean_of, point.robust_of) == (int(right), 60, 16)
        assert 0 <= point.robust <= 16
    assert list(figure_1.curves(result)) == [("mnist", "linf"), ("mnist", "l2")]


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        ((900, 850, 800, 700), "agrees"),
        ((900, 700, 990, 850), "refuted"),  # lower at the end, but it rose on the way
        ((700, 800, 850, 900), "refuted"),
        ((900, 895, 900, 890), "undecided"),
        ((900, 795, 800, 700), "agrees"),  # a rise within chance
    ],
)
def test_a_decline_is_one_at_every_eps(right: tuple[int, ...], verdict: str) -> None:
    points = tuple(("mnist", "linf", at / 10, 0, hits, 1000, 500, 1000) for at, hits in enumerate(right))
    lines = figure_1.findings(figure_1.Result(points, "pgd-40", "", (), ()))
    assert [line.verdict for line in lines if "declines" in line.claim] == [verdict]


def test_seeds_that_agree_do_not_make_a_decline() -> None:
    """990, 991, 990 right against 989, 989, 988, of the same 1000 images."""
    counts = {0.0: (990, 991, 990), 0.3: (989, 989, 988)}
    points = tuple(("mnist", "linf", e, s, c, 1000, 500, 1000) for e, cs in counts.items() for s, c in enumerate(cs))
    lines = figure_1.findings(figure_1.Result(points, "pgd-40", "paper", (), ()))
    assert [line.verdict for line in lines if "declines" in line.claim] == ["undecided"]


def test_figure_1_trains_its_grid_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Threat | None, int]] = []

    def tiny(scale: str, data: str, threat: Threat | None, seed: int) -> TrainConfig:
        asked.append((scale, threat, seed))
        return TrainConfig(arch="linear", threat=threat, epochs=1, batch_size=40, holdout=0.0, seed=seed)

    monkeypatch.setattr(retrained, "preset", tiny)
    monkeypatch.setattr(deep, "load_data", lambda name, root: toy())
    config = small(figure_1.EXPERIMENT, retrain="paper", shares=(0.5,), seeds=(0, 1), datasets=("mnist",))
    result = figure_1.run(config, Workspace(tmp_path))
    assert {threat for _, threat, _ in asked} == {None, Linf(0.15), L2(0.75)}
    assert len(result.points) == 2 * (2 + 2)
    assert [mark.eps for mark in figure_1.curves(result)["mnist", "linf"]] == [0, 0.15]
    assert result.missing == ()
    weights = sorted((tmp_path / "models").rglob("model.safetensors"))
    assert len(weights) == 6
    assert figure_1.run(config, Workspace(tmp_path)) == result
    for path in weights:
        events = [json.loads(line) for line in path.with_name("log.jsonl").read_text().splitlines()]
        assert [each["step"] for each in events if each["event"] == "started"] == [0]


def test_the_paper_scale_trains_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, Threat | None, int]] = []

    def tiny(scale: str, data: str, threat: Threat | None, seed: int) -> TrainConfig:
        asked.append((scale, data, threat, seed))
        return TrainConfig(arch="linear", threat=threat, epochs=1, batch_size=40, holdout=0.0, seed=seed)

    monkeypatch.setattr(retrained, "preset", tiny)
    monkeypatch.setattr(deep, "load_data", lambda name, root: toy())
    config = dataclasses.replace(figure_5.FIGURE_5.presets["paper"], n=16, datasets=("mnist",))
    result = figure_5.run(config, Workspace(tmp_path))
    assert asked == [("paper", "mnist", threat, 0) for threat in THREATS_OF.values()]
    assert result.roles == {"mnist": deep.ROLES}
    assert result.missing == ()
    assert all(each.presets["paper"].retrain == "paper" for each in FIGURES)


# --- pictures


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 3, 4]), st.sampled_from([(5, 5), (6, 9)]))
def test_a_grid_holds_its_pictures_untouched(rows: int, columns: int, channels: int, size: tuple[int, int]) -> None:
    images = torch.rand(rows, columns, channels, *size, generator=torch.Generator().manual_seed(0))
    pictures = to_pictures(tuple(images))
    grid = Grid("", pictures, ("",) * rows, (("",) * columns,) * rows)
    canvas = grid.canvas(8.0)
    opaque = canvas[canvas[..., 3] == 255]
    assert len(opaque) == rows * columns * size[0] * size[1]
    assert opaque.astype(int).sum(0)[:3].tolist() == pictures.astype(int).sum((0, 1, 2, 3)).tolist()
    assert np.array_equal(canvas[: size[0], : size[1], :3], pictures[0, 0])
    assert not canvas[canvas[..., 3] == 0].any()
    flat, shapes = packed({"one": pictures, "other": pictures[:1]})
    back = unpacked(flat, shapes)
    assert np.array_equal(back["one"], pictures)
    assert np.array_equal(back["other"], pictures[:1])


def test_nothing_packs_into_nothing() -> None:
    assert unpacked(*packed({})) == {}


# --- explain


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """An untrained model for MNIST, under a name that a page must not take for its own."""
    from nofreelunch.data import load_data

    path = tmp_path / "<b>&<script>.safetensors"
    save_model(build("linear", load_data("mnist")), path)
    return path


def test_explain_draws_writes_and_repeats_itself(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["explain", str(model_file), "--data", "mnist", "--n", "3", "--measure", "8", "--points", "4"]
    arguments += ["--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != ".lock"}
    assert set(files) == {"gradients.png", "examples.png", "path.png", "path.gif", "explain.json", "explain.html"}
    numbers = json.loads(files["explain.json"])
    assert (numbers["threat"], len(numbers["images"])) == ({"norm": "l2", "eps": 4.0, "box": [0.0, 1.0]}, 3)
    assert set(numbers["gradients"]["mean_and_95_percent_interval"]) == set(figure_5.MEASURES)
    with Image.open(io.BytesIO(files["path.gif"])) as gif:
        assert gif.n_frames == 2 * 4 - 2
    page = files["explain.html"].decode()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count('type="radio"') == page.count("on the way") == 4
    assert page.count("checked>") == 1
    assert "http" not in page
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != ".lock"} == files
    assert main([*arguments, "--seed", "1"]) == 0
    assert "replaced" in capsys.readouterr().err


def test_explain_says_when_gradients_are_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat_model_of_a_user.py").write_text(
        "import torch\nclass Flat(torch.nn.Module):\n    def forward(self, x):\n"
        "        return x.flatten(1)[:, :10].round()\ndef make():\n    return Flat()\n"
    )
    arguments = ["explain", "python:flat_model_of_a_user:make", "--data", "mnist", "--n", "2", "--measure", "5"]
    assert main([*arguments, "--threat", "linf", "--device", "cpu", "--out", "out"]) == 0
    assert "5 of 5 gradients are exactly zero" in (tmp_path / "out" / "explain.html").read_text()
    assert json.loads((tmp_path / "out" / "explain.json").read_text())["gradients"]["zero"] == 5


OF_A_USER = """
import nofreelunch as nfl
from torch import nn

class Lost(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nfl.load_model("zoo:mnist-standard")

    def forward(self, x):
        return self.inner(x) / (x.mean((1, 2, 3))[:, None] > 0.1)

def half():
    return nfl.load_model("zoo:mnist-standard").half()
"""


def test_explain_takes_half_precision_and_refuses_what_is_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd_models_of_a_user.py").write_text(OF_A_USER)
    arguments = ["--data", "mnist", "--n", "2", "--measure", "10", "--points", "2", "--device", "cpu"]
    assert main(["explain", "python:odd_models_of_a_user:half", *arguments, "--out", "half"]) == 0
    assert json.loads((tmp_path / "half" / "explain.json").read_text())["gradients"]["zero"] == 0
    capsys.readouterr()
    assert main(["explain", "python:odd_models_of_a_user:Lost", *arguments, "--out", "lost"]) == 2
    assert "logits are NaN or infinite at" in capsys.readouterr().err


BAD = {
    "no such model": (["nothing.safetensors", "--data", "mnist"], "nothing."),
    "no model": (["nothing", "--data", "mnist"], "neither"),
    "no such zoo model": (["zoo:mnits", "--data", "mnist"], "unknown zoo model"),
    "no data": (["MODEL", "--data", "mnits"], 'did you mean "mnist"?'),
    "images of another shape": (["MODEL", "--data", "cifar10-sample"], "shape"),
    "another number of classes": (["MODEL", "--data", "mnist-5v7", "--eps", "1"], "10 outputs"),
    "no eps known": (["MODEL", "--data", "mnist-5v7"], "--eps is needed"),
    "eps on another scale": (["MODEL", "--data", "mnist", "--threat", "linf", "--eps", "8"], "8/255 = 0.03137"),
    "l_2 eps on another scale": (["MODEL", "--data", "mnist", "--eps", "80"], "80/255 = 0.3137"),
    "eps is no number": (["MODEL", "--data", "mnist", "--eps", "much"], "much"),
    "no images": (["MODEL", "--data", "mnist", "--n", "0"], "n must be"),
    "too many images": (["MODEL", "--data", "mnist", "--n", "10001"], "n must be at most"),
    "one point": (["MODEL", "--data", "mnist", "--points", "1"], "points must be"),
    "one gradient": (["MODEL", "--data", "mnist", "--measure", "1"], "measure must be"),
    "weights for a whole model": (["MODEL", "--data", "mnist", "--weights", "w.pt"], "--weights"),
}


@pytest.mark.parametrize("name", BAD)
def test_explain_answers_bad_input_in_one_sentence(
    name: str, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, expected = BAD[name]
    words = [str(model_file) if word == "MODEL" else word for word in arguments]
    assert main(["explain", *words, "--device", "cpu", "--out", "out"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert len(err.strip().splitlines()) == 1
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name != ".lock"]
