"""All points on this machine, one after the other."""

from collections.abc import Sequence

from nofreelunch.errors import InputError, RunError
from nofreelunch.sweep.progress import StatusBoard
from nofreelunch.sweep.work import Task, work


def run_locally(tasks: Sequence[Task], board: StatusBoard) -> dict[Task, str]:
    """Work on each point that is not done.

    Returns:
        For each point that failed, such as one whose files are damaged, why; the others are done.
    """
    failures: dict[Task, str] = {}
    for task in tasks:
        try:
            work(task, lambda event: board.look())
        except (InputError, RunError) as error:
            failures[task] = str(error)
        board.look()
    return failures
