"""Figures 3, 6 and 7: adversarial examples with room to become another class, and how far they do.

The eye's judgement is replaced by two judges that had no part in making the images: a robust model trained against
another norm, and the nearest real images.
"""

from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from nofreelunch.evaluation.tally import percent
from nofreelunch.experiments.base import Experiment, Finding, Table, beyond, holds
from nofreelunch.experiments.batches import far_examples, logits_of
from nofreelunch.experiments.deep import (
    DATA_TITLES,
    NORMS,
    TITLES,
    DeepConfig,
    Exhibit,
    absences,
    in_order,
    inputs,
)
from nofreelunch.experiments.estimates import ByRole, exceeds, plain_number
from nofreelunch.experiments.gallery import NOTHING, Gallery, beside_standard, collected, unpacked
from nofreelunch.experiments.image_grid import Grid, Pictures, stacked, to_pictures
from nofreelunch.experiments.judges import judged
from nofreelunch.experiments.paper_values import TABLE_2_EPS, TABLE_3_EPS
from nofreelunch.threats import THREATS, format_radius
from nofreelunch.workspace import Workspace

_MEANINGFUL = 1.5  # "much larger": at least half as large again


@dataclass(frozen=True)
class Config(DeepConfig):
    """Which examples are made.

    Args:
        norm: of the ball, "linf" or "l2"; its radius is Table 3's.
        columns: number of images shown.
    """

    norm: str
    columns: int


@dataclass(frozen=True)
class Result(Gallery):
    """Pictures and measures; the first row of each data set shows the originals.

    Attributes:
        norm: of the ball.
        captions: data set -> the classes under the pictures, row by row.
    """

    norm: str
    captions: dict[str, tuple[tuple[str, ...], ...]]


def run(config: Config, workspace: Workspace) -> Result:
    """Make the examples and let the judges see them."""
    fields, captions = collected(config, workspace, partial(_examined, config))
    return Result(**fields, norm=config.norm, captions=captions)


def _examined(config: Config, exhibit: Exhibit) -> tuple[Pictures, ByRole, tuple[tuple[str, ...], ...]]:
    """Pictures, estimates and captions of one data set."""
    x, y = exhibit.test_images(config.n, config.seed)
    threat = THREATS[config.norm](TABLE_3_EPS[exhibit.name, config.norm])
    made = {role: far_examples(model, x, y, threat) for role, model in exhibit.models.items()}
    seen = {role: logits_of(exhibit.models[role], z).argmax(1) for role, z in made.items()}
    rows = [classes[: config.columns].tolist() for classes in (y, *seen.values())]
    captions = tuple(tuple(exhibit.data.classes[k] for k in row) for row in rows)
    pictures = to_pictures([images[: config.columns] for images in (x, *made.values())])
    return pictures, judged(exhibit, x, y, made, seen), captions


def findings(result: Result) -> tuple[Finding, ...]:
    """What the judges say of each robust model's examples, beside those of the standard model."""
    lines: list[Finding] = []
    for name, roles in in_order(result.roles):
        lines += _room(name, result.norm)
        for role in roles[1:]:
            lines += [_masking(result, name, role), *_becomes_another_class(result, name, role)]
    return (*lines, *absences(result.missing, result.samples))


def _room(name: str, norm: str) -> list[Finding]:
    """Whether Table 3's eps is what the text says it is."""
    large, trained = TABLE_3_EPS[name, norm], TABLE_2_EPS[name, norm]
    claim = f"On {DATA_TITLES[name]} the {NORMS[norm]} eps of the figure is much larger than the one used for training."
    note = f"Table 3: {format_radius(large)}; Table 2: {format_radius(trained)}, on the scale [0, 1]"
    return [
        holds(claim, "Figure 3, Tables 2 and 3", large >= _MEANINGFUL * trained, f"{large / trained:.3g} times", note)
    ]


def _masking(result: Result, name: str, role: str) -> Finding:
    """Section 3.1's evidence against gradient masking, in a stronger form: no other model's gradients lead further."""
    own, others = (result.estimates[name][role][measure] for measure in ("changed", "moved by others"))
    about = f"the {TITLES[role]} model on {DATA_TITLES[name]}"
    claim = f"The gradients of {about} are not masked: they mislead it as often as other models' gradients do."
    ball = f"{NORMS[result.norm]} ball"
    note = f"Share of images misled by its own example in the {ball}; by one of the other models': {percent(others)}"
    return exceeds(claim, "Section 3.1", own, others, percent(own), note)


