"""What is asked at the end, of the examples that nothing has broken: is it the model, or the attacks?"""

from dataclasses import replace

import torch

from nofreelunch.attacks import APGD, Attack, WorstOf
from nofreelunch.attacks.base import Iterative
from nofreelunch.evaluation.adaptive import slopes_near
from nofreelunch.evaluation.board import STANDING
from nofreelunch.evaluation.catalogue import Gain
from nofreelunch.evaluation.protocols import Protocol, parts, relentless
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.steps import parts_for, run, run_nearest_first, to_the_end
from nofreelunch.evaluation.trial import Trial
from nofreelunch.evaluation.trust import search
from nofreelunch.evaluation.trust.gradients import gradient_flags
from nofreelunch.types import Labels

_OF_ALL = 64
"""The checks look at one example in so many, so that what they cost grows with what they check."""
_AGAIN = {"more steps": 1, "more steps, 2": 2, "more steps, 3": 4}
"""Rounds of them, each so many times as long, and run if the one before broke anything to speak of."""
_WORTH = 0.01
"""More than this share of all examples."""
_SURVIVORS = 16
"""So many, at most, are attacked once more by attacks that give none up."""


def check_after(trial: Trial, protocol: Protocol, gains: dict[str, Gain]) -> list[Flag]:
    """Look at the examples that nothing has broken: is it the model, or the attacks?"""
    # What is found is kept: a resumed run comes here with a board on which more may have been broken since.
    return trial.journal.flags("doubts", lambda: _look(trial, protocol, gains))


def _look(trial: Trial, protocol: Protocol, gains: dict[str, Gain]) -> list[Flag]:
    def survivors() -> list[int]:
        standing = trial.board.standing()
        some = min(protocol.sample, max(protocol.few, len(trial.board) // _OF_ALL))
        if _few(trial) or len(standing) <= protocol.sample:
            return trial.sample(standing, protocol.sample).tolist()
        order = trial.board.margin[standing].argsort(descending=True, stable=True)
        nearest, others = order.tensor_split([some // 2])  # more steps show there first, unless margins mislead
        return [*standing[nearest].tolist(), *trial.sample(standing[others.sort().values], some - some // 2).tolist()]

    # Before the board changes: a resumed run looks at the same ones.
    index = torch.tensor(trial.journal.once("survivors", survivors), dtype=torch.long)
    if len(index) == 0:
        return []
    flags = []
    if not trial.randomised:
        flags += trial.journal.flags("slopes", lambda: gradient_flags(slopes_near(trial, index)))
    flags += [flag for flag in (_more_steps(trial, protocol, index), _whole_box(trial, index)) if flag]
    if not trial.board.robust().correct:  # nothing is left to be doubted
        return []
    standing = trial.board.standing()
    rows = standing[trial.board.broken_by[standing] == STANDING]
    found = (
        search.no_progress_flag(trial.board.clean_margin[rows], trial.board.margin[rows]) if len(rows) else None,
        search.black_box_flag(trial.board.broken_in("square"), len(trial.board)),
        search.masked_flag({name: (len(gain.rows), gain.of) for name, gain in gains.items()}, trial.board.robust()),
    )
    return flags + [flag for flag in found if flag]


def _more_steps(trial: Trial, protocol: Protocol, index: Labels) -> Flag | None:
    """More steps on the sample, and on everything if that breaks some of it; still more while they break some.

    One of the sample is enough where that is small, and where a single example is worth having.
    """
    board, gained = trial.board, 0

    def sampled() -> int:
        harder = to_the_end(trial, protocol.harder(trial.threat))
        return int(trial.breaks(harder, index, "more steps").sum())

    if trial.journal.once("convergence", sampled) < (1 if len(index) < _SURVIVORS or _few(trial) else 2):
        return None
    for step, times in _AGAIN.items():
        run_nearest_first(trial, "doubts", step, _longer(trial, protocol, times))
        now = board.broken_in(step)
        gained += now
        if now <= _WORTH * len(board):
            break
    return search.not_converged_flag(gained, len(board))


def _few(trial: Trial) -> bool:
    """Whether a single example is worth having."""
    return _WORTH * len(trial.board) < 1


def _longer(trial: Trial, protocol: Protocol, times: int) -> Attack:
    """What is harder, with so many times the steps."""
    made = parts(protocol.harder(trial.threat), trial.subject.classes)
    return WorstOf(
        tuple(replace(each, steps=times * each.steps) if isinstance(each, Iterative) else each for each in made)
    )


def _whole_box(trial: Trial, index: Labels) -> Flag | None:
    """Gradient ascent without a radius."""
    if trial.threat.box is None:
        return None
    reach = trial.threat.spread(trial.threat.width, trial.load(index[:1])[0])
    wide = replace(trial.threat, eps=reach)  # the whole box, in which no classifier does better than a constant one

    def climb() -> list[bool]:
        attack = WorstOf((APGD(wide, steps=40), APGD(wide, steps=40, loss="margin")))
        broken: list[bool] = trial.breaks(attack, index, "whole box", wide).tolist()
        return broken

    return search.unbounded_flag(~torch.tensor(trial.journal.once("whole box", climb)), wide)


def gave_up_too_soon(trial: Trial, protocol: Protocol) -> bool:
    """Whether the attacks that give examples up break one of a few survivors when they give none up.

    Those of a kind that `harder` runs for longer are left out: `_more_steps` has looked at them.
    """
    whole = [part for attack in _limited(trial, protocol).values() for part in parts_for(trial, attack, whole=True)]
    longer = {type(part) for part in parts_for(trial, protocol.harder(trial.threat))}
    whole = [part for part in whole if type(part) not in longer]
    if not whole:
        return False

    def look() -> bool:
        index = trial.sample(trial.board.standing(), min(_SURVIVORS, max(4, len(trial.board) // (2 * _OF_ALL))))
        return bool(trial.breaks(WorstOf(tuple(whole)), index, "given up").any())

    return trial.journal.once("given up", look)


def run_whole(trial: Trial, protocol: Protocol) -> None:
    """The attacks that gave examples up, once more, and to their ends; the trial is suspicious by now."""
    for step, attack in _limited(trial, protocol).items():
        run(trial, "whole", f"{step}, whole", attack)


def _limited(trial: Trial, protocol: Protocol) -> dict[str, Attack]:
    """The attacks of a protocol that give examples up."""
    main = {step: recipe(trial.threat) for step, recipe in protocol.main.items()}
    return {
        step: attack
        for step, attack in main.items()
        if any(relentless(part) != part for part in parts(attack, trial.subject.classes))
    }
