"""`nofreelunch reproduce`: the paper's experiments, and the report in which they stand beside the paper."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nofreelunch import names
from nofreelunch.cli.values import DataRoot, Device, OptionalInt, OptionalPair, OptionalText, data_root_words
from nofreelunch.errors import InputError, check_known, check_seed
from nofreelunch.experiments.base import Experiment, Scale
from nofreelunch.output import locked
from nofreelunch.workspace import Workspace, find_device


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
    retrain: bool = False
    """Train the models of the deep figures here, once, instead of taking the package's: hours on 2 cores. What was
    stopped goes on where it was."""
    seed: OptionalInt = None
    """Seed of everything random; default: each experiment's own, written in its result."""
    classes: OptionalPair = None
    """Two class names of the data set, for the linear study (figure-2, table-4), e.g. --classes 3 8."""
    data: OptionalText = None
    """Data set of the linear study: see `nofreelunch data list`."""
    data_root: DataRoot = None
    device: Device = "auto"
    out: Path = Path("runs/reproduce")
    """Folder for results, figures and report."""

    def run(self) -> int:
        """Compute, save, draw, report; 0."""
        for name in self.names:
            check_known("experiment", name, names.EXPERIMENTS)
        if self.data is not None:
            names.check_data(self.data)
        if self.seed is not None:
            check_seed(self.seed)

        from nofreelunch.experiments.registry import EXPERIMENTS
        from nofreelunch.experiments.runner import configured, reproduce
        from nofreelunch.report import report_lines, write_report

        chosen = [EXPERIMENTS[name] for name in dict.fromkeys(self.names or EXPERIMENTS)]
        changes = {"seed": self.seed, "classes": self.classes, "data": self.data, "retrain": self._preset()}
        _check_known(changes, chosen, self.scale)
        configs = [configured(experiment, self.scale, changes) for experiment in chosen]
        workspace = Workspace(self.out, find_device(self.device), self.data_root)
        with locked(workspace.root):
            for experiment, config in zip(chosen, configs, strict=True):
                if experiment.inputs:
                    experiment.inputs(config, workspace)  # what is missing is told before the first hour of training
            for experiment, config in zip(chosen, configs, strict=True):
                reproduce(experiment, config, workspace, self._command(experiment), _say)
            page = write_report(workspace, tuple(experiment.name for experiment in EXPERIMENTS.values()))
            for line in report_lines(workspace, [experiment.name for experiment in chosen]):
                print(line)
        print(f"report: {page}")
        return 0

    def _preset(self) -> str | None:
        """By which preset models are trained here; None for the experiment's own choice."""
        if not self.retrain:
            return None
        return "paper" if self.scale == "paper" else "laptop"

    def _command(self, experiment: Experiment) -> str:
        """The command that makes this experiment's result again."""
        words = ["nofreelunch", "reproduce", experiment.name, "--scale", self.scale]
        given: dict[str, Sequence[str] | None] = {
            "retrain": () if self.retrain else None,
            "seed": None if self.seed is None else (str(self.seed),),
            "data": None if self.data is None else (self.data,),
            "classes": self.classes,
        }
        for option, values in given.items():
            if values is not None and hasattr(experiment.presets[self.scale], option):
                words += [f"--{option}", *values]
        return shlex.join(words + data_root_words(self.data_root))


def _check_known(changes: Mapping[str, object], chosen: Sequence[Experiment], scale: Scale) -> None:
    """Each option given must mean something to at least one of the experiments."""
    for option, value in changes.items():
        if value is not None and not any(hasattr(experiment.presets[scale], option) for experiment in chosen):
            names = ", ".join(experiment.name for experiment in chosen)
            raise InputError(f"--{option} means nothing to {names}; name an experiment that has a use for it")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
