"""Remedies are tried on a sample; those that gain something are run, so that the figure is brought down.

The stages: is anything odd about the model (`suspicious`); which remedies are `better` on the sample than a short
attack by the model's own gradient; which `gains` long attacks by it do not make up for (such remedies are run on all
examples); what of that is `unexplained` by luck, which is a reason for doubt.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from nofreelunch.attacks import APGD, Attack, EachTarget
from nofreelunch.attacks.worst_of import restarts
from nofreelunch.evaluation.board import LOST, Some
from nofreelunch.evaluation.catalogue import Gain, Remedy, least_gain, remedies, tried
from nofreelunch.evaluation.protocols import PATIENCE, REMEDY, Protocol
from nofreelunch.evaluation.remedies.surrogate_pgd import SurrogatePGD
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.steps import run, to_the_end
from nofreelunch.evaluation.trial import Trial
from nofreelunch.evaluation.trust import search
from nofreelunch.evaluation.trust.gradients import Slopes, gradient_flags, slopes
from nofreelunch.types import Labels

_OWN = "own gradient"
_LATE = 0.05
"""By so much may a remedy lower the figure after all attacks by the model's own gradient; by more is doubted."""
_LUCK = 0.15
"""By so much of a sample two sound attacks may differ by chance; only a larger gain is always doubted."""
_FEW = 8
"""So many of the examples that a remedy broke are held against these attacks where it gained one of the sample."""
_STARTS = 3
"""Of the attacks by the model's own gradient before a gain is doubted."""


@dataclass(frozen=True)
class Scouting:
    """What the remedies are worth on a sample.

    Attributes:
        sample: the examples that they were tried on.
        suspicious: whether anything was odd about the model before.
        better: remedies that break clearly more than PGD by the model's own gradient does with as many steps.
        gains: what of that long attacks by the own gradient do not make up for.
        unexplained: gains of more than `_LUCK` of the sample, and what of the others several starts of these attacks do
            not make up for either; `adapt` looks once more at gains of one example.
    """

    sample: Some
    suspicious: bool
    better: list[str]
    gains: dict[str, Gain]
    unexplained: dict[str, Gain]


def scout(trial: Trial, protocol: Protocol, flags: list[Flag]) -> Scouting:
    """Try the remedies on a sample of what stands; on fewer examples where nothing is odd about the model."""

    def look() -> dict[str, Any]:
        index = trial.sample(trial.board.standing(), protocol.sample)
        if len(index) == 0:
            return {"sample": [], "suspicious": False, "better": [], "gains": {}, "unexplained": {}}
        odd = bool(flags) or trial.subject.stateful or bool(trial.switches)
        suspicious = odd or bool(gradient_flags(slopes_near(trial, index)))
        index = index if suspicious else trial.sample(index, protocol.few)
        found = _remedies(trial, protocol, index, suspicious)
        better = tried(trial, found, index, SurrogatePGD(trial.threat, protocol.probing, surrogate=trial.view))
        gains, unexplained = _beyond_luck(trial, protocol, better, len(index))
        return {
            "sample": index.tolist(), "suspicious": suspicious, "better": list(better), "gains": gains,
            "unexplained": unexplained,
        }  # fmt: skip

    seen = trial.journal.once("scouting", look)
    gains, unexplained = ({name: Gain(*gain) for name, gain in seen[kind].items()} for kind in ("gains", "unexplained"))
    sample = torch.tensor(seen["sample"], dtype=torch.long)
    return Scouting(sample, seen["suspicious"], seen["better"], gains, unexplained)


def _beyond_luck(
    trial: Trial, protocol: Protocol, better: dict[str, Gain], sampled: int
) -> tuple[dict[str, Gain], dict[str, Gain]]:
    """`gains` and `unexplained` of `Scouting`."""
    if trial.randomised:
        return better, better
    gains = _not_made_up_for(trial, better, *_own(trial, protocol))
    large = {name: gain for name, gain in gains.items() if len(gain.rows) > _LUCK * gain.of}
    others = {name: gain for name, gain in gains.items() if name not in large}
    unexplained = large | _not_made_up_for(trial, others, *_own_again(trial, protocol))
    if sampled == len(trial.board.standing()):  # then a gain of one is one example, and no sign of more
        unexplained = {name: gain for name, gain in unexplained.items() if len(gain.rows) > 1}
    return gains, unexplained


def _remedies(trial: Trial, protocol: Protocol, sample: Some, suspicious: bool) -> dict[str, Remedy]:
    """What can be tried, found out once; a resumed run finds it again, under the same seed."""
    if trial.remedies is None:
        trial.journal.begin("remedies")
        trial.remedies = remedies(trial, sample, suspicious, (protocol.probing, protocol.thorough))
    trial.journal.begin("remedies are known")
    return dict(trial.remedies)


