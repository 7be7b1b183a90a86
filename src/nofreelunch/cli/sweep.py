"""`nofreelunch sweep`: a grid of trainings and examinations, on this machine or on a Ray cluster."""

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nofreelunch.cli.values import DataRoot, Device, OptionalText
from nofreelunch.errors import RunError
from nofreelunch.files import atomic_write
from nofreelunch.output import locked
from nofreelunch.workspace import find_device

if TYPE_CHECKING:
    from nofreelunch.sweep import Spec, Task


@dataclass(frozen=True)
class Sweep:
    """Train and examine a model for each point of a grid; leave one table and one plot.

    Leaves table.csv, plot.png, plot.svg and, for each point, a folder under points/ in --out. What is there is not done
    again, and a point that was stopped goes on where it was.
    """

    spec: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SPEC.toml")]
    """A TOML file with the sections [train], [grid], [evaluate], [run]; or one of the package's, such as figure-1."""
    ray: OptionalText = None
    """Run on a Ray cluster: auto (the one that this machine is part of), local (a new one here), or HOST:PORT. All its
    machines must share --out."""
    dry_run: bool = False
    """Only say what it takes: points, steps, time, memory, disk."""
    data_root: DataRoot = None
    device: Device = "auto"
    out: Path = Path("runs/sweep")
    """Folder for points, table and plot."""

    def run(self) -> int:
        """Do it; 0."""
        from nofreelunch.sweep import read_spec
        from nofreelunch.sweep.forecast import check, forecast_text
        from nofreelunch.sweep.table import label

        spec = read_spec(self.spec)
        if self.ray is None:
            find_device(self.device)
        labels = {task: label(task.point, spec.varied) for task in self._tasks(spec)}
        check([*labels])
        for caution in dict.fromkeys(caution for task in labels for caution in task.point.config.cautions):
            print(f"notice: {caution}", file=sys.stderr)
        if self.dry_run:
            print(forecast_text(labels))
            return 0
        with locked(self.out):
            failures = self._carry_out(spec, labels)
            self._conclude(spec, [task for task in labels if task not in failures])
        for task, reason in failures.items():
            print(f"{labels[task]}: {reason}", file=sys.stderr)
        if failures:
            raise RunError(f"{len(failures)} of {len(labels)} points failed; the same command tries them again")
        return 0

    def _tasks(self, spec: "Spec") -> "list[Task]":
        """One for each point; their paths hold on every machine that has the folders."""
        from nofreelunch.data import data_root
        from nofreelunch.sweep.work import Task, load, located, wherever
        from nofreelunch.training.start import own_files_digest

        root = data_root(self.data_root)
        root = root and root.absolute()
        points = [located(point) for point in spec.points]
        sources = {data: wherever(data) for data in dict.fromkeys(point.data for point in points)}
        digests = {data: load(source, root).digest for data, source in sources.items()}
        begun = functools.cache(own_files_digest)
        return [
            Task(
                point,
                sources[point.data],
                digests[point.data],
                self.out.absolute(),
                root,
                self.device,
                spec.needs.save_seconds,
                begun(point.config.start, point.config.arch),
            )
            for point in points
        ]

    def _carry_out(self, spec: "Spec", labels: "Mapping[Task, str]") -> "dict[Task, str]":
        """Work on all points; what failed, and why."""
        from rich.console import Console

        from nofreelunch.sweep.cluster import run_on_ray
        from nofreelunch.sweep.local import run_locally
        from nofreelunch.sweep.progress import shown

        with shown(labels, Console(stderr=True)) as board:
            if self.ray is None:
                return run_locally([*labels], board)
            return run_on_ray([*labels], board, self.ray, spec.needs)

    def _conclude(self, spec: "Spec", tasks: "Sequence[Task]") -> None:
        """Write and print the table of the points that are done, then draw the plot."""
        from nofreelunch.drawing import drawn
        from nofreelunch.sweep.plot import plot
        from nofreelunch.sweep.table import Row, to_csv, to_text
        from nofreelunch.sweep.work import read_scores

        rows = [Row(task.name, task.point, score) for task in tasks for score in read_scores(task)]
        if not rows:
            return
        atomic_write(self.out / "table.csv", to_csv(rows, spec.varied))
        print(to_text(rows, spec.varied))
        for suffix, picture in drawn(lambda found: plot(found, spec.varied), rows).items():
            atomic_write(self.out / f"plot{suffix}", picture)
        print(f"table: {self.out / 'table.csv'}, plot: {self.out / 'plot.png'}")
