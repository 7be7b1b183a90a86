"""Figure 2 and Table 4: numbers that hang together, other classes and data, and verdicts that follow the numbers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot

import nofreelunch as nfl
from nofreelunch.experiments import figure_2, table_4
from nofreelunch.experiments.base import Finding
from nofreelunch.experiments.figure_2_result import Result
from nofreelunch.experiments.linear_study import LinearConfig, load_pair
from nofreelunch.features import top_correlated
from nofreelunch.training.linear import Descent, NoOptimum, fit_linear
from nofreelunch.workspace import Workspace

WEAK = {"epochs": 20, "examples": 600}


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("linear"))


@pytest.fixture(scope="module")
def table(space: Workspace) -> table_4.Result:
    return table_4.run(table_4.Config(seeds=2, **WEAK), space)


@pytest.fixture(scope="module")
def figure(space: Workspace) -> Result:
    return figure_2.run(figure_2.Config(counts=(1, 4, 40, 300), path=(0.3, 0.01, 0.2), **WEAK), space)


def finding(lines: tuple[Finding, ...], words: str) -> Finding:
    (line,) = (line for line in lines if words in line.claim)
    return line


def test_the_table_holds_what_was_trained(table: table_4.Result, space: Workspace) -> None:
    assert set(table.rows) == {*table_4.ROWS} - {"standard optimum"}
    assert set(table.separated) == {"standard"}
    for row in table.rows.values():
        for split in ("train", "test"):
            clean, robust, free = (np.array(row[f"{kind}_{split}"]) for kind in ("clean", "robust", "free"))
            assert (clean >= robust).all()
            assert (robust >= free).all()
    pair = load_pair(LinearConfig(examples=600), space)
    fit = fit_linear(pair.x, pair.y, 0.2, None, "sgd", recipe=Descent(epochs=20), seed=1)
    row = table.rows["unboxed sgd"]
    margins = pair.y_test * (pair.x_test @ fit.w + fit.b) - 0.2 * np.abs(fit.w).sum()
    assert row["free_test"][1] == (margins > 0).mean()
    assert row["l1_norm"][1] == pytest.approx(np.abs(fit.w).sum())
    assert row["objective"][1] == fit.objective
    best = table.rows["adversarial optimum"]
    assert best["residual"][0] < 1e-8
    assert best["objective"][0] < min(table.rows["adversarial sgd"]["objective"])


def test_the_table_s_verdicts_follow_its_numbers(table: table_4.Result) -> None:
    assert finding(table_4.findings(table), "costs standard accuracy").verdict == "agrees"
    swapped = {"standard sgd": "adversarial sgd", "adversarial sgd": "standard sgd"}
    rows = {name: table.rows[swapped.get(name, name)] for name in table.rows}
    other = dataclasses.replace(table, rows=rows)
    assert finding(table_4.findings(other), "costs standard accuracy").verdict == "refuted"
    near = {key: tuple(rate + 0.001 for rate in table.rows["standard sgd"][key]) for key in ("robust_test",)}
    near["clean_test"] = tuple(rate - 0.001 for rate in table.rows["standard sgd"]["clean_test"])
    rows = table.rows | {"adversarial sgd": table.rows["adversarial sgd"] | near}
    other = dataclasses.replace(table, rows=rows)
    assert finding(table_4.findings(other), "costs standard accuracy").verdict == "undecided"
    assert not any(line.where == "Table 4" for line in table_4.findings(dataclasses.replace(table, as_in_paper=False)))
    printed = table_4.table(table)
    assert len(printed.rows) == len(table.rows)
    assert {len(row) for row in printed.rows} == {len(printed.header)}


def test_a_paper_value_agrees_within_its_interval(table: table_4.Result) -> None:
    exact = {"clean_test": (0.9838, 0.9838), "robust_test": (0.5, 0.5)}
    for shift, verdict in ((0.005, "agrees"), (0.012, "differs")):
        row = table.rows["standard sgd"] | exact | {"clean_test": (0.9838 - shift,) * 2}
        near = dataclasses.replace(table, n_test=1920, rows=table.rows | {"standard sgd": row})
        assert finding(table_4.findings(near), "Standard training has this standard").verdict == verdict


def test_the_figure_s_curves_are_trainings_on_the_top_pixels(figure: Result, space: Workspace) -> None:
    pair = load_pair(LinearConfig(examples=600), space)
    assert figure.counts == (1, 4, 40, 300, 784)
    four = top_correlated((pair.x, pair.y), 4)
    fit = fit_linear(pair.x[:, four], pair.y, method="sgd", recipe=Descent(epochs=20))
    best = fit_linear(pair.x[:, four], pair.y)
    test = pair.x_test[:, four], pair.y_test
    assert tuple(figure.top[1]) == (fit.clean_accuracy(*test), fit.robust_accuracy(*test, 0.2))
    assert tuple(figure.top_optimum[1]) == (best.clean_accuracy(*test), best.robust_accuracy(*test, 0.2))
    assert 1 < len(figure.top_optimum) < len(figure.counts)
    more = top_correlated((pair.x, pair.y), figure.counts[len(figure.top_optimum)])
    with pytest.raises(NoOptimum):
        fit_linear(pair.x[:, more], pair.y)


def test_the_path_goes_up_and_stops_where_the_examples_separate(figure: Result) -> None:
    assert figure.path == (0.2, 0.3)
    assert figure.separable == (0.01,)
    assert tuple(figure.path_accuracy[0]) == figure.adversarial["optimum"]
    assert figure.path_pixels[0] == len(figure.used) > figure.path_pixels[1] > 0
    assert 0.3 < figure.vanishing_eps < 0.4


def test_the_figure_s_verdicts_follow_its_numbers(figure: Result) -> None:
    lines = figure_2.findings(figure)
    for claim in ("small number", "cannot use pixels", "weakly correlated", "background"):
        assert finding(lines, claim).verdict == "agrees"
    assert finding(lines, "plain correlation").verdict == "refuted"
    used = figure.optimum != 0
    sharp = dataclasses.replace(figure, correlation=np.where(used, 0.9, 0.1))
    assert finding(figure_2.findings(sharp), "plain correlation").verdict == "agrees"
    loose = dataclasses.replace(figure, share=np.where(used, 0.9, figure.share))
    assert finding(figure_2.findings(loose), "cannot use pixels").verdict == "refuted"
    dense = dataclasses.replace(figure, optimum=np.ones(784))
    assert finding(figure_2.findings(dense), "small number").verdict == "refuted"
    sparse = dataclasses.replace(figure, standard=figure.optimum)
    for claim in ("weakly correlated", "background"):
        assert finding(figure_2.findings(sparse), claim).verdict == "refuted"


@pytest.mark.parametrize(
    ("top", "trade_off", "alternative"),
    [
        ([[0.85, 0.80], [0.94, 0.78], [0.98, 0.40]], "agrees", "agrees"),
        ([[0.85, 0.80], [0.88, 0.79], [0.98, 0.40]], "agrees", "refuted"),
        ([[0.85, 0.50], [0.94, 0.60], [0.98, 0.70]], "refuted", "refuted"),
        ([[0.85, 0.60], [0.9505, 0.770], [0.951, 0.7695]], "undecided", "agrees"),  # an image or two
    ],
)
def test_verdicts_on_few_pixels(figure: Result, top: list, trade_off: str, alternative: str) -> None:
    few = dataclasses.replace(
        figure, n_test=1920, counts=(1, 20, 784), top=np.array(top), adversarial={"descent": (0.95, 0.77)}
    )
    lines = figure_2.findings(few)
    assert finding(lines, "Beyond some number").verdict == trade_off
    assert finding(lines, "does as well").verdict == alternative


def test_few_test_images_decide_nothing(figure: Result) -> None:
    """Nor does a rate of 1, which seems to have no spread."""
    top = np.array([[0.96, 0.52], [0.96, 0.50]])
    few = dataclasses.replace(figure, n_test=50, counts=(20, 784), top=top, adversarial={"descent": (0.99, 0.6)})
    assert finding(figure_2.findings(few), "does as well").verdict == "undecided"
    top = np.array([[0.999, 0.60], [0.99, 0.59]])
    sure = dataclasses.replace(few, n_test=1000, top=top, adversarial={"descent": (1.0, 0.6)})
    assert finding(figure_2.findings(sure), "does as well").verdict == "agrees"


def test_strongly_correlated_is_more_than_half_of_the_pixels_that_vary(figure: Result) -> None:
    """Pixels that never change have no correlation, and are not there to be beaten."""
    used, correlation = np.arange(784) < 20, np.zeros(784)
    correlation[:320] = np.linspace(0.1, 0.9, 320)
    changes = np.arange(784) < 320
    weak = dataclasses.replace(
        figure, optimum=used * 0.1, correlation=correlation, activity=changes * 1.0, share=used * 1.0
    )
    assert finding(figure_2.findings(weak), "small number").verdict == "refuted"


def colours(folder: Path) -> str:
    """An npz of small colour images of two classes that overlap."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 120), ("test", 60)):
        y = np.arange(n) % 2
        noise = rng.normal(110, 60, (n, 4, 5, 3))
        noise[:, 1:3, 1:3] += 40 * y[:, None, None, None]
        arrays |= {f"x_{split}": noise.clip(0, 255).astype(np.uint8), f"y_{split}": y}
    np.savez(folder / "colours.npz", **arrays)
    return f"npz:{folder / 'colours.npz'}"