def adapt(trial: Trial, protocol: Protocol, scouting: Scouting) -> dict[str, Gain]:
    """Run the remedies that break more than the protocol would on everything.

    Returns:
        The gains that leave a doubt, by the names of their steps; of an honest model none.
    """
    found = _remedies(trial, protocol, scouting.sample, scouting.suspicious) if scouting.gains else {}
    for name, gain in sorted(scouting.gains.items(), key=lambda item: -len(item[1].rows)):
        # What a remedy was better at may have been broken by the one before it: then it is not run.
        if trial.journal.once(f"wanted: {name}", partial(_wanted, trial, gain)) and name in found:
            trial.attempted(name, partial(run, trial, "adaptive", f"{REMEDY}{name}", found[name].thorough))
    doubted = {f"{REMEDY}{name}": gain for name, gain in scouting.unexplained.items()}
    return {step: gain for step, gain in doubted.items() if _borne_out(trial, protocol, step, gain)}


def adapt_again(trial: Trial, protocol: Protocol, scouting: Scouting) -> dict[str, Gain]:
    """Remedies that are due for a second look, on a few examples that all attacks have left; run if they break one.

    That the model's own gradient makes up for what a remedy has gained settles whether the model is to be doubted, not
    whether the remedy finds more elsewhere, nor whether the protocol went as far by the own gradient as it took. And of
    a model with anything odd about it a long random search may find more.

    Returns:
        The gains of remedies that leave a doubt, by the names of their steps.
    """
    made_up_for = sorted(set(scouting.better) - scouting.gains.keys())
    due = [*made_up_for, *([_OWN] if made_up_for else []), *(["random search"] if scouting.suspicious else [])]
    if not due:
        return {}
    board, own = trial.board, _targeted(trial, protocol, 4)
    found = _remedies(trial, protocol, scouting.sample, scouting.suspicious)
    found[_OWN] = Remedy(to_the_end(trial, own), own)
    steps = {name: f"{'' if name == _OWN else REMEDY}{name}, again" for name in due if name in found}
    for name, step in steps.items():

        def breaks(remedy: Remedy = found[name], name: str = name) -> bool:
            index = trial.sample(board.standing(), protocol.sample if trial.suspicious else protocol.few)
            look = remedy.thorough if name == "random search" else remedy.brief
            lost = trial.attempted(name, partial(trial.breaks, look, index, "second look"))
            return lost is not None and bool(lost.any())

        if trial.journal.once(f"again: {name}", breaks):
            trial.attempted(name, partial(run, trial, "adaptive", step, found[name].thorough))
    late = [step for name, step in steps.items() if name != _OWN]  # whether it goes on gaining shows `more steps`
    if not search.significant(sum(map(board.broken_in, late)), len(board), _LATE):
        return {}
    return {step: Gain(board.rows_broken_in(step), len(board)) for step in late if board.broken_in(step)}


def _borne_out(trial: Trial, protocol: Protocol, step: str, gain: Gain) -> bool:
    """Whether a remedy gained more than one example, at least on all: of those it broke the own gradient leaves two."""
    if len(gain.rows) > 1 or trial.randomised:
        return True

    def look() -> bool:
        rows = trial.board.rows_broken_in(step)[:_FEW]
        gains = {step: Gain(rows, len(rows))} if len(rows) > 1 else {}
        left = _not_made_up_for(trial, gains, *_own_again(trial, protocol))
        return step in left and len(left[step].rows) > 1

    return trial.journal.once(f"borne out: {step}", look)


def _wanted(trial: Trial, gain: Gain) -> bool:
    """Whether enough is left of what a remedy was better at."""
    left = (trial.board.right[gain.rows] > (LOST if trial.randomised else 0.5)).sum()
    return bool(left >= least_gain(gain.of))


def _not_made_up_for(trial: Trial, gains: dict[str, Gain], *attacks: Attack) -> dict[str, Gain]:
    """The gains that these attacks, by the model's own gradient and to their ends, do not make up for."""
    if not gains:
        return {}
    index = torch.tensor(sorted({row for gain in gains.values() for row in gain.rows}))
    lost = trial.breaks(to_the_end(trial, *attacks), index, _OWN)
    made_up = set(index[lost].tolist())
    left = {name: Gain([row for row in gain.rows if row not in made_up], gain.of) for name, gain in gains.items()}
    return {name: gain for name, gain in left.items() if len(gain.rows) >= least_gain(gain.of)}


def _own(trial: Trial, protocol: Protocol) -> tuple[Attack, Attack]:
    """Long attacks by the model's own gradient."""
    return APGD(trial.threat, protocol.longest), protocol.harder(trial.threat)


def _own_again(trial: Trial, protocol: Protocol) -> tuple[Attack, Attack]:
    """More of them, from several places: on rough ground one start finds an example that the next one does not."""
    climb = APGD(trial.threat, protocol.longest, "margin")
    return restarts(_targeted(trial, protocol), _STARTS), restarts(climb, _STARTS)


def _targeted(trial: Trial, protocol: Protocol, targets: int = 9) -> Attack:
    """The longest of them, towards the best wrong classes."""
    return EachTarget(APGD(trial.threat, protocol.longest, "dlr-targeted", patience=PATIENCE), targets)


def slopes_near(trial: Trial, index: Labels) -> Slopes:
    """The model's gradients at random points near some examples."""
    x, y = trial.load(index)
    near = [trial.threat.random_start(x, trial.streams(index, f"slopes {k}")) for k in range(2)]
    return slopes(trial.view, x, y, (near[0], near[1]), trial.threat)
