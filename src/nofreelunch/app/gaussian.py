"""What the tab of the theory shows: the Gaussian model of equation (3), solved at one setting."""

from dataclasses import dataclass
from typing import Any

from nofreelunch.drawing import drawn, inlined
from nofreelunch.experiments import frontier_plot
from nofreelunch.theory import GaussianModel, best_robust_accuracy, robust_accuracy_bound, summary

NAMES = {**frontier_plot.NAMES, "bayes": "the most accurate one"}
COLUMNS = ("classifier", "clean accuracy", "robust accuracy", "best at this clean accuracy", "Theorem 2.1 allows")


@dataclass(frozen=True)
class Solved:
    """What is shown.

    Attributes:
        rows: for each classifier a cell for each of `COLUMNS`.
        words: sentences on the bound and the thresholds.
        plot: the frontier, as SVG in the text's own colour.
        command: gives the same, and more, at a terminal.
    """

    rows: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]
    plot: str
    command: str

    def markdown(self) -> str:
        """Everything but the plot."""
        ruler = ("---", *("---:",) * (len(COLUMNS) - 1))
        table = [f"| {' | '.join(cells)} |" for cells in (COLUMNS, ruler, *self.rows)]
        return "\n\n".join(("\n".join(table), *self.words, f"`{self.command}`"))


def solved(d: int, eta: float, p: float, eps: float) -> Solved:
    """Accuracies, bound, thresholds and frontier against the l_inf adversary that moves every feature.

    Args:
        eps: the adversary's radius, in [0, 1).

    Raises:
        InputError: if a value is out of range.
    """
    quantities = summary(d, eta, p, eps)
    model, theorem = GaussianModel(d, eta, p), quantities["theorem_2_1"]
    rows = []
    for name in filter(quantities["accuracy"].get, NAMES):
        clean, robust = (quantities["accuracy"][name][of] for of in ("clean", "linf_full"))
        bound = _percent(robust_accuracy_bound(1 - clean, p)) if theorem["holds_here"] else "–"
        best = _percent(best_robust_accuracy(model, clean, eps))
        rows.append((NAMES[name], _percent(clean), _percent(robust), best, bound))
    svg = drawn(frontier_plot.plot, quantities)[".svg"].decode()
    command = f"nofreelunch theory --d {d} --eta {eta:g} --p {p:g} --eps {eps:g}"
    return Solved(tuple(rows), _words(quantities), inlined(svg), command)


def _words(quantities: dict[str, Any]) -> tuple[str, ...]:
    theorem, thresholds = quantities["theorem_2_1"], quantities["thresholds"]
    needed = f"ε ≥ 2η = {theorem['holds_from_eps']:.4g}"
    bound = f"robust accuracy is at most {theorem['factor']:.4g} × (1 − clean accuracy)"
    svms = quantities["svm_of_unit_norm"].items()
    missing = {name: svm.removeprefix("lam=None: ").partition(";")[0] for name, svm in svms if isinstance(svm, str)}
    return (
        f"Theorem 2.1: {bound}, " + (f"as {needed} here." if theorem["holds_here"] else f"but only for {needed}."),
        f"The adversarial SVM does without the weak features from ε = {thresholds['weak_weights_zero_from_eps']:.4g}, "
        f"and without x₁ from ε = {thresholds['x1_weight_zero_from_eps']:.4g}.",
        *(f"There is no {NAMES[name]} here: {reason}." for name, reason in missing.items()),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
