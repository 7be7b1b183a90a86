"""The phases of an evaluation, in the order in which they run. Each leaves an outcome that a resumed run takes over."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from nofreelunch.attacks import APGD, Attack, ExactLinear, WorstOf
from nofreelunch.errors import InputError
from nofreelunch.evaluation.board import LOST, STANDING
from nofreelunch.evaluation.exact import is_affine
from nofreelunch.evaluation.guides.guided import Guided
from nofreelunch.evaluation.guides.plain import Averaged, Blind, Rescaled, SeeThrough
from nofreelunch.evaluation.protocols import Protocol, Recipe, numbered, relentless
from nofreelunch.evaluation.remedies import Remedy, least_gain, remedies, tried
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.trial import Trial
from nofreelunch.evaluation.trust import outputs, search
from nofreelunch.evaluation.trust.gradients import Slopes, gradient_flags, slopes
from nofreelunch.models import fast
from nofreelunch.types import Labels, Model

_PROBE = 24
_USUAL = (0.01, 1000.0)
"""Standard deviations of an example's logits between which losses are left to themselves."""
_TYPICAL = 4.0
"""The same of trained classifiers: what others are brought to. Softer losses climb towards all classes at once."""


def examine(trial: Trial) -> list[Flag]:
    """Ask the model a few questions, and settle how it is to be attacked."""
    subject = trial.subject

    def questions() -> dict[str, Any]:
        index = trial.sample(torch.arange(len(trial.source)), _PROBE)
        x, y = trial.load(index)
        probe = outputs.Probe(subject, x, y, trial.threat.random_start(x, trial.streams(index, "probe")))
        subject.stateful, flags = outputs.memory(probe)
        random = outputs.randomised(probe)
        checks = [check for check in outputs.CHECKS if not (random and check in outputs.COMPARING)]
        answers = (random, *(check(probe) for check in checks))
        flags += [flag for flag in answers if flag is not None]
        scale = float(subject.logits(x).double().std(1).nan_to_num(nan=0.0, posinf=0.0).median())
        return {"stateful": subject.stateful, "flags": [asdict(flag) for flag in flags], "scale": scale}

    outcome = trial.journal.once("questions", questions)
    subject.stateful = outcome["stateful"]
    flags = [Flag(**flag) for flag in outcome["flags"]]
    names = {flag.name for flag in flags}
    trial.randomised = "randomised" in names
    trial.view = _view(trial, names, outcome["scale"])
    return flags


def _view(trial: Trial, names: set[str], scale: float) -> Model:
    """What attacks differentiate: the fast version of a model that has shown nothing odd, and else the model itself."""
    subject = trial.subject
    view: Model = subject.differentiable
    if "not-differentiable" in names:
        view = Blind(subject)
    elif "watches-gradients" in names:
        view = SeeThrough(subject)
    elif not names and not subject.stateful and subject.dtype == torch.float32:
        view = fast(subject.working)
    if scale > 0 and not _USUAL[0] < scale < _USUAL[1]:
        view = Rescaled(view, scale / _TYPICAL)
    return Averaged(view) if trial.randomised else view


def exactly(trial: Trial) -> bool:
    """Whether the model is affine by construction; then its worst points are found in closed form."""

    def solve() -> bool:
        try:
            trial.attack("exact-linear", ExactLinear(trial.threat))
        except InputError:  # it is not affine in numbers: it overflows, or the box is unknown to the closed form
            return False
        return True

    plain = isinstance(trial.subject.working, torch.nn.Module) and trial.subject.dtype in (torch.float32, torch.float64)
    return plain and is_affine(trial.subject.working) and trial.journal.once("exact-linear", solve)


def run(trial: Trial, step: str, recipe: Recipe, classes: int) -> None:
    """One attack of a protocol, part by part."""

    def work() -> None:
        for number, part in _parts(trial, recipe, classes):
            trial.attack(step, part, number)

    trial.journal.once(step, work)


def _parts(trial: Trial, recipe: Recipe, classes: int) -> Iterator[tuple[str, Attack]]:
    """What a recipe runs; where anything is odd about the model, no example is given up."""
    for number, part in numbered(recipe(trial.threat), classes):
        yield number, relentless(part) if trial.suspicious else part


