"""Figure 1: what adversarial training costs in standard accuracy and, beyond the paper, what it buys."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from nofreelunch.attacks.recipes import attack
from nofreelunch.data import Dataset
from nofreelunch.drawing import COLOUR, curve
from nofreelunch.evaluation.accuracy import Examples, accuracies
from nofreelunch.evaluation.tally import Tally, percent
from nofreelunch.experiments.base import Experiment, Finding, Table, beyond
from nofreelunch.experiments.batches import at_a_time, balanced, logits_of
from nofreelunch.experiments.deep import (
    DATA_TITLES,
    NORMS,
    PIXEL_SCALE,
    DeepConfig,
    absences,
    available,
    inputs,
    samples,
)
from nofreelunch.experiments.estimates import Estimate, exceeds, over_seeds
from nofreelunch.experiments.paper_values import TABLE_2_EPS
from nofreelunch.experiments.retrained import trained
from nofreelunch.models import fast, load_model, zoo_card, zoo_names
from nofreelunch.threats import THREATS, Threat, format_radius
from nofreelunch.training import TrainConfig
from nofreelunch.workspace import Workspace


@dataclass(frozen=True)
class Config(DeepConfig):
    """Which models are measured.

    Args:
        clean_n: number of test images for the clean accuracy, `n` being attacked; all, if there are fewer.
        attack: recipe in `ATTACKS`, at Table 2's eps.
        shares: training eps over Table 2's, where models are trained here.
        seeds: of the trainings, added to `seed`.
    """

    clean_n: int = 10_000
    attack: str = "pgd-40"
    shares: tuple[float, ...] = (0.25, 0.5, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)


class Point(NamedTuple):
    """One model before an adversary of one norm, at Table 2's eps; `eps` and `seed` are those of its training."""

    data: str
    norm: str
    eps: float
    seed: int
    clean: int
    clean_of: int
    robust: int
    robust_of: int


@dataclass(frozen=True)
class Result:
    """Counts.

    Attributes:
        points: as `Point`, but plain tuples.
        attack: recipe that the robust accuracies are under.
        trained: the preset by which the models were trained here, "" for those of the package.
        missing: models of Table 2's eps that are not there.
        samples: data sets of which only a sample was there; these were used.
    """

    points: tuple[tuple[str, str, float, int, int, int, int, int], ...]
    attack: str
    trained: str
    missing: tuple[str, ...]
    samples: tuple[str, ...]


def run(config: Config, workspace: Workspace) -> Result:
    """Measure the models, training them first if that is asked for."""
    points: list[tuple[str, str, float, int, int, int, int, int]] = []
    found, missing = available(config, workspace)
    for name, data in found.items():
        for model, threat, seed in _trained(data, config, workspace) if config.retrain else _shipped(name):
            clean = _clean(model.to(workspace.device), data, config, workspace.device)
            for norm in (threat.norm,) if threat else NORMS:
                robust = _robust(model, data, THREATS[norm](TABLE_2_EPS[name, norm]), config)
                point = Point(name, norm, threat.eps if threat else 0.0, seed, *clean, *robust)
                points.append((*point,))
    return Result(tuple(sorted(points)), config.attack, config.retrain, missing, samples(found.values()))


def _shipped(name: str) -> Iterator[tuple[nn.Module, Threat | None, int]]:
    """The package's models of a data set, what each was trained against, and its seed."""
    for zoo, card in ((zoo, zoo_card(zoo)) for zoo in zoo_names()):
        if card.data == name:
            yield load_model(f"zoo:{zoo}"), TrainConfig.from_plain(card.recipe).threat, card.seed


def _trained(data: Dataset, config: Config, workspace: Workspace) -> Iterator[tuple[nn.Module, Threat | None, int]]:
    """The grid, trained here."""
    grid = [THREATS[norm](share * TABLE_2_EPS[data.name, norm]) for norm in NORMS for share in config.shares]
    for seed in (config.seed + number for number in config.seeds):
        for threat in (None, *grid):
            yield trained(config.retrain, data, threat, seed, workspace), threat, seed


def _clean(model: nn.Module, data: Dataset, config: Config, device: str) -> tuple[int, int]:
    """How many of how many test images are classified correctly, equally many of each class."""
    chosen, right = balanced(data.test.targets, config.clean_n, config.seed), 0
    for index in torch.split(chosen, at_a_time(data.test.x)):
        seen = logits_of(model, data.test.images(index).to(device)).argmax(1).cpu()
        right += int((seen == data.test.targets[index]).sum())
    return right, len(chosen)


def _robust(model: nn.Module, data: Dataset, threat: Threat, config: Config) -> tuple[int, int]:
    """How many of how many test images stay so whatever the attack finds, in bfloat16; the model itself decides."""
    examples = Examples(data.test, balanced(data.test.targets, config.n, config.seed), at_a_time(data.test.x))
    found = accuracies(model, fast(model, "bfloat16"), examples, threat, attack(config.attack, threat), config.seed)[1]
    return int(found.correct), found.total


@dataclass(frozen=True)
class Mark:
    """One eps of a curve: clean and robust accuracy over the seeds.

    The interval is Wilson's, for the choice of test images, widened to Student's for the choice of seeds.
    """

    eps: float
    clean: Estimate
    robust: Estimate


