"""An evaluation under way: examples go through attacks, the model judges what comes out, the board keeps score."""

import zlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from nofreelunch.attacks import Attack, margin, misclassified
from nofreelunch.attacks.door import Precise
from nofreelunch.errors import RunError
from nofreelunch.evaluation.board import CLEAN, STANDING, Some
from nofreelunch.evaluation.journal import Journal
from nofreelunch.evaluation.remedies.switches import Switches, switches
from nofreelunch.evaluation.source import Source, batches
from nofreelunch.evaluation.subject import Subject, attempted
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, expand
from nofreelunch.types import Inputs, Labels, Mask, Model, PerExample

if TYPE_CHECKING:
    from nofreelunch.evaluation.catalogue import Remedy

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Told the step, how many examples it is through with, and of how many."""

FINAL = "final draws"
_EXAMPLES = "examples.npy"
_SELECTING, _JUDGING = 20, 100
"""Draws of a randomised model: to choose between two points, and for the figure of the one chosen."""
_SHOWING = 16
"""So many examples show by what a model switches."""
_ROUNDING = 4 * torch.finfo(torch.float32).eps
"""So far, relative to the largest coordinate, rounding may lead out of ball and box."""


class Trial:
    """Everything that the steps of an evaluation share.

    Args:
        subject: the model.
        source: the examples.
        threat: what the adversary may do.
        seed: of all streams.
        batch: examples at a time.
        journal: keeps the score; the worst points lie in its folder, if they are kept and it has one.
        progress: is told.
        keep_examples: whether to keep the worst points found.

    Attributes:
        board: the score.
        view: what attacks look at; at first the model, differentiable.
        examples: the worst points, (n, ...), if they are kept.
        randomised: whether answers are means over draws.
        failed: remedies under which the model's code has failed, by name, and how.
        suspicious: whether there is anything odd about the model; then attacks give no example up.
        remedies: what can be tried on this model, by name; None before it was asked for.
    """

    def __init__(
        self,
        subject: Subject,
        source: Source,
        threat: Threat,
        seed: int,
        batch: int,
        *,
        journal: Journal,
        progress: Progress,
        keep_examples: bool,
    ) -> None:
        self.subject, self.source, self.threat, self.seed, self.batch = subject, source, threat, seed, batch
        self.board, self.journal, self.progress, self.keep_examples = journal.board, journal, progress, keep_examples
        self.examples = _storage(source, journal.folder) if keep_examples else None
        self.view: Model = subject.differentiable
        self.failed = journal.once("failed", dict[str, str])  # one object, saved with the rest as it fills
        self.randomised, self.suspicious = False, False
        self.remedies: dict[str, Remedy] | None = None

    def randomise(self) -> None:
        """Take the answers as means over draws from now on; the worst points are kept, to be judged at the end."""
        self.randomised = True
        if self.examples is None:
            self.examples = _storage(self.source, self.journal.folder)

    @property
    def query(self) -> Model:
        """The model where no slope is asked for: its fast version, if that is what attacks look at, or itself."""
        return self.view if isinstance(self.view, Precise) else self.subject.logits

    @cached_property
    def switches(self) -> list[Switches]:
        """The numbers by which the model may switch, as a few examples show them."""
        x = self.load(self.some(_SHOWING))[0]
        return self.attempted("switches", lambda: switches(self.subject, self.threat, x, self.batch)) or []

    def attempted(self, remedy: str, compute: Callable[[], T]) -> T | None:
        """What comes out; None if the model's code fails under it, which is written down."""
        return attempted(compute, partial(self.failed.__setitem__, remedy))

    def load(self, index: Labels) -> tuple[Inputs, Labels]:
        """Some examples, on the model's device."""
        return self.source.images(index).to(self.subject.device), self.source.y[index].to(self.subject.device)

    def streams(self, index: Labels, purpose: str) -> Streams:
        """The examples' random numbers for one purpose; they depend on nothing but seed, content and purpose."""
        keyed = Streams.for_examples(self.seed, self.source.keys[index])
        return keyed.fork(zlib.crc32(purpose.encode())).to(self.subject.device)

    def sample(self, index: Labels, count: int) -> Some:
        """At most so many of the examples, evenly spread."""
        return index if len(index) <= count else index[torch.linspace(0, len(index) - 1, count).long()]

    def some(self, count: int) -> Some:
        """At most so many of all examples, evenly spread."""
        return self.sample(torch.arange(len(self.source)), count)

    def clean(self) -> None:
        """Judge the examples as they are."""
        self.board.enter(CLEAN)
        index = self.journal.remaining(CLEAN, torch.arange(len(self.source)))
        for part in batches(index, self.batch):
            self.journal.begin(CLEAN, int(part[0]))
            x, y = self.load(part)
            right, margins = self.answers(x, y, _JUDGING)
            self.board.clean_right[part], self.board.clean_margin[part] = right, margins
            self.board.record(CLEAN, part, right, margins, torch.ones_like(right, dtype=torch.bool))
            self._keep(part, x)
            self._through(CLEAN, part, index)

    def attack(self, step: str, attack: Attack, part: str = "", among: Labels | None = None) -> None:
        """Attack every example that is still standing; those that break are out of all further batches.

        Args:
            step: its name.
            attack: any.
            part: a further name where a step is made of several attacks.
            among: the examples that it is about; None: all.
        """
        self.board.enter(step)
        standing = self.board.standing()
        standing = standing if among is None else standing[torch.isin(standing, among)]
        index = self.journal.remaining(step + part, standing)
        for rows in batches(index, self.batch):
            self.journal.begin(step, part, int(rows[0]))
            x, y = self.load(rows)
            z = attack(self.view, x, y, self.streams(rows, step + part))
            self.settle(step, rows, (x, y), z)
            self._through(step + part, rows, index)

    def settle(self, step: str, index: Labels, examples: tuple[Inputs, Labels], z: Tensor) -> None:
        """Judge the points that an attack returned, as they would be stored: only here are examples broken."""
        x, y = examples
        stored, legal = _stored(z, x, self.threat)
        self.board.dropped += len(torch.unique(index[~legal.cpu()]))
        stored = torch.where(expand(legal, x), stored, x)
        right, margins = self.answers(stored, y, _SELECTING)
        better = legal.cpu() & (right < self.board.right[index])
        if self.randomised and better.any():  # what was chosen for being low is judged by other draws
            chosen = better.to(stored.device)
            right[better] = self.answers(stored[chosen], y[chosen], _JUDGING)[0]
            better &= right < self.board.right[index]
        farther = legal.cpu() & (margins > self.board.margin[index])
        self.board.record(step, index, right, torch.where(legal.cpu(), margins, -torch.inf), better)
        kept = better | (farther & (self.board.right[index] > 0.5))
        self._keep(index[kept], stored[kept.to(stored.device)])

    def final(self) -> None:
        """Judge the worst points by fresh draws: what was chosen for being low is not as low as it looked."""
        assert self.examples is not None
        index = self.journal.remaining(FINAL, torch.arange(len(self.source)))
        for part in batches(index, self.batch):
            self.journal.begin(FINAL, int(part[0]))
            z = self.examples[part].to(self.subject.device)
            self.board.right[part] = self.answers(z, self.load(part)[1], _JUDGING)[0]
            self._through(FINAL, part, index)
        if self.board.right.sum() > self.board.clean_right.sum():  # an adversary that changes nothing does better
            self.board.right.copy_(self.board.clean_right)
        self.board.broken_by[self.board.right >= 0.5] = STANDING

    def answers(self, z: Inputs, y: Labels, draws: int) -> tuple[PerExample, PerExample]:
        """How often the model is right about each point, and its mean margin; one call unless it is randomised."""
        draws = draws if self.randomised else 1
        total = [torch.zeros(len(z)), torch.zeros(len(z))]
        if len(z) == 1:
            return tuple(value[:1] for value in self.answers(z.repeat_interleave(2, 0), y.repeat(2), draws))  # type: ignore[return-value]
        for _ in range(draws):
            logits = self.subject.logits(z)
            total[0] += (~misclassified(logits, y)).cpu().float()
            total[1] += margin(logits, y).cpu().float().nan_to_num(nan=torch.inf)
        return total[0] / draws, total[1] / draws

    def reached(
        self, attack: Attack, index: Labels, purpose: str, view: Model | None = None, threat: Threat | None = None
    ) -> tuple[Inputs, PerExample]:
        """What an attack makes of some examples, and how often the model is right there.

        What it breaks within the evaluation's own threat is noted, and counts only after all attacks: which of them run
        does not depend on it.

        Args:
            attack: any.
            index: the examples.
            purpose: names their random numbers.
            view: what the attack looks at; None: what all do.
            threat: outside of it the model counts as always right; None: the evaluation's own.
        """
        view, threat = self.view if view is None else view, threat or self.threat
        points, found = [self.load(index[:0])[0]], [torch.zeros(0)]
        for rows in batches(index, self.batch):
            x, y = self.load(rows)
            z = attack(view, x, y, self.streams(rows, purpose)).float()
            legal = threat.contains(z, x).cpu()
            right, margins = self.answers(z, y, _SELECTING)
            right = torch.where(legal, right, 1.0)
            if threat == self.threat and not self.randomised:
                self._note(rows, right, margins, z)
            points.append(z)
            found.append(right)
        return torch.cat(points)[: len(index)], torch.cat(found)[: len(index)]

    def breaks(self, attack: Attack, index: Labels, purpose: str, threat: Threat | None = None) -> Mask:
        """Which of some examples an attack breaks within a threat, by default the evaluation's own."""
        if len(index):
            self.progress(f"checks, {purpose}", 0, len(index))
        return self.reached(attack, index, purpose, threat=threat)[1] < 0.5

    def _note(self, index: Labels, right: PerExample, margins: PerExample, z: Inputs) -> None:
        """Keep in mind which of some examples a check has broken, and where."""
        new = (right < 0.5) & (self.board.right[index] >= 0.5) & ~self.board.seen_broken[index]
        if new.any():
            self.board.note(index[new], margins[new])
            self._keep(index[new], z[new.to(z.device)])

    def _keep(self, index: Labels, z: Inputs) -> None:
        if self.examples is not None:
            self.examples[index] = z.cpu()

    def _through(self, step: str, part: Some, index: Labels) -> None:
        self.journal.tried(step, part)
        self.progress(step, int(torch.searchsorted(index, part[-1])) + 1, len(index))


