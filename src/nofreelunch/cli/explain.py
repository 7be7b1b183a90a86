"""`nofreelunch explain`: what a model sees in images, as pictures, an animation and a page."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nofreelunch.cli.reach import check_reach
from nofreelunch.cli.values import OptionalPath, OptionalText
from nofreelunch.errors import InputError
from nofreelunch.workspace import Workspace, atomic_write, find_device, locked, to_json, versions

if TYPE_CHECKING:
    from nofreelunch.data import Dataset
    from nofreelunch.experiments.explanation import Explanation
    from nofreelunch.report.explanation import Page
    from nofreelunch.threats import Threat


@dataclass(frozen=True)
class Explain:
    """Draw a model's input gradients, large-eps adversarial examples, and the way to these; measure the gradients.

    Leaves gradients.png, examples.png, path.png, path.gif, explain.json and explain.html (one file, which needs no
    network) in --out.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A .safetensors file, zoo:NAME, torchvision:NAME or python:package.module:factory."""
    data: str
    """Data set: see `nofreelunch data list`."""
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
    weights: OptionalPath = None
    """File of weights for a torchvision: or python: model; it is never unpickled."""
    data_root: OptionalPath = None
    """Folder of data sets that are not in the package (default: the variable NOFREELUNCH_DATA)."""
    seed: int = 0
    """Chooses the images."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, or cuda:1."""
    out: Path = Path("runs/explain")
    """Folder for the files."""

    def run(self) -> int:
        """Compute, draw, write; 0."""
        from nofreelunch.data import load_data
        from nofreelunch.experiments import explanation as made
        from nofreelunch.experiments.drawing import drawn
        from nofreelunch.models import load_model
        from nofreelunch.report.explanation import explanation_page

        device = find_device(self.device)
        data = load_data(self.data, self.data_root)
        ball = self._ball(data)
        settings = made.Settings(ball, self.n, self.measure, self.points, self.seed)
        model = load_model(self.model, self.weights)
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
                _write(self.out / name, content)
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
        words += ["--weights", str(self.weights)] if self.weights else []
        counts = {"n": self.n, "measure": self.measure, "points": self.points, "seed": self.seed}
        return shlex.join(words + [word for name, count in counts.items() for word in (f"--{name}", str(count))])

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


def _write(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() != content:
        print(f"replaced {path}", file=sys.stderr)
    atomic_write(path, content)
