"""`nofreelunch evaluate`: how accurate a model is at worst, attack by attack, and whether to believe it."""

import contextlib
import shlex
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nofreelunch.cli.subject import OfModel
from nofreelunch.cli.values import Norm, OptionalInt, OptionalPath, check_radius
from nofreelunch.errors import InputError, check_count, check_known
from nofreelunch.output import check_file, locked, write
from nofreelunch.workspace import digest, to_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nofreelunch.data import Split
    from nofreelunch.evaluation import Sweep
    from nofreelunch.evaluation.protocols import AttackRecipe
    from nofreelunch.threats import Threat

_STATE = "evaluation.state"
_UNTRUSTED = 3


@dataclass(frozen=True, kw_only=True)
class Evaluate(OfModel):
    """Measure the clean and robust accuracy of a model on test images, and look for reasons not to trust the figure.

    Leaves evaluation.json and evaluation.html (one file, which needs no network) in --out. A command that was stopped
    goes on where it was. Exit code 0: trusted; 3: doubtful or invalid.
    """

    threat: Norm
    """Norm of the ball in which the adversary may move an image."""
    eps: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="EPS")]
    """Its radius, e.g. 0.3 or 8/255, pixels being in [0, 1]; several times for a curve."""
    protocol: Literal["quick", "standard"] = "standard"
    """Which attacks: quick (a minute), standard (those of AutoAttack's standard version)."""
    n: OptionalInt = None
    """Number of test images, evenly spread over the test set; default: all."""
    attack: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="ATTACK")] = ()
    """One more, on what is left: ours, e.g. pgd-40, or torchattacks:PGD, foolbox:LinfPGD; several times for several."""
    batch_size: OptionalInt = None
    """Images at a time in attacks, 2 or more: fewer need less memory; default: as many as keep the device busy. The
    figure does not depend on it, but for attacks that --attack adds."""
    save_examples: OptionalPath = None
    """Keep the worst points found in this file (.npz or .safetensors), read it back and judge it by a fresh model."""
    json: OptionalPath = None
    """Also write evaluation.json to this file."""
    out: Path = Path("runs/evaluate")
    """Folder for the results."""

    def run(self) -> int:
        """Evaluate, prove, write, print; 0 if the figure is to be trusted and else 3."""
        self._check_words()
        from nofreelunch.evaluation.record import to_record
        from nofreelunch.models.sources import code_fingerprint
        from nofreelunch.report.evaluation import evaluation_lines, evaluation_page

        threats, attacks = self._threats(), self._attacks()
        data = self.load_images()
        index = self._index(data.test)
        examples = data.test.select(index)
        for ball in threats:
            ball.check_reach(data.test.x, data.name)
        model = self.load_model()
        self.check_outputs(model, data)
        with locked(self.out):
            check_file("--json", self.json)
            check_file("--save-examples", self.save_examples)
            self._check_replaces_nothing_read()
            identity = ascii((self._settings(), self.save_examples is not None)).encode() + code_fingerprint(
                self.model, model
            )
            state = self.out / _STATE / digest(identity)[:16]
            found = self._evaluated(model, examples, (threats, attacks), state)
            proven = self._proven(found, examples, index)
            model_named = {"spec": self.model, "weights": self.weights and str(self.weights)}
            record = to_record(found, data, index, self._command(), model_named)
            content = to_json(record)
            write(self.out / "evaluation.json", content, keep=True)
            write(self.out / "evaluation.html", evaluation_page(record), keep=True)
            if self.json:
                write(self.json, content)
            shutil.rmtree(state)
            with contextlib.suppress(OSError):  # others that were stopped have theirs there
                state.parent.rmdir()
        for line in (*evaluation_lines(record), *proven, f"page: {self.out / 'evaluation.html'}"):
            print(line)
        return 0 if all(ev.trusted for ev in found.evaluations) else _UNTRUSTED

    def _check_words(self) -> None:
        """Refuse what can be seen to be wrong before torch is loaded."""
        self.check_names()
        if not self.eps:
            raise InputError("--eps is needed, the radius of the ball, such as --eps 8/255")
        if any("," in eps for eps in self.eps):
            raise InputError(f"--eps takes one radius; write --eps {' --eps '.join(','.join(self.eps).split(','))}")
        for eps in self.eps:
            check_radius(eps)
        if self.n is not None:
            check_count("n", self.n)
        if self.batch_size is not None:
            check_count("--batch-size", self.batch_size, 2)

    def _threats(self) -> "list[Threat]":
        """The balls that are asked for; the file of examples, if one is wanted, has a name that says its format."""
        from nofreelunch.evaluation.proof import check_name
        from nofreelunch.threats import threat

        if self.save_examples is not None:
            check_name(self.save_examples)
        return [threat(self.threat, eps) for eps in self.eps]

    def _attacks(self) -> "dict[str, AttackRecipe]":
        """Further attacks, ours and other libraries', by name; that they are there is seen before any work."""
        from nofreelunch.attacks import ATTACKS
        from nofreelunch.evaluation.foreign import LIBRARIES, foreign
        from nofreelunch.evaluation.protocols import further, plan_of
        from nofreelunch.threats import threat

        for spec in self.attack:
            if ":" not in spec:
                check_known("attack", spec, [*ATTACKS, *(f"{library}:CLASS" for library in LIBRARIES)])
        made = {spec: ATTACKS.get(spec) or partial(foreign, spec) for spec in self.attack}
        further({spec: make(threat(self.threat, 0)) for spec, make in made.items()}, plan_of(self.protocol))
        return made

    def _check_replaces_nothing_read(self) -> None:
        """An `InputError` if a file would be written over data, model, its card or weights."""
        card = Path(self.model).with_suffix(".json")
        named = (self.data, self.data.partition(":")[2], self.model, self.model.partition(":")[2], card, self.weights)
        read = {Path(str(name)).expanduser().resolve() for name in named if name}
        for option, path in (("--save-examples", self.save_examples), ("--json", self.json)):
            if path is not None and path.is_file() and path.resolve() in read:
                raise InputError(f"{option} {path} would replace what is read; name another file")

    def _index(self, test: "Split") -> "Tensor":
        """The places of the images that are used."""
        n = len(test) if self.n is None else self.n
        if n > len(test):
            print(f"--n {n}: the test set has {len(test)} images; all of them are used", file=sys.stderr)
        return test.evenly_spaced(n)

    def _evaluated(
        self, model: "nn.Module", examples: "Split", asked: "tuple[list[Threat], dict[str, AttackRecipe]]", state: Path
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
                attacks=attacks, batch_size=self.batch_size, out=state, progress=progress,
            )  # fmt: skip

    def _proven(self, found: "Sweep", examples: "Split", index: "Tensor") -> list[str]:
        """Keep the worst points, and say what a model that is loaded again makes of the file."""
        from nofreelunch.evaluation.proof import check_examples, save_examples

        if self.save_examples is None:
            return []
        path = self.save_examples
        if path.exists():
            print(f"replacing {path}", file=sys.stderr)
        save_examples(path, found, examples.targets, index)
        wrong = check_examples(path, self.load_model(), examples, found)
        counts = ", ".join(
            f"{count} at eps {ev.threat.eps:.4g}" for count, ev in zip(wrong, found.evaluations, strict=True)
        )
        return [
            f"examples: {path}; read back, all {len(examples)} lie in ball and box, "
            f"and a fresh copy of the model is wrong about {counts}"
        ]

    def _settings(self) -> str:
        """The command that gives these figures, without what changes none."""
        words = ["--threat", self.threat, *(word for eps in self.eps for word in ("--eps", eps))]
        words += ["--protocol", self.protocol]
        words += [word for spec in self.attack for word in ("--attack", spec)]
        words += [] if self.n is None else [f"--n={self.n}"]
        words += [f"--batch-size={self.batch_size}"] if self.batch_size and self.attack else []
        return self.command("evaluate", *words)

    def _command(self) -> str:
        """The command in full."""
        kept, size = self.save_examples, "" if self.attack else self.batch_size
        sized = self._settings() + (f" --batch-size={size}" if size else "")
        return sized + ("" if kept is None else f" --save-examples={shlex.quote(str(kept))}")