def _stored(z: Inputs, x: Inputs, threat: Threat) -> tuple[Inputs, Mask]:
    """The points as they would be stored, and which of them are allowed; what rounding has led out is brought back."""
    stored = z.detach().to(x.device, torch.float32).reshape(x.shape).clone()
    finite = stored.flatten(1).isfinite().all(1)
    legal = finite & threat.contains(stored.nan_to_num(), x)
    if not legal.all():
        inside = threat.project(stored.nan_to_num(), x.float())
        unit = _ROUNDING * torch.maximum(inside.abs(), x.abs()).flatten(1).amax(1)
        near = finite & ((inside - stored).abs().flatten(1).amax(1) <= unit)
        stored = torch.where(expand(near & ~legal, x), inside, stored)
        legal = finite & threat.contains(stored.nan_to_num(), x)
    return stored, legal


def _storage(source: Source, folder: Path | None) -> Tensor:
    """Room for a point (n, ...) per example; if there is a folder, a mapped file with what an earlier run left.

    Raises:
        RunError: if the folder cannot be written.
    """
    shape = (len(source), *source.images(torch.arange(1)).shape[1:])
    if folder is None:
        return torch.zeros(shape)
    path = folder / _EXAMPLES
    mode = "r+" if _shape_of(path) == shape else "w+"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return torch.from_numpy(np.lib.format.open_memmap(path, mode=mode, dtype=np.float32, shape=shape))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _shape_of(path: Path) -> tuple[int, ...] | None:
    """Of the array in a file, if there is one."""
    try:
        found: tuple[int, ...] = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return None
    return found
