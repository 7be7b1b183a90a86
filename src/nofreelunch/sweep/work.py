"""One point's work: train, examine, keep; the same here and on another machine, begun once or over and over."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch

from nofreelunch.attacks import ATTACKS
from nofreelunch.data import FORMATS, Dataset, Split, load_data
from nofreelunch.errors import InputError
from nofreelunch.evaluation import Tally, evaluate
from nofreelunch.evaluation.accuracy import Examples, accuracies
from nofreelunch.files import atomic_write
from nofreelunch.models import Classifier, fast
from nofreelunch.models.files import load_file
from nofreelunch.names import PACKED
from nofreelunch.output import InUse, locked
from nofreelunch.sweep.point import Exam, Point
from nofreelunch.threats import Threat, from_plain
from nofreelunch.training import train
from nofreelunch.training.events import Report, silent
from nofreelunch.training.folder import MODEL
from nofreelunch.training.start import own_files_digest
from nofreelunch.workspace import find_device, read_json, to_json, versions

FORMAT = 2
_BATCH = 200  # images attacked at a time
_PATIENCE = 120.0  # seconds in which a process on a lost node has noticed that it is to end
_ASK_AGAIN = 0.5  # seconds


@dataclass(frozen=True)
class Task:
    """A point, and where it is worked on.

    Args:
        point: what.
        source: of its data set, as `load_data` takes it from any working directory.
        data_digest: of the data set, which must be the same on each machine.
        root: the sweep's folder; on Ray one that all machines share.
        data_root: as for `load_data`.
        device: as for `train`.
        save_seconds: as for `train`.
        own_files_digest: of the user's files that its training begins with, likewise; "" for none.
    """

    point: Point
    source: str
    data_digest: str
    root: Path
    data_root: Path | None = None
    device: str = "auto"
    save_seconds: float = 60.0
    own_files_digest: str = ""

    @cached_property
    def name(self) -> str:
        """Name of the point's folder: it says what was trained, on which data, from which weights."""
        return self.point.training_digest(self.data_digest, self.own_files_digest)[:16]

    @property
    def folder(self) -> Path:
        """The point's folder."""
        return self.root / "points" / self.name

    @property
    def training(self) -> Path:
        """The folder of its training."""
        return self.folder / "training"

    @property
    def trained(self) -> bool:
        """Whether its model is there, whole."""
        return (self.training / MODEL).with_suffix(".json").exists()

    @property
    def result(self) -> Path:
        """The file that is there when all is done."""
        return self.folder / f"result-{self.point.exam.digest[:16]}.json"


@dataclass(frozen=True)
class Score:
    """A trained model within one threat; `verdict` is that of `evaluate`, "" where one attack alone was run."""

    threat: Threat
    clean: Tally
    robust: Tally
    verdict: str


def work(task: Task, report: Report = silent) -> None:
    """Train the task's model, examine it, and write its result; go on where this was stopped, do nothing twice.

    Raises:
        InputError: if data or first weights are others than those of the sweep, or the settings do not suit the data.
        RunError: if the training fails, or nothing can be written.
    """
    if task.result.exists():
        return
    with _held(task.folder):
        data, exam = load(task.source, task.data_root), task.point.exam
        if data.digest != task.data_digest:
            raise InputError(
                f"{task.point.data} is other data here than where the sweep was started; bring it up to date"
            )
        start = time.monotonic()
        model = _model(task, data, report)
        scores = [_score(model, data.test, exam, threat, task.folder) for threat in exam.threats]
        about = {
            "format": FORMAT,
            "config": task.point.config,
            "data": {"name": data.name, "digest": data.digest},
            "exam": exam,
            "scores": scores,
            "held_out": dict(model.card.metrics),
            "seconds": time.monotonic() - start,
            "device": str(next(model.parameters()).device),
            "versions": versions(),
        }
        atomic_write(task.result, to_json(about))


def read_scores(task: Task) -> tuple[Score, ...]:
    """What `work` found.

    Raises:
        InputError: if the result is missing or damaged.
    """
    content = read_json(task.result)
    try:
        if content["format"] != FORMAT:
            raise ValueError
        return tuple(
            Score(from_plain(each["threat"]), Tally(**each["clean"]), Tally(**each["robust"]), each["verdict"])
            for each in content["scores"]
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{task.result} is not a result of this version; delete it and run again") from None


@lru_cache(maxsize=2)
def load(spec: str, root: Path | None) -> Dataset:
    """The data set, kept in memory for the next point."""
    return load_data(spec, root)


def wherever(data: str) -> str:
    """The same data set or model, if it is the user's own file, by its absolute path."""
    kind, _, path = data.partition(":")
    if kind in FORMATS and path:
        return f"{kind}:{Path(path).expanduser().absolute()}"
    return str(Path(data).expanduser().absolute()) if data.endswith(PACKED) else data


def located(point: Point) -> Point:
    """The same point from any working directory."""
    return replace(point, config=replace(point.config, start=wherever(point.config.start)))


def _model(task: Task, data: Dataset, report: Report) -> Classifier:
    """The task's model, trained or, if it has been, loaded; in either case as it was saved, and on the device."""
    if not task.trained:
        start, arch = task.point.config.start, task.point.config.arch
        if own_files_digest(start, arch) != task.own_files_digest:
            raise InputError(f"{start or arch} is another one here than where the sweep was started")
        train(data, task.point.config, task.training, task.device, report, task.save_seconds)
    try:
        model = load_file(task.training / MODEL, own_code=task.point.config.arch)
    except InputError as error:
        raise InputError(f"{error}; remove {task.training} to have it trained again") from None
    return model.to(find_device(task.device))


def _score(model: Classifier, split: Split, exam: Exam, threat: Threat, folder: Path) -> Score:
    """One examination."""
    index = torch.randperm(len(split), generator=torch.Generator().manual_seed(exam.seed))[: exam.n].sort().values
    if exam.attack is not None:
        attack = ATTACKS[exam.attack](threat)
        clean, robust = accuracies(model, fast(model), Examples(split, index, _BATCH), threat, attack, exam.seed)
        return Score(threat, clean, robust, "")
    assert exam.protocol is not None
    out = folder / f"evaluation-{exam.digest[:16]}-{threat.norm}-{threat.eps}"
    found = evaluate(model, split.select(index), threat, exam.protocol, exam.seed, out=out)
    found.save(out / "evaluation.json")
    return Score(threat, found.clean, found.robust, found.verdict)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the point for this process; one that is about to end on a lost node is waited for."""
    deadline = time.monotonic() + _PATIENCE
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(folder))
                break
            except InUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_ASK_AGAIN)
        yield