def test_other_classes_and_colour_images_of_ones_own(tmp_path: Path, space: Workspace) -> None:
    small = {"epochs": 2, "eps": 0.05}
    eights = figure_2.run(figure_2.Config(classes=("3", "8"), counts=(1,), path=(0.2,), examples=300, **small), space)
    assert eights.title == "mnist, 3 v 8"
    data = colours(tmp_path)
    names = nfl.load_data(data).classes
    image = figure_2.run(figure_2.Config(data=data, classes=names, counts=(1, 5), path=(0.05, 0.1), **small), space)
    assert image.shape == (3, 4, 5)
    assert image.counts[-1] == 60
    assert not any("background" in line.claim for line in figure_2.findings(image))
    rows = table_4.run(table_4.Config(data=data, classes=names, seeds=2, **small), space)
    assert not rows.as_in_paper
    for result, experiment in ((image, figure_2.EXPERIMENT), (eights, figure_2.EXPERIMENT), (rows, table_4.EXPERIMENT)):
        assert experiment.findings(result)
        pyplot.close(experiment.plot(result))


def test_where_no_pixel_is_used_there_is_still_a_figure(space: Workspace) -> None:
    config = figure_2.Config(eps=0.5, counts=(1,), path=(0.5,), examples=200, epochs=1)
    result = figure_2.run(config, space)
    assert len(result.used) == 0
    assert figure_2.findings(result)
    pyplot.close(figure_2.plot(result))
    assert "no pixel" in figure_2.alt(result)


def test_only_the_paper_s_setting_is_held_against_its_numbers() -> None:
    assert LinearConfig(data="mnist", classes=("5", "7"), eps=0.2).as_in_paper
    assert LinearConfig(data="mnist-5v7", classes=("5", "7"), eps=0.2).as_in_paper
    assert not LinearConfig(data="mnist", classes=("7", "5"), eps=0.2).as_in_paper
    assert not LinearConfig(data="mnist", classes=("5", "7"), eps=0.1).as_in_paper
    assert not LinearConfig(data="cifar10", classes=("5", "7"), eps=0.2).as_in_paper
