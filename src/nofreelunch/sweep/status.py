"""How far a point is: read from its folder, whoever works on it, wherever."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nofreelunch.sweep.work import Task

WAITING, TRAINING, EXAMINING, DONE = "waiting", "training", "examining", "done"
_TAIL = 4096  # bytes of a log that hold its last event


@dataclass(frozen=True)
class Status:
    """How far a point is.

    Args:
        phase: waiting, training, examining or done.
        step: the last step that its log tells of.
        steps: of its training, 0 while unknown.
    """

    phase: str
    step: int = 0
    steps: int = 0

    def __str__(self) -> str:
        return (
            f"{self.phase}, step {self.step} of {self.steps}" if self.phase == TRAINING and self.steps else self.phase
        )


def status(task: Task) -> Status:
    """How far the point of a task is; what cannot be read yet counts as not begun."""
    if task.result.exists():
        return Status(DONE)
    if task.trained:
        return Status(EXAMINING)
    first, last = _ends(task.training / "log.jsonl")
    if first is None:
        return Status(WAITING)
    return Status(TRAINING, (last or first).get("step", 0), first.get("steps", 0))


def _ends(path: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The first and the last whole event of a log."""
    try:
        with open(path, "rb") as file:
            head = file.read(_TAIL).splitlines(keepends=True)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            tail = file.read().splitlines(keepends=True)
    except OSError:
        return None, None
    return _event(head[0] if head else b""), next((event for event in map(_event, reversed(tail)) if event), None)


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
