"""`nofreelunch explain`: what a model sees in images, as pictures, an animation and a page."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nofreelunch.cli.values import OptionalPath, OptionalText
from nofreelunch.workspace import Workspace, atomic_write, find_device, locked, to_json, versions

if TYPE_CHECKING:
    from nofreelunch.data import Dataset
    from nofreelunch.experiments.explanation import Explanation
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
        from nofreelunch.experiments.explained import contents, large_eps_ball
        from nofreelunch.models import load_model
        from nofreelunch.report.explanation import Page, explanation_page

        device = find_device(self.device)
        data = load_data(self.data, self.data_root)
        ball = large_eps_ball(data, self.threat, self.eps)
        settings = made.Settings(ball, self.n, self.measure, self.points, self.seed)
        model = load_model(self.model, self.weights)
        Workspace(self.out).check_writable()
        with locked(self.out):
            explanation = made.explain(model, data, settings, device)
            shown = contents(explanation, ball)
            page = Page(model=self.model, data=data.name, command=self._command(), **shown)
            files = {f"{name}.png": shown[name] for name in ("gradients", "examples", "path")} | {
                "path.gif": made.animation(explanation),
                "explain.json": to_json(self._numbers(explanation, data, ball)),
                "explain.html": explanation_page(page),
            }
            for name, content in files.items():
                _write(self.out / name, content)
        print(f"page: {self.out / 'explain.html'}")
        return 0

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


def _write(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() != content:
        print(f"replaced {path}", file=sys.stderr)
    atomic_write(path, content)
