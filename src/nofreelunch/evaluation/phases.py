"""The phases of an evaluation, in the order in which they run. Each leaves an outcome that a resumed run takes over."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch

from nofreelunch.attacks import APGD, Attack, EachTarget, WorstOf
from nofreelunch.attacks.base import Iterative
from nofreelunch.attacks.door import Precise
from nofreelunch.attacks.eot import Averaged
from nofreelunch.evaluation.board import LOST, STANDING
from nofreelunch.evaluation.guides.guided import Guided
from nofreelunch.evaluation.guides.plain import Rescaled, SeeThrough
from nofreelunch.evaluation.protocols import Protocol, Recipe, fixed, numbered, relentless
from nofreelunch.evaluation.remedies import Gain, Remedy, least_gain, remedies, tried
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.trial import Trial
from nofreelunch.evaluation.trust import function, outputs, search
from nofreelunch.evaluation.trust.gradients import Slopes, gradient_flags, slopes
from nofreelunch.evaluation.trust.probe import Probe
from nofreelunch.models import fast
from nofreelunch.types import Labels, Model

_PROBE = 24
_OF_ALL = 64
"""The checks look at one example in so many, so that what they cost grows with what they check."""
_DRAWS = 8
"""Of a randomised model, for one gradient."""
_AGAIN = ("more steps", "more steps, 2", "more steps, 3")
"""Rounds of them, each run if the one before was worth it."""
_SURVIVORS = 16
"""So many, at most, are attacked once more by attacks that give none up."""
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
        near = trial.threat.random_start(x, trial.streams(index, "probe"))
        probe = Probe(subject, x, y, near, trial.threat.width, min(trial.batch, len(trial.source)))
        subject.stateful, flags = function.memory(probe)
        random = function.randomised(probe)
        checks = outputs.CHECKS if random else outputs.COMPARING + outputs.CHECKS
        answers = (random, *(check(probe) for check in checks))
        flags += [flag for flag in answers if flag is not None]
        scale = float(subject.logits(x).double().std(1).nan_to_num(nan=0.0, posinf=0.0).median())
        return {"stateful": subject.stateful, "flags": [asdict(flag) for flag in flags], "scale": scale}

    outcome = trial.journal.once("questions", questions)
    subject.stateful = outcome["stateful"]
    flags = [Flag(**flag) for flag in outcome["flags"]]
    names = {flag.name for flag in flags}
    if "randomised" in names:
        trial.randomise()
    trial.view = _view(trial, names, outcome["scale"])
    return flags


def _view(trial: Trial, names: set[str], scale: float) -> Model:
    """What attacks differentiate: the fast version of a model that has shown nothing odd, and else the model itself."""
    subject = trial.subject
    view: Model = subject.differentiable
    if "not-differentiable" in names:
        view = subject.logits  # without a gradient, where asking for one is an error
    elif "watches-gradients" in names:
        view = SeeThrough(subject)
    elif not names and not subject.stateful and subject.dtype == torch.float32:
        view = Precise(fast(subject.working), torch.float32)
    if scale > 0 and not _USUAL[0] < scale < _USUAL[1]:
        view = Rescaled(view, scale / _TYPICAL)
    return Averaged(view, _DRAWS) if trial.randomised else view


def run(trial: Trial, phase: str, step: tuple[str, Recipe], classes: int) -> None:
    """One attack, under its name, part by part."""
    name, recipe = step

    def work() -> None:
        for number, part in _parts(trial, recipe, classes):
            trial.attack(name, part, number)

    trial.journal.once(_key(phase, name), work)


def _key(phase: str, name: str) -> str:
    return f"{phase}: {name}"


def _parts(trial: Trial, recipe: Recipe, classes: int) -> Iterator[tuple[str, Attack]]:
    """What a recipe runs; where anything is odd about the model, no example is given up."""
    yield from _whole_parts(trial, recipe, classes) if trial.suspicious else numbered(recipe(trial.threat), classes)


def scout(trial: Trial, protocol: Protocol, flags: list[Flag], classes: int) -> dict[str, Gain]:
    """Try the remedies on a sample; run those that break clearly more than the protocol would on everything.

    Returns:
        What each of them broke that the model's own gradient does not, however long and from all sides it is followed:
        of an honest model nothing.
    """
    steps = (protocol.probing, protocol.thorough)
    found: dict[str, Remedy] = {}

    def look() -> dict[str, Any]:
        index = trial.sample(trial.board.standing(), protocol.sample)
        suspicious = bool(flags) or trial.subject.stateful or bool(gradient_flags(_slopes(trial, index)))
        if not suspicious:
            index = trial.sample(index, protocol.brief)
        base = Guided(trial.threat, protocol.probing, guide=trial.view)
        found.update(remedies(trial, index, suspicious, steps))
        gains = doubtful = tried(trial, found, index, base)
        if not trial.randomised:
            gains = _beyond_own(trial, gains, (APGD(trial.threat), protocol.harder(trial.threat)), classes)
            doubtful = _beyond_own(trial, gains, (EachTarget(APGD(trial.threat, loss="dlr-targeted")),), classes)
        return {"gains": gains, "doubtful": doubtful, "suspicious": suspicious, "sample": index.tolist()}

    if len(trial.board.standing()) == 0 and not trial.journal.knows("scouting"):
        return {}
    seen = trial.journal.once("scouting", look)
    kept = (seen["gains"], seen.get("doubtful", seen["gains"]))  # an earlier version doubted all gains
    gains, doubtful = ({name: Gain(*gain) for name, gain in each.items()} for each in kept)
    trial.suspicious = bool(seen["suspicious"] or doubtful)
    if gains and not found:  # a resumed run has taken over the outcome, and makes the remedies again
        found = remedies(trial, torch.tensor(seen["sample"]), seen["suspicious"], steps)
    for name, gain in sorted(gains.items(), key=lambda item: -len(item[1].rows)):
        # What a remedy was better at may have been broken by the one before it: then it is not run, if it has not been.
        left = (trial.board.right[gain.rows] > (LOST if trial.randomised else 0.5)).sum()
        if trial.journal.knows(_key("remedy", name)) or left >= least_gain(gain.of):
            run(trial, "remedy", (name, fixed(found[name].thorough)), classes)
    return doubtful


def _beyond_own(trial: Trial, gains: dict[str, Gain], attacks: tuple[Attack, ...], classes: int) -> dict[str, Gain]:
    """The gains that these attacks, by the model's own gradient and to their ends, do not make up for."""
    if not gains:
        return {}
    index = torch.tensor(sorted({row for gain in gains.values() for row in gain.rows}))
    parts = tuple(relentless(part) for attack in attacks for _, part in numbered(attack, classes))
    lost = trial.breaks(WorstOf(parts), index, "own gradient", trial.view, trial.threat)
    made_up = set(index[lost].tolist())
    left = {name: Gain([row for row in gain.rows if row not in made_up], gain.of) for name, gain in gains.items()}
    return {name: gain for name, gain in left.items() if len(gain.rows) >= least_gain(gain.of)}


