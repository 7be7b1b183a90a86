"""Figure 4: the straight line from an image to its large-eps adversarial example, and who believes what on the way."""

from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nofreelunch.evaluation.tally import percent
from nofreelunch.experiments.base import Experiment, Finding
from nofreelunch.experiments.batches import batched, far_examples, logits_of
from nofreelunch.experiments.deep import (
    COLOURS,
    DATA_TITLES,
    TITLES,
    DeepConfig,
    Exhibit,
    absences,
    in_order,
    inputs,
)
from nofreelunch.experiments.estimates import ByRole, Estimate, exceeds, mean, share
from nofreelunch.experiments.gallery import NOTHING, Gallery, beside_standard, collected, unpacked
from nofreelunch.experiments.image_grid import Grid, Pictures, stacked, strip_places, to_pictures
from nofreelunch.experiments.paper_values import TABLE_3_EPS
from nofreelunch.features.interpolation import POINTS, interpolate
from nofreelunch.models import fast
from nofreelunch.threats import L2
from nofreelunch.types import Model
from nofreelunch.workspace import Workspace

Curves: TypeAlias = dict[str, tuple[Estimate, ...]]
"""Role of the model -> estimate at each point."""


@dataclass(frozen=True)
class Config(DeepConfig):
    """Which lines are drawn.

    Args:
        strips: images shown for each model.
        points: on each line, ends included.
    """

    strips: int
    points: int = POINTS


@dataclass(frozen=True)
class Result(Gallery):
    """Strips of pictures, and measures.

    Attributes:
        titles: data set -> a title for each strip.
        curves: data set -> role -> an independent judge's mean probability of the model's new class at each point.
    """

    titles: dict[str, tuple[str, ...]]
    curves: dict[str, Curves]


@dataclass(frozen=True, eq=False)
class Line:
    """The lines of one model: from every x to its own large-eps example.

    Attributes:
        x: images (n, ...).
        z: the other ends.
        start: true classes (n,).
        end: classes that the model sees at the other end.
    """

    x: Tensor
    z: Tensor
    start: Tensor
    end: Tensor

    @property
    def changed(self) -> Tensor:
        """Which lines lead to another class."""
        return self.start != self.end


def run(config: Config, workspace: Workspace) -> Result:
    """Draw the lines and ask an independent model at each point."""
    fields, rest = collected(config, workspace, partial(_examined, config))
    titles, curves = {name: each[0] for name, each in rest.items()}, {name: each[1] for name, each in rest.items()}
    return Result(**fields, titles=titles, curves=curves)


def _examined(config: Config, exhibit: Exhibit) -> tuple[Pictures, ByRole, tuple[tuple[str, ...], Curves]]:
    """Pictures and estimates of one data set, and its titles and curves."""
    lines = _lines(exhibit, config)
    curves, estimates = _asked(exhibit, lines, config.points)
    return _strips(lines, config), estimates, (_titles(exhibit, lines, config.strips), curves)


def _lines(exhibit: Exhibit, config: Config) -> dict[str, Line]:
    """Role -> its lines, from the same images."""
    x, y = exhibit.test_images(config.n, config.seed)
    threat = L2(TABLE_3_EPS[exhibit.name, "l2"])
    examples = {role: far_examples(model, x, y, threat) for role, model in exhibit.models.items()}
    return {role: Line(x, z, y, logits_of(exhibit.models[role], z).argmax(1)) for role, z in examples.items()}


def _strips(lines: dict[str, Line], config: Config) -> Pictures:
    """Pictures, image by image and within each model by model."""
    places = strip_places(config.points)
    paths = [interpolate(line.x[: config.strips], line.z[: config.strips], config.points) for line in lines.values()]
    return to_pictures([path[places, image] for image in range(config.strips) for path in paths])


def _titles(exhibit: Exhibit, lines: dict[str, Line], strips: int) -> tuple[str, ...]:
    classes = exhibit.data.classes
    return tuple(
        f"{TITLES[role]}\n{classes[int(line.start[image])]} → {classes[int(line.end[image])]}"
        for image in range(strips)
        for role, line in lines.items()
    )


def _asked(exhibit: Exhibit, lines: dict[str, Line], points: int) -> tuple[Curves, ByRole]:
    """What independent robust models say on the way: curves by role, and estimates by role and judge."""
    curves: Curves = {}
    estimates: ByRole = {}
    for role, line in lines.items():
        estimates[role] = {"changed": share(line.changed)}
        if int(line.changed.sum()) < 2:
            continue
        for judge in exhibit.judges(role):
            probability = _probabilities(fast(exhibit.models[judge]), line, points)
            estimates[role][f"direct {judge}"] = share(leads_directly(probability.argmax(2), line))
            if judge == exhibit.judges(role)[0]:
                end = line.end[line.changed].expand(len(probability), -1)
                new = probability.gather(2, end[..., None]).squeeze(2)
                curves[role] = tuple(mean(at_point) for at_point in new)
    return curves, estimates


