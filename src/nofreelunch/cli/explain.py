"""`nofreelunch explain`: what a model sees in images, as pictures, an animation and a page."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nofreelunch.cli.reach import check_reach
from nofreelunch.cli.subject import OfModel, write
from nofreelunch.cli.values import OptionalText
from nofreelunch.errors import InputError
from nofreelunch.workspace import Workspace, find_device, locked, to_json, versions

if TYPE_CHECKING:
    from nofreelunch.data import Dataset
    from nofreelunch.experiments.explanation import Explanation
    from nofreelunch.report.explanation import Page
    from nofreelunch.threats import Threat


@dataclass(frozen=True, kw_only=True)
class Explain(OfModel):
    """Draw a model's input gradients, large-eps adversarial examples, and the way to these; measure the gradients.

    Leaves gradients.png, examples.png, path.png, path.gif, explain.json and explain.html (one file, which needs no
    network) in --out.
    """

    threat: Literal["linf", "l2"] = "l2"
    """Norm of the ball in which the examples lie."""
    eps: OptionalText = None
    """Its radius, e.g. 4 or 32/255, pixels being in [0, 1]; default: Table 3's for the paper's data sets."""
    n: int = 6
    """Number of test images shown."""
    measure: int = 100
    """Number of test images whose gradients are measured."""
    points: int = 20
    """Points of each interpolation."""
    out: Path = Path("runs/explain")
    """Folder for the files."""

    def run(self) -> int:
        """Compute, draw, write; 0."""
        from nofreelunch.experiments import explanation as made
        from nofreelunch.experiments.drawing import drawn
        from nofreelunch.report.explanation import explanation_page

        device = find_device(self.device)
        data = self.load_images()
        ball = self._ball(data)
        settings = made.Settings(ball, self.n, self.measure, self.points, self.seed)
        model = self.load_model()
        Workspace(self.out).check_writable()
        with locked(self.out):
            explanation = made.explain(model, data, settings, device)
            plots = {"gradients": made.plot_gradients, "examples": made.plot_examples, "path": made.plot_path}
            pictures = {name: drawn(plot, explanation)[1] for name, plot in plots.items()}
            page = self._page(explanation, data, ball, pictures)
            files = {f"{name}.png": picture for name, picture in pictures.items()} | {
                "path.gif": made.animation(explanation),
                "explain.json": to_json(self._numbers(explanation, data, ball)),
                "explain.html": explanation_page(page),
            }
            for name, content in files.items():
                write(self.out / name, content)
        print(f"page: {self.out / 'explain.html'}")
        return 0

    def _ball(self, data: "Dataset") -> "Threat":
        """The ball that was asked for, or Table 3's.

        Raises:
            InputError: if none is given and the paper has none for the data set, or it is out of range.
        """
        from nofreelunch.experiments.paper_values import TABLE_3_EPS
        from nofreelunch.threats import threat

        eps = self.eps or TABLE_3_EPS.get((data.name.removesuffix("-sample"), self.threat))
        if eps is None:
            raise InputError(f"--eps is needed: the paper has no large eps for {data.name}; give one, such as 32/255")
        ball = threat(self.threat, eps)
        check_reach(ball, data)
        return ball

    def _command(self) -> str:
        """The command that makes the page again."""
        words = ["nofreelunch", "explain", self.model, "--data", self.data, "--threat", self.threat]
        words += ["--eps", self.eps] if self.eps else []
        words += [f"--n={self.n}", f"--measure={self.measure}", f"--points={self.points}"]
        return shlex.join(words + self.words())

    def _numbers(self, explanation: "Explanation", data: "Dataset", ball: "Threat") -> dict[str, object]:
        """What the pictures say, in numbers."""
        names = ("class", "seen", "seen_in_example")
        return {
            "command": self._command(),
            "model": self.model,
            "data": {"name": data.name, "digest": data.digest},
            "threat": {"norm": ball.norm, "eps": ball.eps},
            "images": [dict(zip(names, labels, strict=True)) for labels in zip(*explanation.labels, strict=True)],
            "gradients": {
                "measured": explanation.measured,
                "zero": explanation.flat,
                "mean_and_95_percent_interval": explanation.measures,
            },
            "versions": versions(),
        }

    def _page(self, explanation: "Explanation", data: "Dataset", ball: "Threat", pictures: dict[str, bytes]) -> "Page":
        """The page's content."""
        from nofreelunch.experiments.deep import NORMS
        from nofreelunch.experiments.estimates import plain_number
        from nofreelunch.experiments.explanation import frames
        from nofreelunch.experiments.figure_5 import MEASURES, NOISE
        from nofreelunch.report.explanation import Page

        true, _, new = explanation.labels
        rows = tuple(
            (MEASURES[name], plain_number(value), NOISE.get(name, "–")) for name, value in explanation.measures.items()
        )
        return Page(
            model=self.model,
            data=data.name,
            ball=f"{NORMS[ball.norm]} ball of radius {ball.eps:.4g}",
            ways=tuple(f"{one} to {other}" for one, other in zip(true, new, strict=True)),
            **pictures,
            frames=frames(explanation),
            rows=rows,
            measured=explanation.measured,
            flat=explanation.flat,
            command=self._command(),
        )
