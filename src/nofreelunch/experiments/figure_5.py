"""Figures 5 and 8: the gradient of the loss with respect to the pixels, and how far it is about the image."""

import textwrap
from dataclasses import astuple, dataclass
from functools import partial

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nofreelunch.experiments.base import Experiment, Finding, Table, beyond
from nofreelunch.experiments.batches import batched
from nofreelunch.experiments.deep import COLOURS, DATA_TITLES, TITLES, DeepConfig, Exhibit, absences, in_order, inputs
from nofreelunch.experiments.estimates import ByRole, Estimate, exceeds, mean, plain_number
from nofreelunch.experiments.gallery import NOTHING, Gallery, collected, unpacked
from nofreelunch.experiments.image_grid import Grid, Pictures, stacked, to_pictures
from nofreelunch.features import Alignment, gradient_alignment, gradient_pictures, input_gradient, log_odds
from nofreelunch.types import Images
from nofreelunch.workspace import Workspace

MEASURES = {
    "alignment": "alignment with the image, |⟨x, g⟩| / |g|",
    "edge_cosine": "cosine with the edge map",
    "edge_energy": "energy on the 20 % strongest edges",
    "sparsity": "sparsity (Hoyer)",
    "coherence": "correlation of neighbouring pixels",
}
"""The fields of `Alignment`, as the reader sees them."""

NOISE = {"edge_energy": "0.2", "sparsity": "about 0.2", "coherence": "0"}
"""What a gradient that knows nothing of the image has, where that is known."""

_INVARIANT = 1e-4  # alignments below this are rounding: those of networks that standardise each image by itself
_CLAIMED = ("alignment", "edge_cosine", "edge_energy")  # what "align with perceptually relevant features" can mean


@dataclass(frozen=True)
class Config(DeepConfig):
    """Whose gradients are drawn.

    Args:
        columns: number of images shown.
    """

    columns: int


@dataclass(frozen=True)
class Result(Gallery):
    """Pictures, of which the first row of each data set shows the images, and measures, as means over the images.

    "MEASURE - standard" is the mean difference from the standard model's gradient at the same image.

    Attributes:
        captions: data set -> the classes of the images.
    """

    captions: dict[str, tuple[str, ...]]


def run(config: Config, workspace: Workspace) -> Result:
    """Differentiate, draw and measure."""
    fields, captions = collected(config, workspace, partial(_examined, config))
    return Result(**fields, captions=captions)


def _examined(config: Config, exhibit: Exhibit) -> tuple[Pictures, ByRole, tuple[str, ...]]:
    """Pictures, estimates and captions of one data set."""
    x, y = exhibit.test_images(config.n, config.seed)
    grads = {
        role: batched(partial(input_gradient, model, loss=log_odds), x, y) for role, model in exhibit.models.items()
    }
    steep = torch.stack([grad.flatten(1).any(1) for grad in grads.values()]).all(0)  # a gradient of 0 points nowhere
    measured = {role: _measured(x[steep], grad[steep]) for role, grad in grads.items()}
    estimates = {role: _estimated(each, measured["standard"]) for role, each in measured.items()}
    rows = [x[: config.columns], *(gradient_pictures(grad[: config.columns]) for grad in grads.values())]
    captions = tuple(exhibit.data.classes[k] for k in y[: config.columns].tolist())
    return to_pictures(rows), estimates, captions


def _measured(x: Images, grad: Images) -> Alignment:
    """How each gradient lies against its image, some at a time."""
    values = batched(lambda x, grad: torch.stack(astuple(gradient_alignment(x, grad)), 1), x, grad)
    return Alignment(*values.unbind(1))


def _estimated(measured: Alignment, standard: Alignment) -> dict[str, Estimate]:
    estimates = {}
    for name in MEASURES:
        ours, theirs = (getattr(each, name) for each in (measured, standard))
        estimates[name] = mean(ours)
        if measured is not standard:
            estimates[f"{name} - standard"] = mean(ours - theirs)
    return estimates


def findings(result: Result) -> tuple[Finding, ...]:
    """Each robust model's gradients beside the standard model's, at the same images."""
    lines: list[Finding] = []
    for name, roles in in_order(result.roles):
        for role in roles[1:]:
            lines += [_better(result, name, role, measure) for measure in _meaningful(result, name)]
        lines.append(_noise(result, name))
    return (*lines, *absences(result.missing, result.samples))


def _meaningful(result: Result, name: str) -> tuple[str, ...]:
    """The measures that the claim is judged by: not the alignment where it is zero by construction.

    A network that standardises each image answers alike to all a * x + b, a > 0; so <x, g> = 0, whatever it has learnt.
    """
    aligned = all(models["alignment"][0] > _INVARIANT for models in result.estimates[name].values())
    return _CLAIMED if aligned else _CLAIMED[1:]


