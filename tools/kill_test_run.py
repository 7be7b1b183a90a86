"""One run of `kill_test.py`: a small training that tells its steps, and at most one fault put into it.

    python tools/kill_test_run.py OUT standard|linf|l2 [FAULT:N]

The fault happens the N-th time that its place is passed.
"""

import builtins
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from nofreelunch.data import Dataset, load_data
from nofreelunch.errors import RunError
from nofreelunch.threats import L2, Linf
from nofreelunch.training import TrainConfig, log, loop, train
from nofreelunch.training.events import Event
from nofreelunch.training.learner import Learner

THREATS = {"standard": None, "linf": Linf(0.1), "l2": L2(1.0)}
IMAGES = 512


def die(*args: object, **kwargs: object) -> NoReturn:
    """Kill -9 of this very process: nothing after this is done, no block is left tidily."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class At:
    """A function, with another one called in its place the n-th time."""

    def __init__(self, real: Callable[..., Any], instead: Callable[..., Any], n: int) -> None:
        self.real, self.instead, self.left = real, instead, n

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The real function, or the other."""
        self.left -= 1
        return (self.real if self.left else self.instead)(*args, **kwargs)

    def __get__(self, owner: Any, kind: type | None = None) -> Callable[..., Any]:
        """As a method."""
        return partial(self, owner)


def after(real: Callable[..., Any]) -> Callable[..., NoReturn]:
    """The real function, and then death."""

    def call(*args: Any, **kwargs: Any) -> NoReturn:
        real(*args, **kwargs)
        die()

    return call


class Short:
    """A file that takes half of what is written to it, then `end` comes."""

    def __init__(self, file: Any, end: Callable[[], NoReturn]) -> None:
        self.file, self.end = file, end

    def __enter__(self) -> "Short":
        return self

    def __exit__(self, *ignored: object) -> None:
        self.file.close()

    def write(self, content: Any) -> NoReturn:
        """Half of it."""
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.end()


def no_space() -> NoReturn:
    """What the system says when the disk is full."""
    raise OSError(28, "No space left on device")


def put_in(fault: str, n: int) -> None:
    """Put the fault into this process."""
    fdopen, replace, opened = os.fdopen, os.replace, builtins.open
    places: dict[str, tuple[Any, str, Callable[..., Any]]] = {
        "before-open": (tempfile, "mkstemp", die),
        "after-open": (tempfile, "mkstemp", after(tempfile.mkstemp)),
        "half-written": (os, "fdopen", lambda *args: Short(fdopen(*args), die)),
        "before-fsync": (os, "fsync", die),
        "before-rename": (os, "replace", die),
        "after-rename": (os, "replace", after(replace)),
        "during-look": (loop, "attack", die),
        "during-log": (log, "open", lambda *args, **kwargs: Short(opened(*args, **kwargs), die)),
        "during-resume": (Learner, "restore", die),
        "one-of-two": (loop.Loop, "update", die),
        "disk-full": (os, "fdopen", lambda *args: Short(fdopen(*args), no_space)),
    }
    if fault == "between-pairs":  # four renames a save: the second ends the copy of the old pair
        fault, n = "after-rename", 4 * n + 2
    if fault == "one-of-two" and os.environ["RANK"] == "0":
        return
    module, name, instead = places[fault]
    setattr(module, name, At(getattr(module, name, opened), instead, n))


def data() -> Dataset:
    """The first images of MNIST."""
    whole = load_data("mnist")
    return Dataset(
        "mnist-part", whole.classes, whole.mean, whole.std, whole.train.take(IMAGES), whole.test.take(IMAGES)
    )


def tell(event: Event) -> None:
    """The event and its step, for `kill_test.py`."""
    print(event.event, event.step, flush=True)


def main(out: str, task: str, fault: str = "") -> int:
    """Train; the exit code is that of `nofreelunch train`."""
    torch.set_num_threads(1)
    images = data()
    threat = THREATS[task]
    config = TrainConfig(
        arch="mnist-cnn-small",
        threat=threat,
        attack="pgd-5" if threat else None,
        epochs=3,
        batch_size=32,
        ema=0.9,
        augment="crop",
        holdout=0.25,
    )
    if fault:
        name, n = fault.split(":")
        put_in(name, int(n))
    try:
        train(images, config, out=Path(out), device="cpu", report=tell, save_seconds=0.0)
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