def _becomes_another_class(result: Result, name: str, role: str) -> list[Finding]:
    """The claim of Section 3.1 for one robust model, before each judge that also saw the standard model's examples."""
    ours, standard = result.estimates[name][role], result.estimates[name]["standard"]
    about = f"Large-eps {NORMS[result.norm]} examples of the {TITLES[role]} model on {DATA_TITLES[name]}"
    lines = []
    for judge, more, less in beside_standard(result.estimates[name], role, "judged"):
        claim = f"{about} look like the class that the model sees in them, more than those of the standard model do."
        note = (
            f"Share that the {TITLES[judge]} model takes for the same class, of those where that is not the true one "
            f"({percent(ours['changed'])}); standard model: {percent(less)}{_bias(name, result.norm, judge)}"
        )
        lines.append(exceeds(claim, "Section 3.1, Figure 3", more, less, percent(more), note))
    if "distance" in ours and "distance" in standard:
        note = (
            "1 is a real test image of that class; the originals lie at "
            f"{plain_number(ours['distance before'])}, the examples of the standard model at "
            f"{plain_number(standard['distance'])} of theirs"
        )
        claim = f"{about} lie this far from the nearest real image of their new class."
        lines.append(beyond(claim, plain_number(ours["distance"]), note))
    return lines


def _bias(name: str, norm: str, judge: str) -> str:
    """A warning where the judge was trained to see nothing in the very ball that it is asked about."""
    blind = judge == norm and TABLE_2_EPS[name, judge] >= TABLE_3_EPS[name, norm]
    return "; this judge was trained to ignore changes of just this size" if blind else ""


def table(result: Result) -> Table:
    """Every measure of every model."""
    header = (
        "Data",
        "Model",
        "Sees another class",
        "ℓ∞-trained agrees",
        "ℓ₂-trained agrees",
        "Nearest real image agrees",
        "Distance",
    )
    rows = []
    for name, roles in in_order(result.roles):
        for role in roles:
            cells = result.estimates[name][role]
            shares = [
                percent(cells[key]) if key in cells else "–"
                for key in ("changed", "judged linf", "judged l2", "nearest")
            ]
            distance = plain_number(cells["distance"]) if "distance" in cells else "–"
            rows.append((DATA_TITLES[name], TITLES[role], *shares, distance))
    caption = (
        "Judges are asked about examples in which the model sees another class than the true one; they agree if they "
        "see it too. "
        "Distance to the nearest training image of that class; 1 is a real test image's. 95% intervals."
    )
    return Table(header, tuple(rows), caption)


def plot(result: Result) -> Figure:
    """Originals and examples with the class that each model sees, and the judges' agreement."""
    pictures = unpacked(result.pictures, result.shapes)
    grids = [
        Grid(
            title=f"{DATA_TITLES[name]}, {NORMS[result.norm]} ball of radius "
            + format_radius(TABLE_3_EPS[name, result.norm]),
            pictures=pictures[name],
            rows=("original", *(TITLES[role] for role in roles)),
            captions=result.captions[name],
        )
        for name, roles in in_order(result.roles)
    ]
    return stacked(grids)[0]


def alt(result: Result) -> str:
    """The figure in words."""
    parts = [_described(result, name) for name, _ in in_order(result.roles)]
    if not parts:
        return NOTHING
    return (
        "Rows of images: the originals, and the adversarial examples of each model with the class it sees in them. "
        + " ".join(parts)
    )


def _described(result: Result, name: str) -> str:
    shares = [
        f"{percent(cells['nearest'])} of those of the {TITLES[role]} model"
        for role, cells in in_order(result.estimates[name])
        if "nearest" in cells
    ]
    return f"On {DATA_TITLES[name]} the nearest real image has the class seen in {', '.join(shares)}."


def _experiment(number: int, norm: str, columns: int, laptop: int, seed: int) -> Experiment:
    return Experiment(
        name=f"figure-{number}",
        paper_reference=f"Section 3.1, Figure {number}, Table 3",
        title=f"Large-eps adversarial examples, {NORMS[norm]}",
        about="From each test image we climb the loss of a standard and of two robust models, as far as Table 3's eps "
        "allows. Look whether the result looks like the class written under it; the table says how two judges that had "
        "no part in it see it: a robust model trained against the other norm, and the nearest real image.",
        presets={
            "smoke": Config(norm, columns=4, n=4, seed=seed),
            "laptop": Config(norm, columns, n=laptop, seed=seed),
            "paper": Config(norm, columns, n=1000, retrain="paper", seed=seed),
        },
        result_type=Result,
        run=run,
        findings=findings,
        plot=plot,
        alt=alt,
        table=table,
        inputs=inputs,
    )


FIGURE_3 = _experiment(3, "l2", columns=6, laptop=30, seed=0)
FIGURE_6 = _experiment(6, "linf", columns=10, laptop=20, seed=1)
FIGURE_7 = _experiment(7, "l2", columns=10, laptop=20, seed=2)
