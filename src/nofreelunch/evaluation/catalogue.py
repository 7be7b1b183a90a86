"""What is done where a model's own gradient does not lead to its boundary: surrogates, other points, labels alone.

Every remedy is first tried on a sample, whatever the checks say. One that breaks clearly more than the model's own
gradient does with the same steps is then run on all examples, so that the figure is brought down to the truth, instead
of only being doubted (Tramer et al. 2020: an evaluation must adapt).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nofreelunch.attacks import APGD, Attack, EachTarget, Square, WorstOf
from nofreelunch.attacks.gradient import loss_gradient
from nofreelunch.attacks.losses import ce
from nofreelunch.evaluation.board import Some
from nofreelunch.evaluation.remedies.boundary_gradient import BoundaryGradient
from nofreelunch.evaluation.remedies.confined import Shifted, Snapped
from nofreelunch.evaluation.remedies.coordinate_ascent import CoordinateAscent
from nofreelunch.evaluation.remedies.decision_based import OtherImages, RaySearch
from nofreelunch.evaluation.remedies.decisions import steered
from nofreelunch.evaluation.remedies.inner import inner_surrogates
from nofreelunch.evaluation.remedies.moved_units import Moved, Unit
from nofreelunch.evaluation.remedies.quiet_units import quiet
from nofreelunch.evaluation.remedies.sleeping_units import Awake, activations, sleeping
from nofreelunch.evaluation.remedies.substitute import Substitute
from nofreelunch.evaluation.remedies.surrogate_pgd import SurrogatePGD, Transferred
from nofreelunch.evaluation.remedies.switches import behind_switches
from nofreelunch.evaluation.remedies.wrappers import (
    BPDA,
    FiniteDifferences,
    OnlyClasses,
    Smoothed,
    WithoutInnerSteps,
    in_float64,
)
from nofreelunch.evaluation.trial import Trial
from nofreelunch.evaluation.trust.probe import differs
from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Labels, Logits, Model, PerExample

_POOL = 64
"""Images from which attacks set out, or that they are led to."""
_IMAGES = (24, 100)
"""So many of these are tried in a brief and in a thorough attack."""
_TURNS = (20, 120)
"""Of a brief RayS, where nothing is odd about the model and where something is."""
_SMALLER = (0.25, 0.5, 0.6, 0.8)
"""Shares of the radius within which is looked as well: a model may know the rim, where attacks start and end."""
_FEW_PIXELS = (0.05, 0.1, 0.2, 0.4)
"""Shares of the coordinates that are moved alone: a model may know an attack by how many it moves."""
_CLEARLY = 0.3
"""By how much a remedy must lower the model's rate of right answers; a break does, unless the model is randomised."""
_DIRECTIONS = (256, 1024)
"""In which differences are taken, in a brief and in a thorough attack."""
_POINTS, _MANY = 3, 64
"""Points over which scores are averaged, and over which if they ripple."""
_ALIKE = 0.99
"""The cosine of two gradients from which on one leads where the other does."""
_FEW = 8
"""So many of the sample is a costly remedy tried on."""


@dataclass(frozen=True)
class Remedy:
    """An attack that does not depend on the model's own gradient.

    Args:
        brief: for the sample.
        thorough: for all examples.
        costly: whether it asks the model a thousand questions a step: then it is tried on a few of what others left.
    """

    brief: Attack
    thorough: Attack
    costly: bool = False


class Gain(NamedTuple):
    """What a remedy broke of the examples that it was tried on, and the model's own gradient did not.

    Attributes:
        rows: these examples.
        of: how many it was tried on.
    """

    rows: list[int]
    of: int


def remedies(trial: Trial, index: Labels, suspicious: bool, steps: tuple[int, int]) -> dict[str, Remedy]:
    """All that can be tried on this model, by name.

    Args:
        trial: the evaluation.
        index: the sample.
        suspicious: whether something is wrong with the gradients; then the costly ones are tried as well.
        steps: of a brief and of a thorough attack.
    """
    found = {
        name: _surrogate_remedy(trial.threat, surrogate, steps)
        for name, surrogate in _surrogates_of(trial, index, suspicious)
    }
    pool = trial.load(trial.some(_POOL))[0]
    found |= _at_other_points(trial, pool, steps)
    if units := trial.attempted("sleeping units", partial(sleeping, trial.subject, pool, trial.batch)):
        found["sleeping units"] = Remedy(_waking(trial, units, steps[0]), _waking(trial, units, steps[1]))
    standing = partial(quiet, trial.threat, trial.subject, trial.query, pool, *trial.load(index))
    if moved := trial.attempted("quiet units", standing):
        brief, thorough = (replace(moved, steps=count) for count in steps)
        found["quiet units"] = Remedy(brief, thorough)
    steering = partial(steered, trial.threat, trial.subject, trial.load(index), steps)
    if (parts := trial.attempted("decisions", steering)) is not None:
        found["decisions"] = Remedy(*parts)
    if trial.switches:
        found["switches"] = Remedy(*behind_switches(trial.switches, steps, trial.batch))
    found |= _by_labels(trial, pool, suspicious, steps)
    return found | _searches(trial, pool, steps) if suspicious else found