def curves(result: Result) -> dict[tuple[str, str], list[Mark]]:
    """(data set, norm) -> accuracies by training eps."""
    points = [Point(*values) for values in result.points]
    order = [(data, norm) for data in DATA_TITLES for norm in NORMS]
    found: dict[tuple[str, str], list[Mark]] = {}
    for data, norm, eps in sorted({point[:3] for point in points}, key=lambda each: (order.index(each[:2]), each[2])):
        here = [point for point in points if point[:3] == (data, norm, eps)]
        clean = over_seeds([Tally(point.clean, point.clean_of) for point in here])
        robust = over_seeds([Tally(point.robust, point.robust_of) for point in here])
        found.setdefault((data, norm), []).append(Mark(eps, clean, robust))
    return found


def findings(result: Result) -> tuple[Finding, ...]:
    """The decline that the paper shows, and what the models gain for it."""
    lines = []
    for (data, norm), marks in curves(result).items():
        if len(marks) < 2:
            continue
        first, last, where = marks[0], marks[-1], f"On {DATA_TITLES[data]}"
        claim = f"{where} clean accuracy declines as the {NORMS[norm]} adversary of the training grows."
        steps = "; ".join(f"eps {format_radius(mark.eps)}: {percent(mark.clean)}" for mark in marks)
        note = f"{steps}. The paper's values are in its picture only. {_spread(result)}"
        before, after = _rise(marks) or (first, last)
        ours = f"{percent(before.clean)} to {percent(after.clean)}"
        lines.append(exceeds(claim, "Figure 1", before.clean, after.clean, ours, note))
        trained_at, tested_at = map(format_radius, (last.eps, TABLE_2_EPS[data, norm]))
        claim = f"{where} training against {NORMS[norm]} {trained_at} leaves this robust accuracy at {tested_at}."
        note = f"Under {result.attack} alone, so an upper bound; without adversarial training {percent(first.robust)}"
        lines.append(beyond(claim, percent(last.robust), note))
    return (*lines, *absences(result.missing, result.samples))


def _rise(marks: list[Mark]) -> tuple[Mark, Mark] | None:
    """Two marks of which the one of the larger eps is the more accurate, by their intervals."""
    return next((pair for pair in combinations(marks, 2) if pair[1].clean[1] > pair[0].clean[2]), None)


def _spread(result: Result) -> str:
    """What the intervals cover."""
    if result.trained:
        return "Means over the seeds: the intervals are of the choice of test images and of the seeds"
    return "One model each: the interval is of the choice of test images, not of the training"


def table(result: Result) -> Table:
    """Every model."""
    rows = tuple(
        (DATA_TITLES[data], NORMS[norm], format_radius(mark.eps), percent(mark.clean), percent(mark.robust))
        for (data, norm), marks in curves(result).items()
        for mark in marks
    )
    caption = (
        f"Accuracy on test images, clean and under {result.attack} at Table 2's eps, with 95% intervals: Wilson's "
        "for the choice of test images, widened to Student's for the choice of seeds where there are several."
    )
    return Table(("Data", "Norm", "Training eps", "Clean", "Robust"), rows, caption)


def plot(result: Result) -> Figure:
    """Clean accuracy above, robust accuracy below, against training eps."""
    found = curves(result)
    figure, grid = pyplot.subplots(
        2, max(1, len(found)), figsize=(min(9.5, 1.4 + 2.8 * max(1, len(found))), 4.6), squeeze=False
    )
    first: dict[str, Axes] = {}
    for column, ((data, norm), marks) in enumerate(found.items()):
        top, bottom = grid[:, column]
        if data in first:
            top.sharey(first[data])
        first.setdefault(data, top)
        scale = PIXEL_SCALE.get(data, 1)
        x = [mark.eps * scale for mark in marks]
        curve(top, x, [mark.clean for mark in marks], COLOUR["standard"])
        curve(bottom, x, [mark.robust for mark in marks], COLOUR["robust"])
        top.set_title(f"{DATA_TITLES[data]}, {NORMS[norm]}")
        bottom.set(xlabel="training eps" + (f" · {scale}" if scale > 1 else ""), ylim=(-3, 103))
    grid[0, 0].set_ylabel("clean accuracy, %")
    grid[1, 0].set_ylabel("robust accuracy\nat Table 2's eps, %")
    return figure


def alt(result: Result) -> str:
    """The figure in words."""
    parts = [
        f"on {DATA_TITLES[data]} with {NORMS[norm]} clean accuracy goes from {percent(marks[0].clean)} without "
        f"adversarial training to {percent(marks[-1].clean)} at eps {format_radius(marks[-1].eps)}, "
        f"robust accuracy from {percent(marks[0].robust)} to {percent(marks[-1].robust)}"
        for (data, norm), marks in curves(result).items()
    ]
    return f"Accuracy against training eps: {'; '.join(parts)}." if parts else "No curve: none of the models is there."


EXPERIMENT = Experiment(
    name="figure-1",
    paper_reference="Section 2, Figure 1",
    title="Standard accuracy against the strength of adversarial training",
    about="Models trained against larger and larger eps, on clean test images (the paper's figure) and, beyond the "
    "paper, under attack at Table 2's eps. Look how much clean accuracy is paid for how much robustness.",
    presets={
        "smoke": Config(n=10, clean_n=100, attack="pgd-10"),
        "laptop": Config(n=40),
        "paper": Config(n=10_000, retrain="paper"),
    },
    result_type=Result,
    run=run,
    findings=findings,
    plot=plot,
    alt=alt,
    table=table,
    inputs=inputs,
)
