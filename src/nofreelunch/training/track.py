"""The course of a run for TensorBoard: `train --track`, then `tensorboard --logdir runs`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nofreelunch.errors import needed
from nofreelunch.training.events import Epoch, Event, Report, Started, Step
from nofreelunch.training.log import EVERY
from nofreelunch.workspace import plain

_SCALARS = {Step: ("loss", "accuracy", "lr", "eps"), Epoch: ("clean", "robust", "train_accuracy")}


@contextmanager
def tracked(folder: Path, report: Report) -> Iterator[Report]:
    """`report`, and beside it the numbers of the events in a file of TensorBoard's in the folder.

    What an earlier process told of later steps than the one that the run goes on from is struck out.

    Raises:
        InputError: if TensorBoard is not installed.
    """
    needed("tensorboard", "--track", "track")
    from torch.utils.tensorboard import SummaryWriter

    writers: list[Any] = []

    def told(event: Event) -> None:
        report(event)
        if isinstance(event, Started):
            writers.append(SummaryWriter(str(folder), purge_step=event.step + 1))
        if isinstance(event, Step) and event.step % EVERY:
            return
        values = plain(event)
        for name in _SCALARS.get(type(event), ()):
            writers[-1].add_scalar(f"{event.event}/{name}", values[name], event.step)

    try:
        yield told
    finally:
        for writer in writers:
            writer.close()