def _slopes(trial: Trial, index: Labels) -> Slopes:
    x, y = trial.load(index)
    near = [trial.threat.random_start(x, trial.streams(index, f"slopes {k}")) for k in range(2)]
    return slopes(trial.view, x, y, (near[0], near[1]), trial.threat)


def doubts(trial: Trial, protocol: Protocol, gains: dict[str, Gain], classes: int) -> list[Flag]:
    """Look at the examples that nothing has broken: is it the model, or the attacks?"""
    # What is found is kept: a resumed run comes here with a board on which more may have been broken since.
    found = trial.journal.once("doubts", lambda: [asdict(flag) for flag in _doubts(trial, protocol, gains, classes)])
    return [Flag(**flag) for flag in found]


def _doubts(trial: Trial, protocol: Protocol, gains: dict[str, Gain], classes: int) -> list[Flag]:
    def look() -> dict[str, Any]:
        count = min(protocol.sample, max(protocol.brief, len(trial.board) // _OF_ALL))
        index = trial.sample(trial.board.standing(), count)
        odd = len(index) > 0 and not trial.randomised
        return {
            "sample": index.tolist(),
            "flags": [asdict(flag) for flag in gradient_flags(_slopes(trial, index))] if odd else [],
        }

    seen = trial.journal.once("survivors", look)  # before the board changes: a resumed run looks at the same ones
    if not seen["sample"]:
        return []
    index, flags = torch.tensor(seen["sample"]), [Flag(**flag) for flag in seen["flags"]]
    flags += [flag for flag in (_more_steps(trial, protocol, index, classes), _whole_box(trial, index)) if flag]
    if not trial.board.robust().correct:  # nothing is left to be doubted
        return []
    standing = trial.board.standing()
    rows = standing[trial.board.broken_by[standing] == STANDING]
    adds = torch.bincount(trial.board.broken_by[trial.board.broken_by >= 0].long(), minlength=len(trial.board.steps))
    found = (
        search.no_progress_flag(trial.board.clean_margin[rows], trial.board.margin[rows]) if len(rows) else None,
        search.black_box_flag(dict(zip(trial.board.steps, adds.tolist(), strict=True)), len(trial.board)),
        search.masked_flag({name: (len(gain.rows), gain.of) for name, gain in gains.items()}, trial.board.robust()),
    )
    return flags + [flag for flag in found if flag]


def _more_steps(trial: Trial, protocol: Protocol, index: Labels, classes: int) -> Flag | None:
    """Twice the steps on the sample, and on everything if that breaks some of it; again while that breaks many."""
    board, gained = trial.board, 0

    def sampled() -> int:
        harder = WorstOf(tuple(part for _, part in _parts(trial, protocol.harder, classes)))
        return int(trial.breaks(harder, index, "more steps", trial.view, trial.threat).sum())

    if trial.journal.once("convergence", sampled) < (1 if len(index) < 20 else 2):
        return None
    for step in _AGAIN:
        run(trial, "doubts", (step, protocol.harder), classes)
        now = int((board.broken_by == board.steps.index(step)).sum())
        gained += now
        if not search.significant(now, len(board)):
            break
    return search.not_converged_flag(gained, len(board))


def _whole_box(trial: Trial, index: Labels) -> Flag | None:
    """Gradient ascent without a radius."""
    if trial.threat.box is None:
        return None
    wide = search.unbounded(trial.threat, trial.load(index[:1])[0])

    def climb() -> list[bool]:
        attack = WorstOf((APGD(wide, steps=40), APGD(wide, steps=40, loss="margin")))
        broken: list[bool] = trial.breaks(attack, index, "whole box", trial.view, wide).tolist()
        return broken

    return search.unbounded_flag(~torch.tensor(trial.journal.once("whole box", climb)), wide)


def gave_up_too_soon(trial: Trial, protocol: Protocol, classes: int) -> bool:
    """Whether the attacks that give examples up break one of a few survivors when they give none up.

    Those that `harder` has taken to more steps are left out.
    """
    if trial.suspicious:
        return False
    harder = {_aim(part) for _, part in numbered(protocol.harder(trial.threat), classes)}
    parts = [part for recipe in _limited(trial, protocol).values() for _, part in _whole_parts(trial, recipe, classes)]
    whole = [part for part in parts if _aim(part) not in harder]
    standing = trial.board.standing()
    if not whole or len(standing) == 0:
        return False
    index = trial.sample(standing, min(_SURVIVORS, max(4, len(trial.board) // (2 * _OF_ALL))))

    def look() -> bool:
        return bool(trial.breaks(WorstOf(tuple(whole)), index, "given up", trial.view, trial.threat).any())

    return trial.journal.once("given up", look)


def _aim(attack: Attack) -> str:
    """What tells an attack from others but for its steps."""
    return repr(replace(attack, steps=1) if isinstance(attack, Iterative) else attack)


def run_whole(trial: Trial, protocol: Protocol, classes: int) -> None:
    """The attacks that gave examples up, once more, and to their ends."""
    if not trial.suspicious:
        trial.suspicious = True
        for step, recipe in _limited(trial, protocol).items():
            run(trial, "whole", (f"{step}, whole", recipe), classes)


def _limited(trial: Trial, protocol: Protocol) -> dict[str, Recipe]:
    """The attacks of a protocol that give examples up."""
    return {
        step: recipe
        for step, recipe in protocol.main.items()
        if any(relentless(part) != part for _, part in numbered(recipe(trial.threat), 2))
    }


def _whole_parts(trial: Trial, recipe: Recipe, classes: int) -> Iterator[tuple[str, Attack]]:
    for number, part in numbered(recipe(trial.threat), classes):
        yield number, relentless(part)
