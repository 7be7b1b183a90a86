"""What an evaluation has done so far: one file, whole or not at all, so that a killed one goes on where it was."""

import json
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nofreelunch.errors import InputError
from nofreelunch.evaluation.board import Board, Some
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.subject import reseed
from nofreelunch.files import atomic_write
from nofreelunch.types import Labels
from nofreelunch.workspace import npz, npz_arrays

T = TypeVar("T")

FILE = "evaluation.state.npz"
_EVERY = 20.0
"""Seconds between two saves within a step."""


class Journal:
    """Results of finished steps, and the board.

    Args:
        folder: where the file lies; None keeps nothing.
        identity: what must be equal for two evaluations to be one: model, data, threat, protocol, seed.
        board: filled in from the file if there is one.

    Attributes:
        folder: as given.
        board: as given.

    Raises:
        InputError: if the file is damaged, or is that of another evaluation; lists the differences.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, str], board: Board) -> None:
        self.folder, self.board = folder, board
        self._path = None if folder is None else folder / FILE
        self._identity = dict(identity)
        self._outcomes: dict[str, Any] = {}
        self._tried: dict[str, np.ndarray] = {}
        self._saved_at = time.monotonic()
        if self._path is not None and self._path.exists():
            self._load(self._path)

    def once(self, step: str, compute: Callable[[], T]) -> T:
        """What `compute` returned when the step was first finished: a value of JSON's types."""
        if step not in self._outcomes:
            self.begin(step)
            self._outcomes[step] = compute()
            self._tried = {}
            self.save()
        found: T = self._outcomes[step]
        return found

    def begin(self, *part: object) -> None:
        """What a model draws in a part of a step depends on nothing before it: a resumed run draws the same."""
        reseed(zlib.crc32(repr((self._identity.get("seed"), *part)).encode()))

    def flags(self, step: str, check: Callable[[], list[Flag]]) -> list[Flag]:
        """What a check found when it was first made."""
        return [Flag(**flag) for flag in self.once(step, lambda: [asdict(flag) for flag in check()])]

    def knows(self, step: str) -> bool:
        """Whether the step is finished."""
        return step in self._outcomes

    def remaining(self, step: str, index: Labels) -> Some:
        """Those of the examples that an interrupted run of this step has not come to."""
        done = self._tried.setdefault(step, np.zeros(len(self.board), dtype=bool))
        return index[~done[index.numpy()]]

    def tried(self, step: str, index: Labels) -> None:
        """The step is through with these examples; saved now and then."""
        self._tried[step][index.numpy()] = True
        if time.monotonic() - self._saved_at > _EVERY:
            self.save()

    def save(self) -> None:
        """Write the file.

        Raises:
            RunError: if it cannot be written; the last one is still there.
        """
        self._saved_at = time.monotonic()
        if self._path is None:
            return
        about = {
            "identity": self._identity,
            "outcomes": self._outcomes,
            "steps": self.board.steps,
            "dropped": self.board.dropped,
            "under_way": list(self._tried),
        }
        tried = {f"tried{number}": rows for number, rows in enumerate(self._tried.values())}
        text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
        atomic_write(self._path, npz({"about": text, **self.board.arrays(), **tried}))

    def _load(self, path: Path) -> None:
        try:
            arrays = npz_arrays(path)
            about = json.loads(arrays["about"].tobytes())
            kept: dict[str, str] = about["identity"]
            if differences := [
                f"{name} was {kept.get(name)}, now {value}"
                for name, value in self._identity.items()
                if kept.get(name) != value
            ]:
                raise InputError(
                    f"{path} is of another evaluation: {'; '.join(differences)}; delete it or give another folder"
                )
            self.board.restore(arrays, about["steps"], about["dropped"])
            self._outcomes = about["outcomes"]
            self._tried = {step: arrays[f"tried{number}"] for number, step in enumerate(about["under_way"])}
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is damaged; delete it to evaluate anew") from error
