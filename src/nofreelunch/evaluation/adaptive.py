"""Remedies are tried on a sample; those that gain something are run, so that the figure is brought down."""

from functools import partial
from typing import Any

import torch

from nofreelunch.attacks import APGD, Attack, EachTarget
from nofreelunch.attacks.worst_of import restarts
from nofreelunch.evaluation.board import LOST
from nofreelunch.evaluation.protocols import PATIENCE, Protocol
from nofreelunch.evaluation.remedies import Gain, Remedy, least_gain, remedies, tried
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.steps import run, to_the_end
from nofreelunch.evaluation.surrogates.surrogate_pgd import SurrogatePGD
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


def adapt(trial: Trial, protocol: Protocol, flags: list[Flag]) -> dict[str, Gain]:
    """Try the remedies on a sample; run those that break clearly more than the protocol would on everything.

    Returns:
        The gains that leave a doubt: of examples that APGD on the model's own gradient breaks from none of a few
        starts, two at least of all, or of more than `_LUCK` of the sample. Of an honest model none.
    """
    steps = (protocol.probing, protocol.thorough)
    found: dict[str, Remedy] = {}

    def look() -> dict[str, Any]:
        index = trial.sample(trial.board.standing(), protocol.sample)
        if len(index) == 0:
            return {"gains": {}, "doubtful": {}, "hopeful": [], "suspicious": False, "sample": []}
        odd = bool(flags) or trial.subject.stateful or bool(trial.switches)
        suspicious = odd or bool(gradient_flags(slopes_near(trial, index)))
        if not suspicious:
            index = trial.sample(index, protocol.few)
        base = SurrogatePGD(trial.threat, protocol.probing, surrogate=trial.view)
        found.update(remedies(trial, index, suspicious, steps))
        hopeful = tried(trial, found, index, base)
        if trial.randomised:
            gains = doubtful = hopeful
        else:
            gains = _beyond_own(trial, hopeful, *_own(trial, protocol))
            large = {name: gain for name, gain in gains.items() if len(gain.rows) > _LUCK * gain.of}
            others = {name: gain for name, gain in gains.items() if name not in large}
            doubtful = large | _beyond_own(trial, others, *_own_again(trial, protocol))
            if len(index) == len(trial.board.standing()):  # then a gain of one is one example, and no sign of more
                doubtful = {name: gain for name, gain in doubtful.items() if len(gain.rows) > 1}
        seen = {"gains": gains, "doubtful": doubtful, "hopeful": sorted(hopeful.keys() - gains.keys())}
        return seen | {"suspicious": suspicious, "sample": index.tolist()}

    seen = trial.journal.once("scouting", look)
    gains, doubtful = ({name: Gain(*gain) for name, gain in seen[kind].items()} for kind in ("gains", "doubtful"))
    trial.suspicious = bool(seen["suspicious"] or doubtful)
    if gains and not found:  # a resumed run has taken over the outcome, and makes the remedies again
        found = remedies(trial, torch.tensor(seen["sample"]), seen["suspicious"], steps)
    for name, gain in sorted(gains.items(), key=lambda item: -len(item[1].rows)):
        # What a remedy was better at may have been broken by the one before it: then it is not run.
        if trial.journal.once(f"wanted: {name}", partial(_wanted, trial, gain)):
            run(trial, "remedy", name, found[name].thorough)
    return {name: gain for name, gain in doubtful.items() if _borne_out(trial, protocol, name, gain)}


def adapt_again(trial: Trial, protocol: Protocol) -> dict[str, Gain]:
    """Remedies that are due for a second look, on a few examples that all attacks have left; run if they break one.

    That the model's own gradient makes up for what a remedy has gained settles whether the model is to be doubted, not
    whether the remedy finds more elsewhere, nor whether the protocol went as far by the own gradient as it took. And of
    a model with anything odd about it a long random search may find more.

    Returns:
        The gains that leave a doubt.
    """
    seen = trial.journal["scouting"]
    hopeful = seen["hopeful"]
    due = [*hopeful, *([_OWN] if hopeful else []), *(["random search"] if seen["suspicious"] else [])]
    if not due:
        return {}
    board, steps = trial.board, {name: f"{name}, again" for name in due}
    count = protocol.sample if trial.suspicious else protocol.few
    found = remedies(trial, torch.tensor(seen["sample"]), seen["suspicious"], (protocol.probing, protocol.thorough))
    own = _targeted(trial, protocol, 4)
    found[_OWN] = Remedy(to_the_end(trial, own), own)
    for name in (name for name in due if name in found):

        def breaks(remedy: Remedy = found[name], name: str = name) -> bool:
            index = trial.sample(board.standing(), count)
            look = remedy.thorough if name == "random search" else remedy.brief
            return len(index) > 0 and bool(trial.breaks(look, index, "second look").any())

        if trial.journal.once(f"again: {name}", breaks):
            run(trial, "remedy", steps[name], found[name].thorough)
    if not search.significant(sum(map(board.broken_in, steps.values())), len(board), _LATE):
        return {}
    return {step: Gain(board.rows_broken_in(step), len(board)) for step in steps.values() if board.broken_in(step)}


def _borne_out(trial: Trial, protocol: Protocol, remedy: str, gain: Gain) -> bool:
    """Whether a remedy gained more than one example, at least on all: of those it broke the own gradient leaves two."""
    if len(gain.rows) > 1 or trial.randomised:
        return True

    def look() -> bool:
        rows = trial.board.rows_broken_in(remedy)[:_FEW]
        gains = {remedy: Gain(rows, len(rows))} if len(rows) > 1 else {}
        left = _beyond_own(trial, gains, *_own_again(trial, protocol))
        return remedy in left and len(left[remedy].rows) > 1

    return trial.journal.once(f"borne out: {remedy}", look)


def _wanted(trial: Trial, gain: Gain) -> bool:
    """Whether enough is left of what a remedy was better at."""
    left = (trial.board.right[gain.rows] > (LOST if trial.randomised else 0.5)).sum()
    return bool(left >= least_gain(gain.of))


def _beyond_own(trial: Trial, gains: dict[str, Gain], *attacks: Attack) -> dict[str, Gain]:
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
