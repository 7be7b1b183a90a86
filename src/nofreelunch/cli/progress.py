"""How far a command is: a moving bar on a terminal, plain lines in a log; on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Report = Callable[[str, int, int], None]
"""Told a step's name, how many examples it is through with, and of how many."""

_LINE_SECONDS = 15.0


@contextmanager
def shown(console: Console) -> Iterator[Report]:
    """A report for the time of the block."""
    if not console.is_terminal:
        yield _lines(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda step, done, total: bar.update(task, description=step, completed=done, total=total)


def _lines(say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Report:
    """A line when a step ends, and now and then within one."""
    said = clock()

    def report(step: str, done: int, total: int) -> None:
        nonlocal said
        if done == total or clock() - said >= _LINE_SECONDS:
            said = clock()
            say(f"{step}: {done} of {total}")

    return report