def _better(result: Result, name: str, role: str, measure: str) -> Finding:
    """The claim of Section 3.3, in one measure."""
    ours, standard = result.estimates[name][role], result.estimates[name]["standard"]
    difference = ours[f"{measure} - standard"]
    about = f"On {DATA_TITLES[name]} gradients of the {TITLES[role]} model"
    claim = f"{about} align better with the image: {MEASURES[measure]}."
    note = (
        f"Standard model: {plain_number(standard[measure])}; difference at the same images: {plain_number(difference)}"
    )
    return exceeds(claim, "Section 3.3, Figure 5", difference, (0.0, 0.0, 0.0), plain_number(ours[measure]), note)


def _noise(result: Result, name: str) -> Finding:
    """How near to white noise the standard model's gradients are."""
    models = result.estimates[name]
    others = "; ".join(f"{TITLES[role]}: {plain_number(models[role]['coherence'])}" for role in result.roles[name][1:])
    return beyond(
        f"On {DATA_TITLES[name]} neighbouring pixels of the standard model's gradients correlate.",
        plain_number(models["standard"]["coherence"]),
        note=f"White noise, which the paper sees in them, has 0; {others}",
    )


def table(result: Result) -> Table:
    """Every measure of every model."""
    rows = tuple(
        (
            DATA_TITLES[name],
            TITLES[role],
            *(plain_number(result.estimates[name][role][measure]) for measure in MEASURES),
        )
        for name, roles in in_order(result.roles)
        for role in roles
    )
    caption = (
        "Means over test images, but for those where a gradient is 0, with 95% intervals. For a gradient that knows "
        "nothing of the image: energy on edges 0.2, sparsity about 0.2, correlation of neighbours 0. Alignment (Etmann "
        "et al. 2019) is in units of pixels; it is zero for networks that standardise each image by itself, and says "
        "nothing of them."
    )
    return Table(("Data", "Model", *MEASURES.values()), rows, caption)


def plot(result: Result) -> Figure:
    """Images, their gradients for each model, and the measures that have one scale."""
    pictures = unpacked(result.pictures, result.shapes)
    grids = []
    for name, roles in in_order(result.roles):
        rows = ("image", *(TITLES[role] for role in roles))
        captions = (result.captions[name], *((),) * len(roles))
        grids.append(Grid(DATA_TITLES[name], pictures[name], rows, captions))
    shown = [measure for measure in MEASURES if measure != "alignment"]
    figure, charts = stacked(grids, charts=len(shown) if grids else 0, chart_height=0.9 + 0.6 * len(grids))
    for axes, measure in zip(charts, shown, strict=False):
        _draw_measure(axes, measure, result, named=axes is charts[0])
    return figure


def _draw_measure(axes: Axes, measure: str, result: Result, named: bool) -> None:
    """A point with its interval for each model; the models are named on the axis if `named`."""
    labels: list[str] = []
    for name, roles in in_order(result.roles):
        for role in roles:
            value, low, high = result.estimates[name][role][measure]
            colour = COLOURS[role]
            error = [[value - low], [high - value]]
            axes.errorbar(value, len(labels), xerr=error, fmt="o", markersize=4, color=colour)
            labels.append(f"{DATA_TITLES[name]} {TITLES[role]}" if len(result.roles) > 1 else TITLES[role])
    axes.set_yticks(range(len(labels)), labels if named else [""] * len(labels))
    axes.set_title(textwrap.fill(MEASURES[measure], 20), fontsize=8.5)
    axes.tick_params(labelsize=8.5)
    axes.invert_yaxis()
    axes.margins(y=0.25)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))


def alt(result: Result) -> str:
    """The figure in words."""
    parts = [
        f"on {DATA_TITLES[name]} {100 * cells['edge_energy'][0]:.0f} % of the gradient's energy lies on the strongest "
        f"fifth of edges for the {TITLES[role]} model"
        for name, models in in_order(result.estimates)
        for role, cells in in_order(models)
    ]
    rows = "Rows of test images and the gradients of each model's loss at them"
    return f"{rows}; {'; '.join(parts)}." if parts else NOTHING


def _experiment(number: int, columns: int, seed: int) -> Experiment:
    return Experiment(
        name=f"figure-{number}",
        paper_reference=f"Section 3.3, Figure {number}",
        title="Gradients of the loss with respect to the image",
        about="At each test image the gradient of the loss with respect to the pixels, clipped to ±3 standard "
        "deviations and rescaled, nothing else (grey images: blue positive, red negative). Look whether the object can "
        "be seen in it; the table measures how far the gradient follows the image and its edges.",
        presets={
            "smoke": Config(columns, n=20, seed=seed),
            "laptop": Config(columns, n=300, seed=seed),
            "paper": Config(columns, n=2000, retrain="paper", seed=seed),
        },
        result_type=Result,
        run=run,
        findings=findings,
        plot=plot,
        alt=alt,
        table=table,
        inputs=inputs,
    )


FIGURE_5 = _experiment(5, columns=6, seed=0)
FIGURE_8 = _experiment(8, columns=10, seed=4)
