"""`nofreelunch evaluate`: how accurate a model is at worst, attack by attack, and whether to believe it."""

import contextlib
import inspect
import shlex
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nofreelunch.cli.values import OptionalInt, OptionalPath, OptionalText
from nofreelunch.errors import InputError, check_count, parse_number
from nofreelunch.workspace import Workspace, atomic_write, check_file, digest, find_device, locked, to_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nofreelunch.data import Split
    from nofreelunch.evaluation import Sweep
    from nofreelunch.evaluation.protocols import Recipe
    from nofreelunch.models.declared import Declared
    from nofreelunch.threats import Threat

_STATE = "evaluation.state"
_UNTRUSTED = 3


@dataclass(frozen=True)
class Evaluate:
    """Measure the clean and robust accuracy of a model on test images, and look for reasons not to trust the figure.

    Leaves evaluation.json and evaluation.html (one file, which needs no network) in --out. A command that was stopped
    goes on where it was. Exit code 0: trusted; 3: doubtful or invalid.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A .safetensors or .onnx file, zoo:NAME, torchvision:NAME, timm:NAME, hf:NAME_OR_DIR or
    python:package.module:factory."""
    data: str
    """Data set: see `nofreelunch data list`."""
    threat: Literal["linf", "l2"]
    """Norm of the ball in which the adversary may move an image."""
    eps: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="EPS")]
    """Its radius, e.g. 0.3 or 8/255, pixels being in [0, 1]; several times for a curve."""
    protocol: Literal["quick", "standard"] = "standard"
    """Which attacks: quick (a minute), standard (those of AutoAttack's standard version)."""
    n: OptionalInt = None
    """Number of test images, evenly spread over the test set; default: all."""
    weights: OptionalPath = None
    """File of weights for a torchvision:, timm: or python: model; it is never unpickled."""
    attack: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="LIB:CLASS")] = ()
    """Another library's attack, run after ours, e.g. torchattacks:PGD or foolbox:LinfPGD; several times for more."""
    mean: OptionalText = None
    """Of a model that others made: subtracted from the pixels, one number or one per channel, e.g. 0.5,0.5,0.5."""
    std: OptionalText = None
    """Likewise: what they are then divided by."""
    range: Annotated[str | None, tyro.conf.arg(metavar="LOW..HIGH")] = None
    """Likewise: the range of its pixels before that, e.g. 0..255 or -1..1; default: 0..1."""
    labels: Annotated[str | None, tyro.conf.arg(metavar="I,J,...")] = None
    """For each class of the data the index of the model's output, e.g. 5,7; default: 0,1,2 and so on."""
    save_examples: OptionalPath = None
    """Keep the worst points found in this file (.npz or .safetensors), read it back and judge it by a fresh model."""
    json: OptionalPath = None
    """Also write evaluation.json to this file."""
    seed: int = 0
    """Of everything random in the attacks."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, or cuda:1."""
    data_root: OptionalPath = None
    """Folder of data sets that are not in the package (default: the variable NOFREELUNCH_DATA)."""
    out: Path = Path("runs/evaluate")
    """Folder for the results."""

    def run(self) -> int:
        """Evaluate, prove, write, print; 0 if the figure is to be trusted and else 3."""
        from nofreelunch.data import load_data
        from nofreelunch.evaluation.reach import check_reach
        from nofreelunch.evaluation.record import to_record
        from nofreelunch.evaluation.selection import selected
        from nofreelunch.report.evaluation import evaluation_page, in_words

        threats, attacks = self._threats(), self._attacks()
        declared = self._declared()
        data = load_data(self.data, self.data_root)
        if declared.labels is not None and len(declared.labels) != len(data.classes):
            raise InputError(f"--labels needs one index for each of the {len(data.classes)} classes of {self.data}")
        index = self._index(len(data.test))
        examples = selected(data.test, index)
        for ball in threats:
            check_reach(ball, data)
        model = self._load(declared)
        Workspace(self.out).check_writable()
        check_file("--json", self.json)
        check_file("--save-examples", self.save_examples)
        with locked(self.out):
            identity = f"{self._settings()} {self.save_examples is not None} ".encode() + _sources(model)
            state = self.out / _STATE / digest(identity)[:16]
            found = self._evaluated(model, examples, (threats, attacks), state)
            proven = self._proven(found, examples, index, declared)
            model_named = {"spec": self.model, "weights": self.weights and str(self.weights)}
            record = to_record(found, data, self._command(), model_named)
            content = to_json(record)
            for path in (self.out / "evaluation.json", *([self.json] if self.json else [])):
                _write(path, content)
            _write(self.out / "evaluation.html", evaluation_page(record))
            shutil.rmtree(state)
            with contextlib.suppress(OSError):  # others that were stopped have theirs there
                state.parent.rmdir()
        for line in (*in_words(record), *proven, f"page: {self.out / 'evaluation.html'}"):
            print(line)
        return 0 if all(ev.trusted for ev in found.evaluations) else _UNTRUSTED

    def _threats(self) -> "list[Threat]":
        """The balls that are asked for; the file of examples, if one is wanted, has a name that says its format."""
        from nofreelunch.evaluation.proof import check_name
        from nofreelunch.threats import threat

        if not self.eps:
            raise InputError("--eps is needed, the radius of the ball, such as --eps 8/255")
        if self.save_examples is not None:
            check_name(self.save_examples)
        return [threat(self.threat, eps) for eps in self.eps]

    def _attacks(self) -> "dict[str, Recipe]":
        """Other libraries' attacks, by name; that they are there is seen before any work."""
        from nofreelunch.evaluation import foreign
        from nofreelunch.threats import threat

        for spec in self.attack:
            foreign(spec, threat(self.threat, 0))
        return {spec: partial(foreign, spec) for spec in self.attack}

    def _declared(self) -> "Declared":
        """What is said about the model's pixels and outputs."""
        from nofreelunch.models.declared import Declared

        low, dots, high = (self.range or "0..1").partition("..")
        if not dots:
            raise InputError(f'--range "{self.range}" is not a range; write it like 0..255 or -1..1')
        mean, std, labels = (text and _numbers(text) for text in (self.mean, self.std, self.labels))
        if labels and any(label != int(label) for label in labels):
            raise InputError(f"--labels must be whole numbers, got {self.labels}")
        ends = (parse_number(low), parse_number(high))
        return Declared(mean or None, std or None, ends, tuple(map(int, labels)) if labels else None)

    def _index(self, there: int) -> "Tensor":
        """The places of the images that are used."""
        from nofreelunch.evaluation.selection import spread

        n = there if self.n is None else check_count("n", self.n)
        if n > there:
            print(f"--n {n}: the test set has {there} images; all of them are used", file=sys.stderr)
        return spread(n, there)

    def _load(self, declared: "Declared") -> "nn.Module":
        """The model, where it is to run."""
        from nofreelunch.models import load_model

        device = find_device(self.device)
        model = load_model(self.model, self.weights, declared)
        return model.to(device) if next(model.parameters(), None) is not None else model

    def _evaluated(
        self, model: "nn.Module", examples: "Split", asked: "tuple[list[Threat], dict[str, Recipe]]", state: Path
    ) -> "Sweep":
        """All radii, with progress on stderr."""
        from rich.console import Console

        from nofreelunch.cli.progress import shown
        from nofreelunch.evaluation import sweep

        threats, attacks = asked
        kept = self.save_examples is not None
        with shown(Console(stderr=True)) as progress:
            return sweep(
                model, examples, threats, self.protocol, self.seed, kept,
                attacks=attacks, out=state, progress=progress,
            )  # fmt: skip

    def _proven(self, found: "Sweep", examples: "Split", index: "Tensor", declared: "Declared") -> list[str]:
        """Keep the worst points, and say what a model that is loaded again makes of the file."""
        from nofreelunch.evaluation.proof import check_examples, save_examples

        if self.save_examples is None:
            return []
        path = self.save_examples
        if path.exists():
            print(f"replacing {path}", file=sys.stderr)
        save_examples(path, found, examples.targets, index)
        wrong = check_examples(path, self._load(declared), examples, found)
        counts = ", ".join(
            f"{count} at eps {ev.threat.eps:.4g}" for count, ev in zip(wrong, found.evaluations, strict=True)
        )
        return [
            f"examples: {path}; read back, all {len(examples)} lie in ball and box, "
            f"and a fresh copy of the model is wrong about {counts}"
        ]

    def _settings(self) -> str:
        """The command that gives these figures, without the place of the examples."""
        words = ["nofreelunch", "evaluate", self.model, "--data", self.data, "--threat", self.threat]
        words += [word for eps in self.eps for word in ("--eps", eps)] + ["--protocol", self.protocol]
        words += [word for spec in self.attack for word in ("--attack", spec)]
        options = {
            "n": self.n, "weights": self.weights, "mean": self.mean, "std": self.std, "range": self.range,
            "labels": self.labels, "seed": self.seed,
        }  # fmt: skip
        return shlex.join(words + [f"--{name}={value}" for name, value in options.items() if value is not None])

    def _command(self) -> str:
        """The command in full."""
        kept = self.save_examples
        return self._settings() + ("" if kept is None else f" --save-examples={shlex.quote(str(kept))}")


def _sources(model: "nn.Module") -> bytes:
    """The files in which the user's own layers are written: an edited model is another one."""
    found: dict[str, bytes] = {}
    for kind in {type(layer) for layer in model.modules()}:
        with contextlib.suppress(TypeError, OSError):  # made at run time: there is no file
            file = inspect.getsourcefile(kind)
            if file is not None and "site-packages" not in file:
                found[file] = Path(file).read_bytes()
    return b"".join(content for _, content in sorted(found.items()))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(parse_number(part) for part in text.split(","))


def _write(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() != content:
        print(f"replaced {path}", file=sys.stderr)
    atomic_write(path, content)