def _at_other_points(trial: Trial, pool: Inputs, steps: tuple[int, int]) -> dict[str, Remedy]:
    """At points, and within parts of the ball, at which attacks do not usually look."""
    threat, view, (brief, thorough) = trial.threat, trial.view, steps
    shifted = Shifted(threat, brief, surrogate=view)
    boundary = BoundaryGradient(threat, 4, 1, brief // 2, surrogate=view, pool=pool)
    ascent = CoordinateAscent(threat, brief, 1, surrogate=view)
    found = {
        "few pixels": _few_pixels(trial, steps),
        "smaller radius": Remedy(_in_smaller_balls(trial, (brief + 1) // 2), _in_smaller_balls(trial, thorough)),
        "off corners": Remedy(shifted, replace(shifted, steps=3 * thorough)),
        "boundary gradient": Remedy(boundary, replace(boundary, turns=8, starts=4, steps=thorough)),
        "pixel by pixel": Remedy(ascent, EachTarget(replace(ascent, points=thorough, rounds=3), 3)),
    }
    if trial.source.gridded(threat) and (grid := Snapped(threat, brief, surrogate=BPDA(trial.subject))).reach > 0:
        found["8-bit grid"] = Remedy(grid, EachTarget(replace(grid, steps=thorough, target_rank=1)))
    return found


def _waking(trial: Trial, units: tuple[Unit, ...], steps: int) -> Attack:
    """One by one, and all at once."""
    threat, subject = trial.threat, trial.subject
    heights, groups = partial(activations, subject), tuple((unit,) for unit in units)
    one_by_one = Moved(threat, steps, heights=heights, groups=groups, surrogate=BPDA(subject))
    return WorstOf((one_by_one, SurrogatePGD(threat, steps, surrogate=Awake(subject))))


def _by_labels(trial: Trial, pool: Inputs, suspicious: bool, steps: tuple[int, int]) -> dict[str, Remedy]:
    """By which class the model names, alone; of a model with nothing odd about it little is asked."""
    threat = trial.threat
    few, many = (OtherImages(threat, count, pool=pool) for count in _IMAGES)
    return {
        "other images": Remedy(few, many),
        "RayS": Remedy(RaySearch(threat, _TURNS[suspicious], pool=pool), RaySearch(threat, 25 * steps[1], pool=pool)),
    }


def _searches(trial: Trial, pool: Inputs, steps: tuple[int, int]) -> dict[str, Remedy]:
    """By many answers: at random, by what they teach a network, by their differences and their means."""
    threat, answer, (brief, thorough) = trial.threat, trial.subject.logits, steps
    rough, fine = (FiniteDifferences(answer, trial.view, threat, directions) for directions in _DIRECTIONS)
    smooth = SurrogatePGD(threat, 2 * brief, surrogate=Smoothed(trial.view, threat, _MANY))
    return {
        "random search": Remedy(Square(threat, steps=10 * brief), Square(threat, steps=50 * thorough)),
        "substitute model": _surrogate_remedy(threat, Substitute(answer, pool, threat, trial.seed), steps),
        "finite differences": Remedy(
            SurrogatePGD(threat, brief, surrogate=rough), SurrogatePGD(threat, thorough, surrogate=fine), costly=True
        ),
        f"smoothed over {_MANY} points": Remedy(smooth, replace(smooth, steps=2 * thorough), costly=True),
    }


def _few_pixels(trial: Trial, steps: tuple[int, int]) -> Remedy:
    short, long = (SurrogatePGD(trial.threat, count, surrogate=trial.view) for count in ((steps[0] + 1) // 2, steps[1]))
    brief, away = (WorstOf(tuple(replace(each, share=share) for share in _FEW_PIXELS)) for each in (short, long))
    towards = (EachTarget(replace(long, share=share, target_rank=1), 3) for share in _FEW_PIXELS)
    return Remedy(brief, WorstOf((away, *towards)))


def _in_smaller_balls(trial: Trial, steps: int) -> Attack:
    inner = [replace(trial.threat, eps=share * trial.threat.eps) for share in _SMALLER]
    return WorstOf(tuple(SurrogatePGD(ball, steps, surrogate=trial.view) for ball in inner))


def _surrogates_of(trial: Trial, index: Labels, suspicious: bool) -> Iterator[tuple[str, Model]]:
    """Functions to differentiate in the model's place."""
    subject, x = trial.subject, trial.load(index)[0]
    yield "bpda", BPDA(subject)
    said = subject.logits(x)
    for name, other in (
        ("soft choices", BPDA(subject, soft=True)),
        ("without inner steps", WithoutInnerSteps(subject)),
    ):
        if trial.attempted(name, partial(_is_another, other, x, said)):
            yield name, other
    yield from (trial.attempted("inside", lambda: inner_surrogates(subject, x)) or {}).items()
    present = torch.unique(trial.source.y).to(x.device)
    if len(present) < subject.classes:
        yield "classes of the data", OnlyClasses(trial.view, present)
    yield f"smoothed over {_POINTS} points", Smoothed(trial.view, trial.threat, _POINTS)
    if suspicious:
        yield "bpda, smoothed", Smoothed(BPDA(subject), trial.threat, _POINTS)
        if (exact := trial.attempted("float64", lambda: in_float64(subject))) is not None:
            yield "float64", exact


@torch.no_grad()
def _is_another(surrogate: Model, x: Inputs, said: Logits) -> bool:
    """Whether a surrogate's values are not the model's."""
    return bool(differs(surrogate(x), said).any())


def _surrogate_remedy(threat: Threat, surrogate: Model, steps: tuple[int, int]) -> Remedy:
    brief, thorough = (SurrogatePGD(threat, count, surrogate=surrogate) for count in steps)
    climbs = (APGD(threat, 2 * steps[1], loss) for loss in ("ce", "margin"))
    return Remedy(
        brief,
        WorstOf((EachTarget(replace(thorough, target_rank=1)), *(Transferred(climb, surrogate) for climb in climbs))),
    )


def tried(trial: Trial, found: dict[str, Remedy], index: Labels, base: Attack) -> dict[str, Gain]:
    """For each remedy clearly better than `base` on a sample, the examples that it breaks and `base` does not."""
    (x, y), (z, own) = trial.load(index), trial.reached(base, index, "remedy")
    lowest, gains = own.clone(), dict[str, Gain]()
    for name, remedy in sorted(found.items(), key=lambda item: item[1].costly):
        trial.progress(f"checks, {name}", 0, len(index))
        rows = _candidates(remedy, own, lowest, trial.board.margin[index])
        total = len(rows) if remedy.costly else len(index)
        if len(rows) == 0:
            continue
        points = x[rows], z[rows]
        right = trial.attempted(name, partial(_after, trial, remedy.brief, index[rows], points, y[rows]))
        if right is None:  # a stand-in may do what the model's code does not expect; then it is none
            continue
        lowest[rows] = torch.minimum(lowest[rows], right)
        gained = index[rows][own[rows] - right > _CLEARLY].tolist()
        if len(gained) >= least_gain(total):
            gains[name] = Gain(gained, total)
    return gains


def _after(trial: Trial, brief: Attack, index: Labels, points: tuple[Tensor, ...], y: Labels) -> PerExample | None:
    """How often the model is right after an attack; None where its surrogate leads where the own gradient does."""
    if isinstance(brief, SurrogatePGD) and _alike(brief.surrogate, trial.view, points, y):
        return None
    return trial.reached(brief, index, "remedy", view=trial.query)[1]


def _candidates(remedy: Remedy, own: PerExample, lowest: PerExample, margins: PerExample) -> Some:
    """Which of the sample a remedy is tried on: all that stand, or, if it is costly, a few that no other has shaken.

    These are the ones that have come nearest to being broken.
    """
    if remedy.costly:
        rows = (lowest > 1 - _CLEARLY).nonzero().squeeze(1)
        return rows[margins[rows].argsort(descending=True, stable=True)[:_FEW]].sort().values
    return (own > _CLEARLY).nonzero().squeeze(1)


def _alike(surrogate: Model, own: Model, points: tuple[Tensor, ...], y: Labels) -> bool:
    """Whether a surrogate leads where the model's own gradient leads, where its attack begins and where it ends."""
    pairs = ((loss_gradient(ce, surrogate, z, y).flatten(1), loss_gradient(ce, own, z, y).flatten(1)) for z in points)
    return all((functional.cosine_similarity(one, other) > _ALIKE).all() for one, other in pairs)


def least_gain(total: int) -> float:
    """So many of a sample must a remedy gain to be run on all examples."""
    return max(1 if total < 20 else 2, 0.05 * total)
