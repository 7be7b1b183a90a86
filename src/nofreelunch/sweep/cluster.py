"""The points as tasks of a Ray cluster. Ray is imported here and nowhere else, and only if it is asked for."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nofreelunch.errors import InputError, needed, reason
from nofreelunch.sweep.progress import StatusBoard
from nofreelunch.sweep.spec import Resources
from nofreelunch.sweep.status import status
from nofreelunch.sweep.work import Task, work

_TRIES = 3  # without one step further
_LOOK_SECONDS = 0.5
_ANSWER_SECONDS = 10.0
_HIGHEST_PORT = 65535


def run_on_ray(tasks: Sequence[Task], board: StatusBoard, address: str, needs: Resources) -> dict[Task, str]:
    """Work on each point that is not done, as many at a time as the cluster has room for.

    A point whose worker or node dies is begun again elsewhere, and goes on from its last state: for as long as it gets
    further, and three times where it does not.

    Args:
        tasks: the points'; their folder must be shared by all machines.
        address: "auto" for the cluster that this machine is part of, "local" for a new one on this machine, HOST:PORT.

    Returns:
        For each point that failed, such as one whose files are damaged, why; the others are done.

    Raises:
        InputError: if Ray is not installed, or there is no such cluster.
    """
    with _connected(address) as ray:
        begin = ray.remote(num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=0)(work)
        return _carried_through(ray, begin, tasks, board)


def _carried_through(ray: Any, begin: Any, tasks: Sequence[Task], board: StatusBoard) -> dict[Task, str]:
    tries: dict[Task, tuple[int, int]] = dict.fromkeys(tasks, (0, -1))  # how often since its step was this
    failures: dict[Task, str] = {}
    running = {begin.remote(task): task for task in tasks if not task.result.exists()}
    while running:
        ended, _ = ray.wait(list(running), timeout=_LOOK_SECONDS)
        board.look()
        for reference in ended:
            task = running.pop(reference)
            try:
                ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                failures[task] = str(error.cause)
            except ray.exceptions.RayError as error:  # the worker or its node is gone
                step = status(task).step
                count = tries[task][0] + 1 if step <= tries[task][1] else 1
                tries[task] = count, step
                if count > _TRIES:
                    failures[task] = f"its worker died {count} times at step {step}: {reason(error)}"
                else:
                    running[begin.remote(task)] = task
    return failures


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected for the time of the block."""
    ray = needed("ray", "--ray", "sweep")
    _check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise _no_cluster(address, error) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself tries for many minutes to reach a machine that does not answer.

    Raises:
        InputError: if this is no address, or nobody answers there.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > _HIGHEST_PORT:
        raise InputError(f'--ray must be auto, local or HOST:PORT, such as 10.0.0.1:6379, got "{address}"')
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> InputError:
    told = f'there is no Ray cluster at "{address}" ({reason(error).rstrip(".")})'
    return InputError(f"{told}; start one by `ray start --head`, or give local")
