"""Table 4: linear classifiers of two classes under standard and adversarial training, by descent and at the optimum."""

from dataclasses import dataclass
from statistics import mean, stdev

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nofreelunch.drawing import COLOUR
from nofreelunch.evaluation.tally import Tally
from nofreelunch.experiments.base import Experiment, Finding, Table, beyond, compare
from nofreelunch.experiments.estimates import all_above_zero, gain
from nofreelunch.experiments.linear_study import BOX, LinearConfig, inputs, load_pair, measures
from nofreelunch.experiments.paper_values import TABLE_4, TABLE_4_UNPLACED
from nofreelunch.training.linear import Descent, NoOptimum, fit_linear
from nofreelunch.workspace import Workspace

Row = dict[str, tuple[float, ...]]
"""Measure -> its value for each seed."""

ROWS = {
    "standard sgd": "standard, descent",
    "adversarial sgd": "adversarial, descent",
    "unboxed sgd": "adversarial (no pixel box), descent",
    "standard optimum": "standard, optimum",
    "adversarial optimum": "adversarial, optimum",
    "unboxed optimum": "adversarial (no pixel box), optimum",
}
CELLS = {
    "clean_train": "clean, train",
    "clean_test": "clean, test",
    "robust_train": "robust, train",
    "robust_test": "robust, test",
    "free_train": "no box, train",
    "free_test": "no box, test",
}


@dataclass(frozen=True, kw_only=True)
class Config(LinearConfig):
    """How many seeds each descent is repeated with, from `seed` on."""

    seeds: int = 3


@dataclass(frozen=True)
class Result:
    """What `measures` says of every training, a value per seed; and where there is no optimum, the proof's margin."""

    title: str
    as_in_paper: bool
    eps: float
    n_train: int
    n_test: int
    n_pixels: int
    recipe: dict[str, float]
    rows: dict[str, Row]
    separated: dict[str, float]


def run(config: Config, workspace: Workspace) -> Result:
    """Train and measure every row; an optimum that does not exist leaves its proof in `separated` instead of a row."""
    pair = load_pair(config, workspace)
    recipe = Descent(epochs=config.epochs)
    seeds = range(config.seed, config.seed + config.seeds)
    rows: dict[str, Row] = {}
    separated: dict[str, float] = {}
    for name, eps, box in (("standard", 0.0, BOX), ("adversarial", config.eps, BOX), ("unboxed", config.eps, None)):
        fits = [fit_linear(pair.x, pair.y, eps, box, "sgd", recipe=recipe, seed=seed) for seed in seeds]
        rows[f"{name} sgd"] = _row([measures(fit, pair, config.eps) for fit in fits])
        try:
            fit = fit_linear(pair.x, pair.y, eps, box)
            rows[f"{name} optimum"] = _row([measures(fit, pair, config.eps)])
        except NoOptimum as proof:
            separated[name] = proof.margin
    return Result(
        title=config.title,
        as_in_paper=config.as_in_paper,
        eps=config.eps,
        n_train=len(pair.y),
        n_test=len(pair.y_test),
        n_pixels=pair.x.shape[1],
        recipe={"epochs": recipe.epochs, "batch_size": recipe.batch_size, "step_size": float(recipe.step_size)},
        rows={name: rows[name] for name in ROWS if name in rows},
        separated=separated,
    )


def findings(result: Result) -> tuple[Finding, ...]:
    """The table's surviving values beside ours, its claim, and what exactness adds."""
    placed = (*_placed(result), _unplaced(result)) if result.as_in_paper else ()
    return (*placed, _trade_off(result), *_separation(result), *_optimum(result), _box(result))


def _placed(result: Result) -> tuple[Finding, ...]:
    """The three cells whose place is known, beside descent's test accuracies."""
    lines = []
    for (training, kind), paper in TABLE_4.items():
        row = result.rows[f"{training} sgd"]
        seeds = row[f"{kind}_test"]
        note = (
            f"Test images, mean of {len(seeds)} seeds (spread {100 * _spread(seeds):.2f}); "
            f"training images: {_percent(row, f'{kind}_train')}. The table's layout is lost in the text we have, and "
            "with it whether the value is of training or test images. Batch and step are not in the paper: ours are "
            f"{result.recipe['batch_size']:g} and {result.recipe['step_size']:g}. Tolerance: half of the 95% interval."
        )
        low, high = Tally(paper / 100 * result.n_test, result.n_test).interval(0.95)
        claim = (
            f"{training.capitalize()} training has this {'standard' if kind == 'clean' else 'adversarial'} accuracy."
        )
        lines.append(compare(claim, "Table 4", paper, 100 * mean(seeds), 50 * (high - low), note))
    return tuple(lines)


