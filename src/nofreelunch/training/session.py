"""Carrying a loop to its end: telling, keeping, and stopping when asked."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nofreelunch.attacks.door import out_of_memory
from nofreelunch.errors import RunError, reason
from nofreelunch.training.events import Notice, Report
from nofreelunch.training.folder import Folder
from nofreelunch.training.loop import Loop
from nofreelunch.training.signals import NotedSignals
from nofreelunch.training.watch import overfitting

_DEVICE_ERROR: type[Exception] = getattr(torch, "AcceleratorError", RuntimeError)  # torch before 2.8 has no name for it
_GLOO = "gloo/transport"  # what errors of the connection between processes speak of on CPUs


def run(loop: Loop, report: Report, folder: Folder | None, signals: NotedSignals, save_seconds: float) -> None:
    """Make all steps and validations that are left.

    Args:
        loop: goes on from where its learner is.
        folder: where the state is kept; None keeps nothing.
        signals: one that arrives is answered after the step: the state is saved and the signal delivered.
        save_seconds: the state is saved this often, after each validation, and at the end.

    Raises:
        RunError: if the loss or a weight is not a number, the disk is full or the device fails.
    """
    saved_at = time.monotonic()
    while not loop.finished:
        validating = loop.validation_due
        with _failures_named(loop, folder):
            if validating:
                _validate(loop, report)
            else:
                report(loop.update())
            due = time.monotonic() - saved_at >= save_seconds  # by this process's clock, which is no other's
            asked = loop.devices.largest(2 * signals.signum + due)
            signum = asked // 2
            if asked or validating or loop.finished:
                if folder is not None and loop.devices.is_main:
                    folder.save()
                loop.devices.barrier()
                saved_at = time.monotonic()
        if signum:
            signals.deliver(signum)


def _validate(loop: Loop, report: Report) -> None:
    report(loop.validate())
    history = loop.learner.history
    finding = overfitting(history) if loop.config.threat else None
    if finding:
        report(Notice(loop.learner.step, finding))


@contextmanager
def _failures_named(loop: Loop, folder: Folder | None) -> Iterator[None]:
    """A failure of the run says where one can go on from."""
    try:
        yield
    except RuntimeError as error:
        failure = _explained(error, loop.learner.step + 1)
        if failure is None:
            raise
        rest = folder.last_good if folder else "no state was kept, as no folder was given"
        raise RunError(f"{failure}; {rest}") from error


def _explained(error: RuntimeError, step: int) -> str | None:
    """What has failed in this step; None for what only a mistake of ours explains."""
    if isinstance(error, RunError):
        return str(error)
    if isinstance(error, torch.distributed.DistError) or _GLOO in str(error):
        return f"another process of this run ended, or cannot be reached any more, at step {step}; start it again"
    if out_of_memory(error):
        return f"the device is out of memory at step {step}; a larger accumulate needs less"
    if isinstance(error, _DEVICE_ERROR):
        return f"the device failed at step {step} ({reason(error)})"
    return None
