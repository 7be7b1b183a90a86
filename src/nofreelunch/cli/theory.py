"""`nofreelunch theory`: every exact quantity of the Gaussian model of equation (3), for one setting."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nofreelunch.cli.values import Number, OptionalPath, Whole
from nofreelunch.files import atomic_write
from nofreelunch.output import check_file, locked, write
from nofreelunch.workspace import plain, to_json

_LABEL = 34
_ABOUT = {
    "model": "equation (3): x_1 is the label with probability p, d features have mean eta and variance 1",
    "accuracy": "clean, and under an adversary of radius eps who moves all features (full) or all but x_1 (weak)",
    "theorem_2_1": "within l_inf eps >= 2 eta, robust accuracy is at most factor * (1 - clean accuracy)",
    "frontier": "the ends of the exact trade-off within l_inf eps, over all classifiers",
    "svm_of_unit_norm": "Theorem 2.2: weight of x_1, norm v of the others, lambda for which the norm of all is 1",
    "thresholds": "the radii of training from which the adversarial SVM does without a feature",
    "transfer": "accuracy of the column's classifier on examples made against the row's, within l_inf eps",
}
"""What each part of the summary is."""


@dataclass(frozen=True)
class Theory:
    """Exact accuracies, bounds, frontier, SVMs and thresholds of the paper's data model, for one setting.

    Leaves theory.json and frontier.svg and .png in --out; prints the same quantities.
    """

    d: Whole
    """Number of weak features, at least 1 (1e8 is no more work than 10)."""
    eta: Number
    """Mean of each weak feature, at least 0; the paper takes 4/sqrt(d)."""
    eps: Number
    """Radius of the l_inf adversary, in [0, 1000]; from 1 on there is no frontier for the full one."""
    p: Number = 0.7
    """How often the robust feature x_1 agrees with the label, in [1e-12, 1)."""
    json: OptionalPath = None
    """Also write the quantities to this file."""
    out: Path = Path("runs/theory")
    """Folder for theory.json and the frontier plot."""

    def run(self) -> int:
        """Compute, write, print; 0."""
        from nofreelunch.drawing import drawn
        from nofreelunch.experiments import frontier_plot
        from nofreelunch.theory import summary

        quantities = summary(self.d, self.eta, self.p, self.eps)
        content = to_json(quantities)
        with locked(self.out):
            check_file("--json", self.json)
            for path in (self.out / "theory.json", *([self.json] if self.json else [])):
                write(path, content)
            for suffix, picture in drawn(frontier_plot.plot, quantities).items():
                atomic_write(self.out / f"frontier{suffix}", picture)
        for line in _lines(plain(quantities)):
            print(line)
        return 0


def _lines(quantities: dict[str, Any]) -> Iterator[str]:
    """The quantities, part by part, each under a line that says what it is; curves are left to the JSON."""
    for name, part in quantities.items():
        yield f"{name}: {_ABOUT[name]}"
        header, width = list[str](), 0
        for place, cells in _rows("", part):
            if not isinstance(cells, dict):
                yield f"  {place:<{_LABEL}}  {_shown(cells)}"
                continue
            if list(cells) != header:
                header, width = list(cells), 2 + max(12, *map(len, cells))
                yield " " * (_LABEL + 2) + "".join(f"{column:>{width}}" for column in header)
            yield f"  {place:<{_LABEL}}" + "".join(f"{_shown(value):>{width}}" for value in cells.values())
        yield ""


def _rows(place: str, part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What has a line of its own: a value, or several that stand beside each other, with its place."""
    for name, value in part.items():
        path = f"{place}, {name}" if place else name
        if not isinstance(value, dict):
            if not isinstance(value, list) or len(value) == 2:
                yield path, value
        elif any(isinstance(inner, dict) for inner in value.values()):
            yield from _rows(path, value)
        else:
            yield path, value


def _shown(value: Any) -> str:
    """To six digits; the JSON has them all."""
    if isinstance(value, list):
        return " to ".join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
