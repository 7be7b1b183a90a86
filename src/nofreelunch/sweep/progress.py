"""All points in one table on stderr: alive on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from nofreelunch.sweep.status import DONE, EXAMINING, TRAINING, WAITING, status
from nofreelunch.sweep.work import Task
from nofreelunch.training.progress import duration

_EVERY = {True: 0.5, False: 2.0}  # seconds between two looks at the folders, on a terminal and elsewhere
_LINE_SECONDS = 30.0  # between two lines about steps
_ORDER = (TRAINING, EXAMINING, WAITING, DONE)


class StatusBoard:
    """What is known of all points.

    Args:
        labels: the points' tasks, and how each is called.
        live: what moves on a terminal; None elsewhere.
    """

    def __init__(self, labels: Mapping[Task, str], console: Console, live: Live | None) -> None:
        self._labels, self._console, self._live = labels, console, live
        self._known = {task: status(task) for task in labels}
        self._begun = self._looked = self._told = time.monotonic()
        self._say(self._summary())

    def look(self) -> None:
        """Look at the folders, if it is time, and show what has changed."""
        now = time.monotonic()
        if now - self._looked >= _EVERY[self._live is not None]:
            self._looked = now
            self._follow()
            if self._live is None and now - self._told >= _LINE_SECONDS:
                self._told = now
                self._say(self._summary())

    def finish(self) -> None:
        """Show how it stands at the end."""
        self._follow()
        self._say(self._summary())

    def _follow(self) -> None:
        for task, before in self._known.items():
            if before.phase == DONE:
                continue
            self._known[task] = found = status(task)
            if found.phase != before.phase:
                self._say(f"{self._labels[task]}: {found}")
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _say(self, line: str) -> None:
        if self._live is None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _summary(self) -> str:
        done = sum(found.phase == DONE for found in self._known.values())
        running = [
            f"{self._labels[task]} at step {found.step} of {found.steps}"
            for task, found in self._known.items()
            if found.phase == TRAINING and found.step
        ]
        passed = duration(time.monotonic() - self._begun)
        return "; ".join([f"{done} of {len(self._known)} points done after {passed}", *running])

    def _table(self) -> Table:
        rows = sorted(self._known.items(), key=lambda row: _ORDER.index(row[1].phase))
        table = Table("point", "phase", "step", title=self._summary().split(";")[0], box=None, title_justify="left")
        for task, found in rows:
            steps = f"{found.step} / {found.steps}" if found.steps else ""
            table.add_row(escape(self._labels[task]), found.phase, steps)
        return table


@contextmanager
def shown(labels: Mapping[Task, str], console: Console) -> Iterator[StatusBoard]:
    """A board of the points for the time of the block."""
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        board = StatusBoard(labels, console, live)
        yield board
        board.finish()
