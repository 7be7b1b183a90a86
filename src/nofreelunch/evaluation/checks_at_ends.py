"""What shows only where attacks arrive: at the boundary, and at the ends of their ways."""

from functools import partial

import torch

from nofreelunch.evaluation.protocols import Protocol
from nofreelunch.evaluation.remedies.surrogate_pgd import SurrogatePGD
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.trial import Trial
from nofreelunch.evaluation.trust import function
from nofreelunch.evaluation.trust.boundary import boundary_flag, jump_flag, largest_jump, steepness
from nofreelunch.evaluation.trust.gradients import gradient_flags, slopes
from nofreelunch.evaluation.trust.hidden import hidden_flag
from nofreelunch.evaluation.trust.probe import Probe
from nofreelunch.types import Inputs, Labels

_ENDS = 16
"""Examples from which attacks are followed to their ends."""
_IMAGES = 64
"""And so many images, on which all parts of a model should have a say."""
_MISLEADING = {"wrong-gradients", "short-sighted-gradients"}
"""Gradient flags that are raised here: others have shown already around the examples."""


def check_at_ends(trial: Trial, protocol: Protocol, known: set[str]) -> list[Flag]:
    """What is found there of the examples that still stand, and was not known.

    Args:
        trial: the evaluation.
        protocol: says how many examples are looked at, and how many steps are taken.
        known: names of flags that have been raised.
    """
    if trial.randomised:
        return []
    found = trial.journal.flags("ends", lambda: _found(trial, protocol))
    return [flag for flag in found if flag.name not in known]


def _found(trial: Trial, protocol: Protocol) -> list[Flag]:
    standing = trial.board.standing()
    if len(standing) == 0:
        return []
    lines = trial.sample(standing, protocol.sample)
    x, y = trial.load(lines)
    steep = boundary_flag(steepness(trial.subject.logits, x, y, _others(trial, y, protocol.sample)))
    index = trial.sample(standing, _ENDS)
    (x, y), streams = trial.load(index), trial.streams(index, "slopes at ends")
    climb = SurrogatePGD(trial.threat, max(1, protocol.probing // 2), surrogate=trial.view)
    z, _ = trial.reached(climb, index, "ends")
    far = (torch.full_like(x, float(x.mean())), _others(trial, y, protocol.sample + _ENDS))
    ends = (z, *(trial.threat.project(trial.threat.clip(point), x) for point in far))
    apart = 1 - streams.fork(1).uniform(*x.shape[1:]) / 2  # grey levels that all pixels pass at once are no jump
    jumps = jump_flag(torch.cat([largest_jump(trial.subject.logits, x, y, x + apart * (end - x)) for end in ends]))
    probe = Probe(trial.subject, x, y, z, trial.threat.width, len(x))
    seen = torch.cat([x, z, trial.threat.random_start(x, streams.fork(2)), trial.load(trial.some(_IMAGES))[0]])
    looking = partial(hidden_flag, trial.threat, trial.subject, x, y, seen, protocol.probing)
    hide = trial.attempted("hidden parts", looking)
    flags = (steep, jumps, hide, function.batch_dependent(probe), function.watches_gradients(probe))
    there = gradient_flags(slopes(trial.view, x, y, (z, trial.threat.random_start(x, streams)), trial.threat))
    return [flag for flag in flags if flag is not None] + [flag for flag in there if flag.name in _MISLEADING]


def _others(trial: Trial, y: Labels, count: int) -> Inputs:
    """For each label an image of another class, among so many; of the same one, if there is no other."""
    pool, labels = trial.load(trial.some(count))
    place = torch.arange(len(pool), device=y.device)
    turned = (place + place[: len(y), None]) % len(pool)  # a row for each: the pool, beginning at another place
    first = (labels[turned] != y[:, None]).int().argmax(1, keepdim=True)
    return pool[turned.gather(1, first).squeeze(1)]
