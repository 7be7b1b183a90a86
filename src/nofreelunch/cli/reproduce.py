"""`nofreelunch reproduce`: the paper's experiments, and the report in which they stand beside the paper."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nofreelunch.cli.values import OptionalInt, OptionalPair, OptionalPath, OptionalText
from nofreelunch.errors import InputError, unknown
from nofreelunch.experiments.base import Experiment, Scale


@dataclass(frozen=True)
class Reproduce:
    """Run the paper's experiments (all, or those named) on real data and write the report.

    Leaves results/NAME.json, figures/NAME.svg and .png, and report.html (one file that needs no network) in --out. What
    is there already and unchanged is not computed again.
    """

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME ...]")] = ()
    """Experiments, e.g. theorem-2.1 figure-2; none means all."""
    scale: Scale = "laptop"
    """How much is computed: smoke (seconds), laptop (minutes on 2 cores), paper (Appendix A to the letter)."""
    seed: OptionalInt = None
    """Seed of everything random; default: each experiment's own, written in its result."""
    classes: OptionalPair = None
    """Two class names of the data set, for the linear study (figure-2, table-4), e.g. --classes 3 8."""
    data: OptionalText = None
    """Data set of the linear study: see `nofreelunch data list`."""
    data_root: OptionalPath = None
    """Folder of data sets that are not in the package (default: the variable NOFREELUNCH_DATA)."""
    device: str = "auto"
    """Where models run: auto, cpu, cuda, or cuda:1."""
    out: Path = Path("runs/reproduce")
    """Folder for results, figures and report."""

    def run(self) -> int:
        """Compute, save, draw, report; 0."""
        from nofreelunch.experiments.registry import EXPERIMENTS
        from nofreelunch.experiments.runner import configured, reproduce
        from nofreelunch.report import write_report
        from nofreelunch.workspace import Workspace, find_device, locked

        for name in self.names:
            if name not in EXPERIMENTS:
                raise unknown("experiment", name, EXPERIMENTS)
        chosen = [EXPERIMENTS[name] for name in dict.fromkeys(self.names or EXPERIMENTS)]
        changes = {"seed": self.seed, "classes": self.classes, "data": self.data}
        _check_known(changes, chosen, self.scale)
        configs = [configured(experiment, self.scale, changes) for experiment in chosen]
        workspace = Workspace(self.out, find_device(self.device), self.data_root)
        workspace.check_writable()
        with locked(workspace.root):
            for experiment, config in zip(chosen, configs, strict=True):
                reproduce(experiment, config, workspace, self._command(experiment.name), _say)
            page = write_report(workspace, tuple(experiment.name for experiment in EXPERIMENTS.values()))
        print(f"report: {page}")
        return 0

    def _command(self, name: str) -> str:
        """The command that makes this experiment's result again."""
        words = ["nofreelunch", "reproduce", name, "--scale", self.scale]
        words += ["--seed", str(self.seed)] if self.seed is not None else []
        words += ["--data", self.data] if self.data else []
        words += ["--classes", *self.classes] if self.classes else []
        return shlex.join(words)


def _check_known(changes: Mapping[str, object], chosen: Sequence[Experiment], scale: Scale) -> None:
    """Each option given must mean something to at least one of the experiments."""
    for option, value in changes.items():
        if value is not None and not any(hasattr(experiment.presets[scale], option) for experiment in chosen):
            names = ", ".join(experiment.name for experiment in chosen)
            raise InputError(f"--{option} means nothing to {names}; name an experiment that has a {option}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
