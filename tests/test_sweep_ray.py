"""A sweep on a Ray cluster of two nodes loses one of them and, later, a worker: it ends as if nothing had happened."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from nofreelunch.errors import InputError
from nofreelunch.sweep import Task, read_spec
from nofreelunch.sweep.cluster import run_on_ray
from nofreelunch.sweep.local import run_locally
from nofreelunch.sweep.progress import shown
from nofreelunch.sweep.spec import Resources
from nofreelunch.sweep.status import DONE, TRAINING, status
from nofreelunch.sweep.work import load, read_scores
from nofreelunch.training.folder import MODEL
from sweep_toy import write_spec

ray = pytest.importorskip("ray", reason="pip install 'nofreelunch[sweep]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray's own

EPOCHS = 10  # 60 steps, each of them saved
MIDST = 10  # steps
PATIENCE = 600.0  # seconds for what is to happen


def tasks_of(spec: Path, out: Path, save_seconds: float = 60.0) -> list[Task]:
    points = read_spec(str(spec)).points
    source = points[0].data
    return [Task(point, source, load(source, None).digest, out, None, "cpu", save_seconds) for point in points]


def labels(tasks: list[Task]) -> dict[Task, str]:
    return {task: str(number) for number, task in enumerate(tasks)}


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 10}
    arguments = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "_system_config": quick}
    found = Cluster(initialize_head=True, head_node_args=arguments)
    yield found
    found.shutdown()


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("what was waited for did not happen")


def workers(out: Path) -> dict[str, int]:
    """The Ray processes that hold the folder of a point, by the folder's name."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if not (process / "comm").read_text().startswith("ray::"):
                continue
            for link in (process / "fd").iterdir():
                path = Path(os.readlink(link))
                if path.name == ".lock" and path.parent.parent == out / "points":
                    found[path.parent.name] = int(process.name)
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def in_midst(tasks: list[Task], there: Iterable[str]) -> list[Task]:
    found = {task: status(task) for task in tasks if task.name in there}
    return [task for task, now in found.items() if now.phase == TRAINING and now.step >= MIDST]


def frozen(tasks: list[Task], count: int, held: dict[Task, int]) -> dict[Task, int] | None:
    """So many processes, each stopped in the midst of a training and held there; None as long as there are fewer."""
    there = workers(tasks[0].root)
    for task in in_midst(tasks, there):
        if task not in held and len(held) < count:
            os.kill(there[task.name], signal.SIGSTOP)
            if in_midst([task], [task.name]):  # it has not come to its end before it was stopped
                held[task] = there[task.name]
            else:
                os.kill(there[task.name], signal.SIGCONT)
    return held if len(held) == count else None


def starts(task: Task) -> list[int]:
    """The steps that the training began and went on after."""
    events = map(json.loads, (task.training / "log.jsonl").read_text().splitlines())
    return [event["step"] for event in events if event["event"] == "started"]


class Saboteur(threading.Thread):
    """Takes away a node when both are at work, with all its processes; kills a worker when half of the points are done.

    Attributes:
        seen: for each point that it struck, by name, a step that had been made.
    """

    def __init__(self, cluster: Any, node: Any, tasks: list[Task]) -> None:
        super().__init__(daemon=True)
        self.cluster, self.node, self.tasks = cluster, node, tasks
        self.seen: dict[str, int] = {}

    def run(self) -> None:
        both = wait_for(partial(frozen, self.tasks, 2, {}))
        raylet = self.node.all_processes["raylet"][0].process.pid
        for task, pid in both.items():
            if parent(pid) == raylet:
                self.kill(task, pid)
            else:
                os.kill(pid, signal.SIGCONT)
        self.cluster.remove_node(self.node, allow_graceful=False)
        wait_for(lambda: sum(status(task).phase == DONE for task in self.tasks) >= len(self.tasks) // 2)
        for task, pid in wait_for(partial(frozen, self.tasks, 1, {})).items():
            self.kill(task, pid)

    def kill(self, task: Task, pid: int) -> None:
        self.seen[task.name] = status(task).step
        os.kill(pid, signal.SIGKILL)


def test_a_lost_node_and_a_killed_worker_cost_the_steps_since_their_last_state(cluster: Any, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    spec = write_spec(tmp_path, epochs=str(EPOCHS))
    alone, spread = tasks_of(spec, tmp_path / "alone"), tasks_of(spec, tmp_path / "spread", save_seconds=0.0)
    saboteur = Saboteur(cluster, cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20), spread)
    saboteur.start()
    with shown(labels(spread), Console(stderr=True)) as board:
        assert run_on_ray(spread, board, cluster.address, Resources(cpus=1.0)) == {}
    saboteur.join(PATIENCE)
    begun = {task.name: starts(task) for task in spread}
    again = {name: steps for name, steps in begun.items() if len(steps) > 1}
    assert again.keys() == saboteur.seen.keys()
    assert len(again) == 2
    assert all(steps[0] == 0 and min(steps[1:]) >= saboteur.seen[name] - 1 for name, steps in again.items())
    with shown(labels(alone), Console(stderr=True)) as board:
        assert run_locally(alone, board) == {}
    for mine, theirs in zip(alone, spread, strict=True):
        models = [load_file(task.training / MODEL) for task in (mine, theirs)]
        assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
        assert read_scores(mine) == read_scores(theirs)


@pytest.mark.parametrize(("address", "expected"), [("somewhere", "HOST:PORT"), ("127.0.0.1:1", "no Ray cluster")])
def test_a_wrong_address_is_answered_at_once(address: str, expected: str, tmp_path: Path) -> None:
    tasks = tasks_of(write_spec(tmp_path), tmp_path)
    with (
        shown(labels(tasks), Console(stderr=True)) as board,
        pytest.raises(InputError, match=expected),
    ):
        run_on_ray(tasks, board, address, Resources())
