"""Training a model from a config and a data set; resumable where it is given a folder."""

import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from nofreelunch.data import Dataset
from nofreelunch.errors import InputError
from nofreelunch.models import Classifier, save_model
from nofreelunch.output import locked
from nofreelunch.training.average import average_of
from nofreelunch.training.config import TrainConfig
from nofreelunch.training.devices import Devices
from nofreelunch.training.events import Event, Finished, Notice, Report, Started, silent
from nofreelunch.training.folder import MODEL, Folder
from nofreelunch.training.learner import Learner
from nofreelunch.training.loop import Loop
from nofreelunch.training.optimisers import optimiser
from nofreelunch.training.session import run
from nofreelunch.training.signals import NotedSignals
from nofreelunch.training.start import check_learns, code_digest, initial_model, start_digest
from nofreelunch.types import pixels
from nofreelunch.workspace import find_device, plain


def train(
    data: Dataset,
    config: TrainConfig,
    out: Path | str | None = None,
    device: str = "auto",
    report: Report | None = None,
    save_seconds: float = 60.0,
) -> Classifier:
    """A classifier trained on the data set's training images, in evaluation mode.

    Minimises equation (2) of Tsipras et al. 2018 (equation (1) without a threat). The same config and data give the
    same model, bit for bit on the same CPU, however often the run was stopped.

    Args:
        data: its training split is used, its test split never.
        out: a folder for state, log and model; a run that was stopped there goes on, one that is finished is not
            repeated. None keeps nothing.
        device: "auto", "cpu", "cuda" or "cuda:1". Under `torchrun` or SLURM the processes share each batch.
        report: called with each event; None turns notices into warnings.
        save_seconds: the state is saved this often, and after each epoch.

    Raises:
        InputError: if config and data do not go together, or `out` holds another run or is in use.
        RunError: if the loss is not a number, the disk is full or the device fails; it names the last good state.
        KeyboardInterrupt: after Ctrl-C, once the state is saved; SIGTERM is likewise handed on to its own handler.
    """
    loop = fresh_loop(data, config, device)
    learner, devices = loop.learner, loop.devices
    report = (report or _warn) if devices.is_main else silent
    with ExitStack() as held:
        folder, signals = None, NotedSignals()
        if out is not None:
            if devices.is_main:
                held.enter_context(locked(Path(out)))
            held.enter_context(signals)
            about = {
                "config": plain(config),
                "data": data.digest,
                "start": start_digest(config.start),
                "code": code_digest(config.arch),
            }
            folder = Folder(Path(out), about, learner)
            report = _resume(folder, loop, report)
        report(_started(loop))
        for caution in config.cautions:
            report(Notice(learner.step, caution))
        run(loop, report, folder, signals, save_seconds)
        report(Finished(learner.step, learner.chosen))
        model = _result(data, config, learner)
        if folder is not None and devices.is_main:
            save_model(model, folder.path / MODEL)
    return model


def fresh_loop(data: Dataset, config: TrainConfig, device: str) -> Loop:
    """The loop before its first step.

    Raises:
        InputError: if this is no data set or no config, they do not go together, or there is no such device.
    """
    if not isinstance(data, Dataset):
        raise InputError(f'data must be a Dataset, such as load_data("mnist"), got {type(data).__name__}')
    if not isinstance(config, TrainConfig):
        raise InputError(f"config must be a TrainConfig, got {type(config).__name__}")
    devices = Devices(find_device(device), config.precision)
    return Loop(config, data.train, devices, fresh_learner(data, config, devices))


def fresh_learner(data: Dataset, config: TrainConfig, devices: Devices) -> Learner:
    """The learner before the first step; all its numbers are functions of config and data.

    Raises:
        InputError: if these do not go together.
    """
    _check(data, config, devices)
    model = initial_model(data, config)
    check_learns(model, pixels(data.train.x[:2]), config)
    model = model.to(memory_format=torch.channels_last).to(devices.device)
    carries = config.method.carry is not None
    return Learner(
        model=model,
        optimiser=optimiser(config.optimiser, model, config.weight_decay),
        average=average_of(model) if config.ema else None,
        delta=torch.zeros(config.batch_size, *data.train.x.shape[1:], device=devices.device) if carries else None,
    )


def _check(data: Dataset, config: TrainConfig, devices: Devices) -> None:
    shares = config.accumulate * devices.processes
    if config.batch_size % shares:
        raise InputError(
            f"batch_size {config.batch_size} cannot be cut into {shares} equal parts "
            f"(accumulate={config.accumulate} x {devices.processes} processes)"
        )
    data.for_training()
    if len(data.train) < 2 or config.batch_size > len(data.train):
        allowed = f"at most the number of training images, {len(data.train)}"
        at_least = ", of which there must be two or more" if len(data.train) < 2 else ""
        raise InputError(f"batch_size must be {allowed}{at_least}, got {config.batch_size}")
    if config.threat is not None:
        config.threat.check_reach(data.train.x, data.name)


def _resume(folder: Folder, loop: Loop, report: Report) -> Report:
    """Go on from the last whole state; `report`, which from now on is logged too, if there is anything left to do."""
    complaints, step, devices = folder.resume(), folder.learner.step, loop.devices
    if devices.largest(step) != -devices.largest(-step):
        raise InputError(f"--out {folder.path} must be one folder for all processes; they find different steps there")
    if not devices.is_main:
        return report
    folder.remove_leftovers()
    folder.check_room(loop.config)
    if not loop.finished:
        report = folder.logging(report)
    for complaint in complaints:
        report(Notice(folder.learner.step, complaint))
    return report


def _started(loop: Loop) -> Started:
    return Started(
        step=loop.learner.step,
        steps=loop.steps,
        epochs=loop.config.epochs,
        images=len(loop.trained),
        batch_size=loop.config.batch_size,
        held_out=len(loop.held_out),
        weights=sum(parameter.numel() for parameter in loop.learner.model.parameters()),
        deterministic=loop.devices.device.type == "cpu" or torch.are_deterministic_algorithms_enabled(),
        eps=loop.config.threat.eps if loop.config.threat else 0.0,
    )


def _result(data: Dataset, config: TrainConfig, learner: Learner) -> Classifier:
    """The model of the chosen epoch, with its card."""
    model, chosen = learner.result, learner.chosen
    if chosen is not None:
        model.load_state_dict(learner.best)
    metrics = (
        {"held_out_clean": chosen.clean, "held_out_robust": chosen.robust, "epoch": chosen.epoch} if chosen else {}
    )
    model.card = replace(
        model.card,
        data=data.name,
        threat=str(config.threat or ""),
        recipe=plain(config),
        seed=config.seed,
        metrics=metrics,
    )
    return model.to(memory_format=torch.contiguous_format).requires_grad_(True).eval()


def _warn(event: Event) -> None:
    if isinstance(event, Notice):
        warnings.warn(event.message, stacklevel=2)