def scout(trial: Trial, protocol: Protocol, flags: list[Flag], classes: int) -> dict[str, int]:
    """Try the remedies on a sample; run those that break clearly more than the model's own gradient can on everything.

    Returns:
        How many more of the sample each of them broke.
    """
    steps = (protocol.probing, protocol.thorough)
    found: dict[str, Remedy] = {}

    def look() -> dict[str, Any]:
        index = trial.sample(trial.board.standing(), protocol.sample)
        suspicious = bool(flags) or trial.subject.stateful or bool(gradient_flags(_slopes(trial, index)))
        base = Guided(trial.threat, protocol.probing, guide=trial.view)
        found.update(remedies(trial, index, suspicious, steps))
        gains = tried(trial, found, index, base)
        if gains and not trial.randomised:
            gains = _beyond_own(trial, protocol, gains, len(index), classes)
        return {"gains": gains, "suspicious": suspicious, "sample": index.tolist()}

    if len(trial.board.standing()) == 0 and not trial.journal.knows("scouting"):
        return {}
    seen = trial.journal.once("scouting", look)
    gains: dict[str, list[int]] = seen["gains"]
    trial.suspicious = bool(seen["suspicious"] or gains)
    if gains and not found:  # a resumed run has taken over the outcome, and makes the remedies again
        found = remedies(trial, torch.tensor(seen["sample"]), seen["suspicious"], steps)
    for name in sorted(gains, key=lambda name: -len(gains[name])):
        # What a remedy was better at may have been broken by the one before it: then it is not run, if it has not been.
        left = (trial.board.right[gains[name]] > (LOST if trial.randomised else 0.5)).sum()
        if trial.journal.knows(name) or left >= least_gain(len(seen["sample"])):
            run(trial, name, _thorough(found[name]), classes)
    return {name: len(gained) for name, gained in gains.items()}


def _beyond_own(
    trial: Trial, protocol: Protocol, gains: dict[str, list[int]], total: int, classes: int
) -> dict[str, list[int]]:
    """The gains that the model's own gradient does not make up for with more steps: an honest model has none."""
    index = torch.tensor(sorted(set().union(*gains.values())))
    harder = (relentless(part) for _, part in numbered(protocol.harder(trial.threat), classes))
    longer = (APGD(trial.threat), *harder)
    lost = trial.breaks(WorstOf(longer), index, "own gradient", trial.view, trial.threat)
    made_up = set(index[lost].tolist())
    left = {name: [row for row in rows if row not in made_up] for name, rows in gains.items()}
    return {name: rows for name, rows in left.items() if len(rows) >= least_gain(total)}


def _thorough(remedy: Remedy) -> Recipe:
    """A remedy has been made for this threat."""
    return lambda threat: remedy.thorough


def _slopes(trial: Trial, index: Labels) -> Slopes:
    x, y = trial.load(index)
    near = [trial.threat.random_start(x, trial.streams(index, f"slopes {k}")) for k in range(2)]
    return slopes(trial.view, x, y, (near[0], near[1]), trial.threat)


def doubts(trial: Trial, protocol: Protocol, gains: dict[str, int], classes: int) -> list[Flag]:
    """Look at the examples that nothing has broken: is it the model, or the attacks?"""
    standing = trial.board.standing()
    if len(standing) == 0:
        return []
    index = trial.sample(standing, protocol.sample)
    flags = [] if trial.randomised else gradient_flags(_slopes(trial, index))
    flags += [flag for flag in (_more_steps(trial, protocol, index, classes), _whole_box(trial, index)) if flag]
    standing = trial.board.standing()
    rows = standing[trial.board.broken_by[standing] == STANDING]
    adds = torch.bincount(trial.board.broken_by[trial.board.broken_by >= 0].long(), minlength=len(trial.board.steps))
    found = (
        search.no_progress_flag(trial.board.clean_margin[rows], trial.board.margin[rows]) if len(rows) else None,
        search.black_box_flag(dict(zip(trial.board.steps, adds.tolist(), strict=True)), len(trial.board)),
        search.masked_flag(gains, trial.board.robust()),
    )
    return flags + [flag for flag in found if flag] if trial.board.robust().correct else []


def _more_steps(trial: Trial, protocol: Protocol, index: Labels, classes: int) -> Flag | None:
    """Twice the steps on the sample, and on everything if that breaks some of it."""
    board, step = trial.board, "more steps"

    def sampled() -> int:
        harder = WorstOf(tuple(part for _, part in _parts(trial, protocol.harder, classes)))
        return int(trial.breaks(harder, index, step, trial.view, trial.threat).sum())

    if trial.journal.once("convergence", sampled) < (1 if len(index) < 20 else 2):
        return None
    run(trial, step, protocol.harder, classes)
    gained = int((board.broken_by == board.steps.index(step)).sum())
    return search.not_converged_flag(gained, len(board))


def _whole_box(trial: Trial, index: Labels) -> Flag | None:
    """Gradient ascent without a radius."""
    if trial.threat.box is None:
        return None
    x, _ = trial.load(index[:1])
    wide = search.boundless(trial.threat, x[0].numel())

    def climb() -> list[bool]:
        attack = WorstOf((APGD(wide, steps=40), APGD(wide, steps=40, loss="margin")))
        broken: list[bool] = trial.breaks(attack, index, "whole box", trial.view, wide).tolist()
        return broken

    return search.boundless_flag(~torch.tensor(trial.journal.once("whole box", climb)), wide)
