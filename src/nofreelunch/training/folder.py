"""A run's folder: its state, its log and, at the end, its model."""

import shutil
from pathlib import Path
from typing import Any

from nofreelunch.errors import InputError, RunError
from nofreelunch.training.config import TrainConfig, differences
from nofreelunch.training.events import Event, Report
from nofreelunch.training.learner import Learner
from nofreelunch.training.log import Log
from nofreelunch.training.size import folder_bytes, state_bytes
from nofreelunch.training.state import State, load_state, save_state
from nofreelunch.workspace import plain

MODEL = "model.safetensors"
_LARGE = ("state.safetensors", "previous.safetensors", MODEL)
_FILES = (*_LARGE, "state.json", "previous.json", "model.json", "log.jsonl")


class Folder:
    """Where a run is kept, and found again.

    Args:
        identity: what the run is, in JSON's types: its config, and the digests of its data, of the model file that it
            starts from and of the user's code of its network ("" where there is none).
        learner: whose state is kept.
    """

    def __init__(self, path: Path, identity: dict[str, Any], learner: Learner) -> None:
        self.path, self.identity, self.learner = path, identity, learner

    def resume(self) -> tuple[str, ...]:
        """Go on from the last whole state, if there is one; returns a sentence on each that is damaged.

        Raises:
            InputError: if the state is of another run: other settings, other data, another version.
        """
        state, complaints = load_state(self.path)
        if state is not None:
            self._check_same_run(state)
            self.learner.restore(state)
        elif not complaints and (self.path / MODEL).exists():
            raise InputError(f"{self.path} holds a model but no state of its training; give another --out")
        return complaints

    def remove_leftovers(self) -> None:
        """Remove what a killed process left half-written; the folder must be locked."""
        for name in _FILES:
            for leftover in self.path.glob(f".{name}.*"):
                leftover.unlink()

    def check_room(self, config: TrainConfig) -> None:
        """Fail now rather than when the disk is full.

        Raises:
            InputError: if what the folder does not hold yet, and a state being written beside it, do not fit.
        """
        there = sum((self.path / name).stat().st_size for name in _LARGE if (self.path / name).exists())
        needed = folder_bytes(config, self.learner) + state_bytes(config, self.learner) - there
        free = shutil.disk_usage(self.path).free
        if free < needed:
            need = f"the run needs {needed / 2**20:.0f} MiB more"
            raise InputError(f"--out {self.path} has {free / 2**20:.0f} MiB free, {need}; make room")

    def logging(self, report: Report) -> Report:
        """`report`, with each event logged before; what was logged after the step resumed from is removed."""
        log = Log(self.path / "log.jsonl", self.learner.step, len(self.learner.history))

        def both(event: Event) -> None:
            log(event)
            report(event)

        return both

    def save(self) -> None:
        """Keep the learner's state.

        Raises:
            RunError: if a weight is not a number, or the disk is full; earlier states are whole.
        """
        if not self.learner.is_finite():
            raise RunError(f"a weight is not a number after step {self.learner.step}")
        state = self.learner.state()
        save_state(self.path, State({**state.about, **self.identity}, state.tensors))

    @property
    def last_good(self) -> str:
        """The last whole state that is there, in words."""
        state, _ = load_state(self.path)
        if state is None:
            return f"no state was saved in {self.path} yet"
        return f"the last good state is that of step {state.about['step']}, in {self.path}"

    def _check_same_run(self, state: State) -> None:
        saved = plain(TrainConfig.from_plain(state.about["config"]))  # settings that are newer than it: the default
        found = differences(saved, self.identity["config"])
        if state.about["data"] != self.identity["data"]:
            found += (f"data: saved {state.about['data']}, now {self.identity['data']}",)
        for key, file in {"start": saved["start"], "code": saved["arch"]}.items():
            if state.about.get(key, self.identity[key]) != self.identity[key]:  # older states do not know it
                found += (f"{file} was another one then",)
        if found:
            listed = "; ".join(found)
            raise InputError(f"{self.path} holds another run ({listed}); give another --out, or the same settings")
