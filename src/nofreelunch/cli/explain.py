"""`nofreelunch explain`: what a model sees in images, as pictures, an animation and a page."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nofreelunch.cli.subject import OfModel
from nofreelunch.cli.values import Norm, OptionalText, check_radius
from nofreelunch.errors import check_count
from nofreelunch.output import locked, write
from nofreelunch.workspace import find_device, to_json, versions

if TYPE_CHECKING:
    from nofreelunch.data import Dataset
    from nofreelunch.experiments.explanation import Explanation
    from nofreelunch.threats import Threat


@dataclass(frozen=True, kw_only=True)
class Explain(OfModel):
    """Draw a model's input gradients, large-eps adversarial examples, and the way to these; measure the gradients.

    Leaves gradients.png, examples.png, path.png, path.gif, explain.json and explain.html (one file, which needs no
    network) in --out.
    """

    threat: Norm = "l2"
    """Norm of the ball in which the examples lie."""
    eps: OptionalText = None
    """Its radius, e.g. 4 or 32/255, pixels being in [0, 1]; default: Table 3's for the paper's data sets."""
    n: int = 6
    """Number of test images shown."""
    measure: int = 100
    """Number of test images whose gradients are measured: those shown at least."""
    points: int = 20
    """Points of each interpolation."""
    out: Path = Path("runs/explain")
    """Folder for the files."""

    def run(self) -> int:
        """Compute, draw, write; 0."""
        self.check_names()
        if self.eps is not None:
            check_radius(self.eps)
        for name, low in {"n": 1, "measure": 2, "points": 2}.items():
            check_count(name, getattr(self, name), low)
        from nofreelunch.experiments import explanation as made
        from nofreelunch.report.explanation import explanation_page

        device = find_device(self.device)
        data = self.load_images()
        ball = made.large_eps_ball(data, self.threat, self.eps)
        settings = made.Settings(ball, self.n, self.measure, self.points, self.seed)
        model = self.load_model()
        self.check_outputs(model, data)
        with locked(self.out):
            explanation = made.explain(model, data, settings, device)
            page = made.contents(explanation, ball, self.model, data, self._command())
            files = {f"{name}.png": page[name] for name in ("gradients", "examples", "path")} | {
                "path.gif": made.animation(explanation),
                "explain.json": to_json(self._numbers(explanation, data, ball)),
                "explain.html": explanation_page(page),
            }
            for name, content in files.items():
                write(self.out / name, content)
        measured, zero = explanation.measured, explanation.flat
        print(f"gradients at {measured} test images, means with 95 % intervals; {zero} are zero")
        if zero == measured:
            print("  the model lets no gradient through: look for detach, no_grad, argmax or rounding in it")
        for measure, value, noise in page["rows"]:
            print(f"  {measure}: {value}" + ("" if noise == made.UNKNOWN else f"; of noise: {noise}"))
        print(f"page: {self.out / 'explain.html'}")
        return 0

    def _command(self) -> str:
        """The command that makes the page again."""
        eps = ("--eps", self.eps) if self.eps else ()
        counts = (f"--n={self.n}", f"--measure={self.measure}", f"--points={self.points}")
        return self.command("explain", "--threat", self.threat, *eps, *counts)

    def _numbers(self, explanation: "Explanation", data: "Dataset", ball: "Threat") -> dict[str, object]:
        """What the pictures say, in numbers."""
        names = ("class", "seen", "seen_in_example")
        return {
            "command": self._command(),
            "model": self.model,
            "data": {"name": data.name, "digest": data.digest},
            "threat": ball,
            "images": [dict(zip(names, labels, strict=True)) for labels in zip(*explanation.labels, strict=True)],
            "gradients": {
                "measured": explanation.measured,
                "zero": explanation.flat,
                "mean_and_95_percent_interval": explanation.measures,
            },
            "versions": versions(),
        }