def _probabilities(judge: Model, line: Line, points: int) -> Tensor:
    """A judge's class probabilities (points, lines that changed, classes)."""

    def on_the_way(x: Tensor, z: Tensor) -> Tensor:
        path = interpolate(x, z, points).transpose(0, 1)
        return logits_of(judge, path.flatten(0, 1)).softmax(1).view(*path.shape[:2], -1)

    return batched(on_the_way, line.x[line.changed], line.z[line.changed]).transpose(0, 1)


def leads_directly(labels: Tensor, line: Line) -> Tensor:
    """Which lines lead, by the judge's labels (points, n), from the true class to the new one with a single change."""
    changes = (labels[1:] != labels[:-1]).sum(0)
    return (changes == 1) & (labels[0] == line.start[line.changed]) & (labels[-1] == line.end[line.changed])


def findings(result: Result) -> tuple[Finding, ...]:
    """Whether the interpolations of robust models go from class to class, and those of the standard model less so."""
    lines: list[Finding] = []
    for name, roles in in_order(result.roles):
        for role in roles[1:]:
            lines += _leads(result, name, role)
    return (*lines, *absences(result.missing, result.samples))


def _leads(result: Result, name: str, role: str) -> list[Finding]:
    """The claim of Section 3.2 for one robust model, before each judge that also saw the standard model's lines."""
    about = f"Interpolations of the {TITLES[role]} model on {DATA_TITLES[name]}"
    lines = []
    for judge, more, less in beside_standard(result.estimates[name], role, "direct"):
        claim = f"{about} lead from one class to the other, more than those of the standard model do."
        note = (
            f"Share of lines that the {TITLES[judge]} model sees change once, from the true class to the new one, with "
            f"no third class between; standard model: {percent(less)}"
        )
        lines.append(exceeds(claim, "Section 3.2, Figure 4", more, less, percent(more), note))
    return lines


def plot(result: Result) -> Figure:
    """Strips, and below them what an independent robust model believes on the way."""
    pictures = unpacked(result.pictures, result.shapes)
    grids = [Grid(DATA_TITLES[name], pictures[name], result.titles[name]) for name, _ in in_order(result.roles)]
    figure, charts = stacked(grids, charts=len(grids))
    for axes, (name, curves) in zip(charts, in_order(result.curves), strict=True):
        _draw_curves(axes, DATA_TITLES[name], curves)
    return figure


def _draw_curves(axes: Axes, title: str, curves: Curves) -> None:
    for role, curve in in_order(curves):
        values = np.array(curve)
        t = np.linspace(0, 1, len(values))
        colour = COLOURS[role]
        axes.plot(t, values[:, 0], color=colour, label=TITLES[role])
        axes.fill_between(t, values[:, 1], values[:, 2], color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="from the image (0) to the example (1)", ylabel="probability of the new class", ylim=(-0.02, 1.02))
    axes.set_title(f"{title}: a judge's belief")
    if curves:
        axes.legend()


def alt(result: Result) -> str:
    """The figure in words."""
    parts = [
        f"on {DATA_TITLES[name]} an independent robust model gives the new class at the end of the lines a mean "
        f"probability of {curve[-1][0]:.2f} for the {TITLES[role]} model"
        for name, curves in in_order(result.curves)
        for role, curve in in_order(curves)
    ]
    strips = "Strips of images on the way from test images to the large-eps examples of each model"
    return f"{'; '.join([strips, *parts])}." if result.roles else NOTHING


EXPERIMENT = Experiment(
    name="figure-4",
    paper_reference="Section 3.2, Figure 4",
    title="Interpolation between an image and its large-eps adversarial example",
    about="Each strip goes in a straight line from a test image to its large-eps example (ℓ₂, Table 3's eps). Look "
    "whether the images between could be real, on the way from one class to the other; the curves say when a robust "
    "model that had no part in it begins to believe in the new class. `nofreelunch explain` makes an animation of it.",
    presets={
        "smoke": Config(strips=1, n=4, seed=3),
        "laptop": Config(strips=2, n=30, seed=3),
        "paper": Config(strips=2, n=1000, retrain="paper", seed=3),
    },
    result_type=Result,
    run=run,
    findings=findings,
    plot=plot,
    alt=alt,
    inputs=inputs,
)
