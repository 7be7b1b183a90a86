"""Carrying a loop to its end: telling, keeping, and stopping when asked."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nofreelunch.errors import RunError
from nofreelunch.training.events import Notice, Report
from nofreelunch.training.folder import Folder
from nofreelunch.training.loop import Loop
from nofreelunch.training.signals import NotedSignals
from nofreelunch.training.watch import overfitting

_DEVICE_ERROR: type[Exception] = getattr(torch, "AcceleratorError", RuntimeError)  # torch before 2.8 has no name for it


def carry_on(loop: Loop, report: Report, folder: Folder | None, signals: NotedSignals, save_seconds: float) -> None:
    """Make all steps and looks that are left.

    Args:
        loop: goes on from where its learner is.
        report: called with each event.
        folder: where the state is kept; None keeps nothing.
        signals: one that arrives is answered after the step: the state is saved and the signal delivered.
        save_seconds: the state is saved this often, after each look, and at the end.

    Raises:
        RunError: if the loss or a weight is not a number, the disk is full or the device fails.
    """
    saved_at = time.monotonic()
    while not loop.finished:
        looking = loop.look_due
        with _failures_named(loop, folder):
            if looking:
                _look(loop, report)
            else:
                report(loop.update())
            signum = loop.devices.largest(signals.signum)
            if signum or looking or loop.finished or time.monotonic() - saved_at >= save_seconds:
                if folder is not None and loop.devices.leads:
                    folder.save()
                loop.devices.wait()
                saved_at = time.monotonic()
        if signum:
            signals.deliver(signum)


def _look(loop: Loop, report: Report) -> None:
    report(loop.look())
    history = loop.learner.history
    finding = overfitting(history) if loop.config.threat else None
    if finding:
        report(Notice(loop.learner.step, finding))


@contextmanager
def _failures_named(loop: Loop, folder: Folder | None) -> Iterator[None]:
    """A failure of the run says where one can go on from."""
    rest = folder.last_good if folder else "no state was kept, as no folder was given"
    try:
        yield
    except RunError as error:
        raise RunError(f"{error}; {rest}") from error
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the device is out of memory at step {loop.learner.step + 1}; a larger accumulate needs less; {rest}"
        ) from error
    except _DEVICE_ERROR as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the device failed at step {loop.learner.step + 1} ({reason}); {rest}") from error
