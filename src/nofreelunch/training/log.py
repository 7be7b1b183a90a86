"""`log.jsonl`: one event a line, in the order of the steps, each step once however often the run was stopped."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nofreelunch.errors import RunError
from nofreelunch.files import atomic_write
from nofreelunch.training.events import Epoch, Event, Step
from nofreelunch.workspace import plain

EVERY = 10
"""So many steps are told of by one line."""


class Log:
    """The log file of a run.

    Args:
        path: of the file; appended to.
        step: the step that the run goes on from.
        validations: those done by then. What was logged later, or cut off within a line, is removed.

    Raises:
        RunError: if the file cannot be written.
    """

    def __init__(self, path: Path, step: int, validations: int) -> None:
        self.path = path
        content = path.read_bytes() if path.exists() else b""
        kept = b"".join(_until(content.splitlines(keepends=True), step, validations))
        if kept != content:
            atomic_write(path, kept)

    def __call__(self, event: Event) -> None:
        """Append the event; of the steps, only every tenth."""
        if isinstance(event, Step) and event.step % EVERY:
            return
        line = json.dumps({"event": event.event, **plain(event)}, sort_keys=True) + "\n"
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}") from error


def _until(lines: Iterable[bytes], step: int, validations: int) -> Iterator[bytes]:
    """The whole lines before the first that tells of a later step or validation."""
    for line in lines:
        try:
            event: Any = json.loads(line)
            validations -= event["event"] == Epoch.event
            later = validations < 0 or event["step"] > step
        except (ValueError, TypeError, KeyError):
            later = True
        if later or not line.endswith(b"\n"):
            return
        yield line
