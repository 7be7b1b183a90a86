"""How a run is shown: a moving bar on a terminal, plain lines elsewhere. It only looks at events, and at the clock."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from nofreelunch.training.events import Epoch, Event, Finished, Notice, Report, Started, Step

_FIRST_STEPS = 5  # before a time is estimated
_BAR_WIDTH = 16  # characters: the rest of 80 is for numbers
_LINE_SECONDS = 30.0  # between two lines about steps in a log


class Pace:
    """How fast a run goes, and how long it will take.

    The steps after the first count: that one is slow where something is compiled.

    Args:
        clock: seconds from any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.started: Started | None = None
        self._first: tuple[int, float] | None = None
        self.steps = 0

    def follow(self, event: Event) -> None:
        """Take notice of an event."""
        if isinstance(event, Started):
            self.started, self._first, self.steps = event, None, 0
        elif isinstance(event, Step):
            self.steps += 1
            self._last = event.step, self._clock()
            self._first = self._first or self._last

    @property
    def seconds_per_step(self) -> float:
        """On average since the first step of this process; validation included. 0 while unknown."""
        if self._first is None or self._first[0] == self._last[0]:
            return 0.0
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])

    @property
    def images_per_second(self) -> float:
        """Trained on; 0 while unknown."""
        return self.started.batch_size / self.seconds_per_step if self.started and self.seconds_per_step else 0.0

    @property
    def seconds_left(self) -> float:
        """At this pace; 0 while unknown."""
        return (self.started.steps - self._last[0]) * self.seconds_per_step if self.started and self._first else 0.0


@contextmanager
def shown(console: Console) -> Iterator[Report]:
    """A report that shows a run for the time of the block: a moving bar on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield _lines(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        return
    columns = (BarColumn(_BAR_WIDTH), TaskProgressColumn(), TextColumn("{task.fields[about]}"))
    with Progress(*columns, console=console) as bar:
        yield _bar(bar)


def _lines(say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Report:
    """A report in lines: steps only now and then."""
    pace, said = Pace(clock), [clock()]

    def report(event: Event) -> None:
        pace.follow(event)
        if isinstance(event, Step):
            if pace.steps == _FIRST_STEPS:
                say(f"about {duration(pace.seconds_left)} to go, at {pace.images_per_second:.0f} images/s")
            if clock() - said[0] < _LINE_SECONDS:
                return
            said[0] = clock()
        say(sentence(event, pace))

    return report


def _bar(bar: Progress) -> Report:
    """A report that moves a bar; what is more than a step is a line above it."""
    pace, task = Pace(), bar.add_task("training", total=None, about="")

    def report(event: Event) -> None:
        pace.follow(event)
        if isinstance(event, Step):
            bar.update(task, completed=event.step, about=_short(event, pace))
        else:
            bar.console.print(sentence(event, pace), markup=False, highlight=False)
        if isinstance(event, Started):
            bar.update(task, total=event.steps, completed=event.step)

    return report


def sentence(event: Event, pace: Pace) -> str:
    """An event in words."""
    adversary = pace.started is None or pace.started.eps > 0
    match event:
        case Started():
            if event.step == event.steps:
                return f"all {event.steps} steps of this run were made before"
            where = f"goes on after step {event.step} of {event.steps}" if event.step else f"{event.steps} steps"
            exact = "" if event.deterministic else "; not deterministic: a resumed run may differ by rounding"
            return (
                f"training {where}, {event.epochs:g} epochs of {event.images} images, {event.batch_size} a step, "
                f"{event.weights} weights, {event.held_out} images held out{exact}"
            )
        case Step():
            attack = (
                f" under attack {event.accuracy:.1%}  eps {event.eps:.4g}" if adversary else f" {event.accuracy:.1%}"
            )
            return (
                f"epoch {event.epoch:.2f}  loss {event.loss:.4f}  accuracy{attack}  rate {event.lr:.2e}  "
                f"{pace.images_per_second:.0f} images/s  {duration(pace.seconds_left)} left"
            )
        case Epoch():
            robust = f", robust {event.robust:.2%}" if adversary else ""
            return f"epoch {event.epoch:.2f}: held-out images: clean {event.clean:.2%}{robust}"
        case Notice():
            return f"notice at step {event.step}: {event.message}"
        case Finished():
            best, kind = event.chosen, "robust" if adversary else "clean"
            which = f"the weights of epoch {best.epoch:.2f} ({kind} {best.robust:.2%})" if best else "the last weights"
            return f"finished after {event.step} steps: {which}"


def _short(event: Step, pace: Pace) -> str:
    """A step beside a bar."""
    left, speed = duration(pace.seconds_left), f"{pace.images_per_second:.0f} images/s"
    return f"{left} left  loss {event.loss:.4f}  accuracy {event.accuracy:.1%}  {speed}"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(75), duration(4000)
    ('1 min 15 s', '1 h 6 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """Bytes in words.

    >>> size(3 * 2**20), size(5 * 2**29)
    ('3 MiB', '2.5 GiB')
    """
    return f"{count / 2**20:.3g} MiB" if count < 2**30 else f"{count / 2**30:.3g} GiB"
