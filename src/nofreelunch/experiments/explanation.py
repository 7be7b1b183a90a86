"""What `nofreelunch explain` shows of any model: Figures 3, 4 and 5 for it alone, with what can be measured."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from nofreelunch.attacks.door import out_of_memory
from nofreelunch.data import Dataset
from nofreelunch.drawing import drawn
from nofreelunch.errors import InputError, check_count, check_seed
from nofreelunch.experiments.batches import batched, chosen_images, far_examples, logits_of
from nofreelunch.experiments.estimates import Estimate, mean, plain_number
from nofreelunch.experiments.figure_5 import MEASURES, NOISE
from nofreelunch.experiments.image_grid import Grid, Pictures, stacked, strip_places, to_pictures
from nofreelunch.experiments.paper_values import TABLE_3_EPS
from nofreelunch.features import (
    Alignment,
    gradient_alignment,
    gradient_pictures,
    input_gradient,
    interpolate,
    log_odds,
    nearest_of_each_class,
)
from nofreelunch.features.interpolation import POINTS
from nofreelunch.models.state import evaluating
from nofreelunch.threats import Threat, threat

_SIDE = 112  # pixels, about, of an image in the animation
_MOVE, _PAUSE = 80, 900  # milliseconds that a frame of the animation is seen: on the way, at the ends
_FRAME = 8.0  # inches, for which the gaps of a frame are laid out

UNKNOWN = "–"
"""Stands in the table where no value is known."""


@dataclass(frozen=True)
class Settings:
    """What is shown.

    Args:
        threat: how far examples may go.
        n: number of test images shown, the classes in turn.
        measure: number of test images whose gradients are measured, those shown at least; all, if there are fewer.
        points: of each interpolation.
        seed: chooses the images.

    Raises:
        InputError: if a number is out of range.
    """

    threat: Threat
    n: int = 6
    measure: int = 100
    points: int = POINTS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in {"n": 1, "measure": 2, "points": 2}.items():
            check_count(name, getattr(self, name), low)
        check_seed(self.seed)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Pictures and numbers about one model.

    Attributes:
        gradients: two rows, test images and their gradients.
        examples: three rows, the same images, their large-eps examples, and the training image nearest to each example
            among those of the class that the model sees in it (white, where there is none); two rows, where the data
            set has no training images.
        path: interpolations from the images (first row) to the examples (last row).
        labels: the true classes, those seen in the images, and those seen in the examples.
        measures: of gradients, by field of `Alignment`; empty where fewer than two have a direction.
        measured: how many gradients were looked at.
        flat: how many of them are zero.
    """

    gradients: Pictures
    examples: Pictures
    path: Pictures
    labels: tuple[tuple[str, ...], ...]
    measures: dict[str, Estimate]
    measured: int
    flat: int


def explain(model: nn.Module, data: Dataset, settings: Settings, device: str = "cpu") -> Explanation:
    """Differentiate, attack and interpolate at test images of a data set.

    Args:
        model: takes the data set's images; it is moved to the device, and left as it was otherwise.
        data: its test images are shown, its training images are searched for neighbours.

    Raises:
        InputError: if the model does not go with the data or cannot be differentiated, or there are fewer test images
            than are to be shown.
    """
    if settings.n > len(data.test):
        raise InputError(f"n must be at most the number of test images, {len(data.test)}, got {settings.n}")
    x, y = chosen_images(data, max(settings.n, settings.measure), settings.seed, device)
    model = model.to(device)
    with evaluating(model):
        seen = _classes(model, x, data)[: settings.n]
        try:
            grad = batched(partial(input_gradient, model, loss=log_odds), x, y)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            raise InputError(f"explain needs the model's gradient, which it cannot give: {error}") from error
        x, y, measured = x[: settings.n], y[: settings.n], x
        x_adv = far_examples(model, x, y, settings.threat)
        new = _classes(model, x_adv, data)
    moving = grad.flatten(1).abs().amax(1) > 0
    return Explanation(
        gradients=to_pictures([x, gradient_pictures(grad[: settings.n])]),
        examples=to_pictures([x.cpu(), x_adv.cpu(), *_nearest(x_adv, new, data)]),
        path=to_pictures(tuple(interpolate(x, x_adv, settings.points))),
        labels=tuple(tuple(data.classes[k] for k in labels.tolist()) for labels in (y, seen, new)),
        measures=_measures(gradient_alignment(measured[moving], grad[moving])) if int(moving.sum()) > 1 else {},
        measured=len(moving),
        flat=int((~moving).sum()),
    )


def _nearest(x_adv: Tensor, seen: Tensor, data: Dataset) -> Iterator[Tensor]:
    """For each example the training image nearest to it of the class that is seen in it, where there are any."""
    if len(data.train):
        near = nearest_of_each_class(x_adv, data.train).index.gather(1, seen[:, None]).squeeze(1)
        real = data.train.images(near.clamp(min=0))
        real[near < 0] = 1.0  # no training image is of that class
        yield real


