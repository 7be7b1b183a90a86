"""`nofreelunch theory`: every exact quantity of the Gaussian model of equation (3), for one setting."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nofreelunch.cli.subject import write
from nofreelunch.cli.values import Number, OptionalPath
from nofreelunch.output import check_file, locked
from nofreelunch.workspace import atomic_write, plain, to_json


@dataclass(frozen=True)
class Theory:
    """Exact accuracies, bounds, frontier, SVMs and thresholds of the paper's data model, for one setting.

    Leaves theory.json and frontier.svg and .png in --out; prints the same quantities.
    """

    d: int
    """Number of weak features, at least 1 (100000000 is no more work than 10)."""
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
            for suffix, picture in zip((".svg", ".png"), drawn(frontier_plot.plot, quantities), strict=True):
                atomic_write(self.out / f"frontier{suffix}", picture)
        for line in _lines(plain(quantities)):
            print(line)
        return 0


def _lines(values: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Nested quantities as aligned lines; long lists (curves) are left to the JSON."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        elif not isinstance(value, list):
            shown = f"{value:.10g}" if isinstance(value, float) else str(value)
            yield f"{indent}{name:<{max(2, 44 - len(indent))}}{shown}"