def _unplaced(result: Result) -> Finding:
    """For each value of Table 4 whose cell is unknown: the cell of ours that is nearest."""
    cells = {
        f"{ROWS[name]}: {label}": 100 * mean(row[key])
        for name, row in result.rows.items()
        for key, label in CELLS.items()
    } | {f"{ROWS[name]}: |w|₁": mean(row["l1_norm"]) for name, row in result.rows.items()}
    parts = []
    for paper in TABLE_4_UNPLACED:
        nearest = min(cells, key=lambda cell: abs(cells[cell] - paper))
        parts.append(f"{paper:.2f} – {nearest} ({cells[nearest]:.2f})")
    note = "A guess by nearness, not a reading: the layout of Table 4 is lost in the text that we have."
    return beyond("The table's other values are nearest to these cells of ours.", "; ".join(parts), note)


def _trade_off(result: Result) -> Finding:
    standard, robust = result.rows["standard sgd"], result.rows["adversarial sgd"]
    costs = gain(mean(robust["clean_test"]), mean(standard["clean_test"]), result.n_test)
    buys = gain(mean(standard["robust_test"]), mean(robust["robust_test"]), result.n_test)
    ours = (
        f"clean {_percent(standard, 'clean_test')} → {_percent(robust, 'clean_test')}, "
        f"robust {_percent(standard, 'robust_test')} → {_percent(robust, 'robust_test')}"
    )
    claim = "Adversarial training costs standard accuracy and buys adversarial accuracy."
    note = "Test images, descent, adversary in the pixel box."
    return all_above_zero(claim, "Section 2.3, Table 4", (costs, buys), ours, note)


def _separation(result: Result) -> tuple[Finding, ...]:
    names = {"standard": "Standard", "adversarial": "Adversarial", "unboxed": "Adversarial (no pixel box)"}
    note = (
        "Proved by weights found on the way, under which every margin is positive (or tied): larger ones are always "
        "better. So the row depends on the optimiser and on when it stops."
    )
    return tuple(
        beyond(
            f"{names[name]} training has no optimum: the training examples, as it meets them, are separable.",
            f"smallest margin {margin:.3g}",
            note,
        )
        for name, margin in result.separated.items()
    )


def _optimum(result: Result) -> tuple[Finding, ...]:
    if "adversarial optimum" not in result.rows:
        return ()
    best, descent = result.rows["adversarial optimum"], result.rows["adversarial sgd"]
    certificate = f"Objective {best['objective'][0]:.10f}, residual {best['residual'][0]:.1e}: the global optimum."
    short = f"Descent ends at objective {mean(descent['objective']):.4f} with {_percent(descent, 'robust_test')}."
    return (
        beyond(
            "The certified optimum of adversarial training puts weight on few pixels.",
            f"{best['pixels'][0]:.0f} of {result.n_pixels:,} (descent: {mean(descent['pixels']):.0f})",
            f"{certificate} All other weights are exactly zero.",
        ),
        beyond(
            "Adversarial training carried on to its optimum has this adversarial accuracy.",
            100 * best["robust_test"][0],
            f"{short} Clean: {_percent(best, 'clean_test')} at the optimum, {_percent(descent, 'clean_test')} before.",
            "%",
        ),
    )


def _box(result: Result) -> Finding:
    row = result.rows["standard sgd"]
    return beyond(
        "An adversary that may leave the pixel range [0, 1] takes this much more accuracy from standard training.",
        100 * (mean(row["robust_test"]) - mean(row["free_test"])),
        f"{_percent(row, 'robust_test')} in the box, {_percent(row, 'free_test')} without it: name the adversary.",
        "%",
    )