def _classes(model: nn.Module, x: Tensor, data: Dataset) -> Tensor:
    """The classes that the model sees, on the CPU.

    Raises:
        InputError: if it knows another number of classes than the data set, or answers with what is no number.
    """
    logits = logits_of(model, x)
    if logits.shape[1] != len(data.classes):
        raise InputError(f"the model has {logits.shape[1]} outputs, {data.name} has {len(data.classes)} classes")
    if lost := int((~logits.isfinite().all(1)).sum()):
        raise InputError(f"the model's logits are NaN or infinite at {lost} of {len(x)} images: nothing to explain")
    return logits.argmax(1).cpu()


def _measures(alignment: Alignment) -> dict[str, Estimate]:
    return {name: mean(values) for name, values in vars(alignment).items()}


def plot_gradients(explanation: Explanation) -> Figure:
    """Figure 5 for this model."""
    true, seen, _ = explanation.labels
    captions = tuple(one if one == other else f"{one}, seen as {other}" for one, other in zip(true, seen, strict=True))
    return stacked([Grid("", explanation.gradients, ("image", "gradient"), (captions, ()))])[0]


def plot_examples(explanation: Explanation) -> Figure:
    """Figure 3 for this model."""
    true, _, new = explanation.labels
    rows = ("image", "example", "nearest real\nimage of that\nclass")
    captions = (true, tuple(f"seen as {name}" for name in new), ())
    shown = len(explanation.examples)
    return stacked([Grid("", explanation.examples, rows[:shown], captions[:shown])])[0]


def plot_path(explanation: Explanation) -> Figure:
    """Figure 4 for this model: some points of each interpolation."""
    places = strip_places(len(explanation.path)).numpy()
    true, _, new = explanation.labels
    rows = tuple(f"{one} → {other}" for one, other in zip(true, new, strict=True))
    return stacked([Grid("", explanation.path[places].swapaxes(0, 1), rows)])[0]


def frames(explanation: Explanation) -> tuple[bytes, ...]:
    """The interpolations point after point, each a PNG at the images' own resolution."""
    return tuple(_encoded(canvas, "PNG") for canvas in _canvases(explanation))


def animation(explanation: Explanation) -> bytes:
    """The interpolations there and back, without end, as a GIF large enough to see; it pauses at both ends."""
    factor = max(1, round(_SIDE / explanation.path.shape[2]))
    there = []
    for canvas in _canvases(explanation):
        white = Image.new("RGBA", canvas.size, "white")
        shown = Image.alpha_composite(white, canvas).convert("RGB")
        there.append(shown.resize((factor * shown.width, factor * shown.height), Image.Resampling.NEAREST))
    back = there[-2:0:-1]
    durations = [_PAUSE, *[_MOVE] * (len(there) - 2), _PAUSE, *[_MOVE] * len(back)]
    return _encoded(there[0], "GIF", save_all=True, append_images=[*there[1:], *back], duration=durations, loop=0)


def _canvases(explanation: Explanation) -> list[Image.Image]:
    return [Image.fromarray(Grid("", row[None], ("",)).canvas(_FRAME)) for row in explanation.path]


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def large_eps_ball(data: Dataset, norm: str, eps: str | None = None) -> Threat:
    """The ball of radius `eps`, or of Table 3's.

    Raises:
        InputError: if no radius is given and the paper has none for the data set, or it is out of range.
    """
    radius = eps or TABLE_3_EPS.get((data.name.removesuffix("-sample"), norm))
    if radius is None:
        raise InputError(f"--eps is needed: the paper has no large eps for {data.name}; give one, such as 32/255")
    ball = threat(norm, radius)
    ball.check_reach(data.test.x, data.name)
    return ball


def contents(explanation: Explanation, ball: Threat, model: str, data: Dataset, command: str) -> dict[str, Any]:
    """What the page that `command` makes shows, all of it data: names, PNGs, words and rows of the table."""
    true, _, new = explanation.labels
    plots = {"gradients": plot_gradients, "examples": plot_examples, "path": plot_path}
    return {
        "model": model,
        "data": data.name,
        "command": command,
        **{name: drawn(plot, explanation)[".png"] for name, plot in plots.items()},
        "ball": f"{ball.symbol} ball of radius {ball.eps:.4g}",
        "neighbours": len(explanation.examples) > 2,
        "ways": tuple(f"{one} to {other}" for one, other in zip(true, new, strict=True)),
        "frames": frames(explanation),
        "rows": tuple(
            (MEASURES[name], plain_number(value), NOISE.get(name, UNKNOWN))
            for name, value in explanation.measures.items()
        ),
        "measured": explanation.measured,
        "flat": explanation.flat,
    }