def table(result: Result) -> Table:
    """Table 4, longer: every training, train and test, with and without the pixel box."""
    header = ("Training", *(f"{label} (%)" for label in CELLS.values()), "|w|₁", "Pixels", "Objective")
    rows = tuple(
        (
            ROWS[name],
            *(_with_spread(row[key], 100, 2) for key in CELLS),
            _with_spread(row["l1_norm"], 1, 2),
            _with_spread(row["pixels"], 1, 0),
            _with_spread(row["objective"], 1, 4),
        )
        for name, row in result.rows.items()
    )
    caption = (
        f"{result.title}; ℓ∞ adversary of ε = {result.eps:g}, exact, inside the pixel box and without it. "
        f"Mean ± spread over seeds; {result.n_train:,} training and {result.n_test:,} test images."
    )
    return Table(header, rows, caption)


def plot(result: Result) -> Figure:
    """Accuracies of every row on the test images; the paper's placed values as ticks."""
    figure, axes = pyplot.subplots(figsize=(6.6, 0.9 + 0.62 * len(result.rows)))
    places = {name: -at for at, name in enumerate(result.rows)}
    for key, label, marker, colour in (
        ("clean_test", "clean", "o", COLOUR["standard"]),
        ("robust_test", f"robust, ε = {result.eps:g}", "s", COLOUR["robust"]),
        ("free_test", "robust, pixels may leave [0, 1]", "^", COLOUR["quiet"]),
    ):
        rates = [100 * mean(row[key]) for row in result.rows.values()]
        axes.plot(rates, list(places.values()), marker, ms=7, color=colour, label=label, zorder=3)
    if result.as_in_paper:
        _paper_ticks(axes, places)
    axes.set(xlim=(-2, 102), ylim=(-len(places) + 0.45, 0.55), xlabel="accuracy on test images (%)")
    axes.set_yticks(list(places.values()), [ROWS[name].replace(", ", "\n") for name in places])
    for name, row in result.rows.items():
        text = f"{mean(row['pixels']):.0f} pixels\n|w|₁ = {mean(row['l1_norm']):.1f}"
        axes.annotate(text, (1.01, places[name]), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9)
    return figure


def _paper_ticks(axes: Axes, places: dict[str, int]) -> None:
    """The paper's values as vertical strokes in the rows of descent."""
    for at, ((training, kind), value) in enumerate(TABLE_4.items()):
        place, colour = places[f"{training} sgd"], COLOUR["standard" if kind == "clean" else "robust"]
        label = "paper" if at == 0 else "_unnamed"
        axes.vlines(value, place - 0.3, place + 0.3, color=colour, lw=1.6, label=label)


def alt(result: Result) -> str:
    """The rows in words."""
    rows = (
        f"{ROWS[name]}: clean {_percent(row, 'clean_test')}, robust {_percent(row, 'robust_test')}, "
        f"{mean(row['pixels']):.0f} pixels"
        for name, row in result.rows.items()
    )
    return f"Accuracy on test images of linear classifiers ({result.title}, ε = {result.eps:g}). {'; '.join(rows)}."


def _row(fits: list[dict[str, float]]) -> Row:
    """One dict per seed, turned into one tuple per measure."""
    return {key: tuple(fit[key] for fit in fits) for key in fits[0]}


def _spread(values: tuple[float, ...]) -> float:
    """Standard deviation over seeds; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def _percent(row: Row, key: str) -> str:
    return f"{100 * mean(row[key]):.2f} %"


def _with_spread(values: tuple[float, ...], scale: float, digits: int) -> str:
    middle = f"{scale * mean(values):.{digits}f}"
    return f"{middle} ± {scale * _spread(values):.{digits}f}" if len(values) > 1 else middle


EXPERIMENT = Experiment(
    name="table-4",
    paper_reference="Section 2.3, Appendix A, Table 4",
    title="Linear classifiers of two digits under standard and adversarial training",
    about=(
        "Logistic regression on two classes of real images, as they are or against the exact ℓ∞ adversary (a closed "
        "form, with and without the pixel box), by the paper's recipe and to the certified global optimum. The recipe "
        "stops early; the optimum shows what adversarial training itself wants."
    ),
    presets={
        "smoke": Config(seeds=2, epochs=2, examples=500),
        "laptop": Config(),
        "paper": Config(seeds=20),
    },
    result_type=Result,
    run=run,
    findings=findings,
    plot=plot,
    alt=alt,
    table=table,
    inputs=inputs,
)
