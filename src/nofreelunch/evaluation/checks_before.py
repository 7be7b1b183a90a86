"""What a model is asked before it is attacked, and what attacks are then to differentiate."""

from dataclasses import asdict
from typing import Any

import torch

from nofreelunch.attacks.door import Precise
from nofreelunch.attacks.eot import Averaged
from nofreelunch.evaluation.remedies.wrappers import BPDA, Rescaled
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.trial import Trial
from nofreelunch.evaluation.trust import function, outputs
from nofreelunch.evaluation.trust.probe import Probe
from nofreelunch.models import fast
from nofreelunch.types import Model

_PROBE = 24
"""Examples that the questions are asked about, and as many points near them."""
_DRAWS = 8
"""Of a randomised model, for one gradient."""
_USUAL = (0.01, 1000.0)
"""Standard deviations of an example's logits between which losses are left to themselves."""
_TYPICAL = 4.0
"""The same of trained classifiers: what others are brought to. Softer losses climb towards all classes at once."""

_COMPARING = (function.batch_dependent, function.watches_gradients, outputs.discontinuous)
"""Checks that compare answers: they say nothing about a model whose answers are random."""
_CHECKS = (
    function.optimises_inside, function.leaves_torch, outputs.probabilities, outputs.constant_output,
    outputs.half_precision, outputs.wrong_range,
)  # fmt: skip
"""What is asked of every model, beside `statefulness` and `randomised`."""


def check_before(trial: Trial) -> tuple[list[Flag], Model]:
    """Ask the model a few questions: what is odd about it, and what attacks are to differentiate."""
    subject = trial.subject

    def questions() -> dict[str, Any]:
        index = trial.some(_PROBE)
        x, y = trial.load(index)
        near = trial.threat.random_start(x, trial.streams(index, "probe"))
        probe = Probe(subject, x, y, near, trial.threat.width, trial.batch)
        subject.stateful, flags = function.statefulness(probe)
        random = function.randomised(probe)
        checks = _CHECKS if random else _COMPARING + _CHECKS
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
    return flags, _view(trial, names, outcome["scale"])


def _view(trial: Trial, names: set[str], scale: float) -> Model:
    """What attacks differentiate: the fast version of a model that has shown nothing odd, and else the model itself."""
    subject = trial.subject
    view: Model = subject.differentiable
    if "not-differentiable" in names:
        view = subject.logits  # without a gradient, where asking for one is an error
    elif "watches-gradients" in names:
        view = BPDA(subject)
    elif not names and not subject.stateful and subject.dtype == torch.float32:
        quick = fast(subject.working)
        view = view if quick is subject.working else Precise(quick, torch.float32)
    if scale > 0 and not _USUAL[0] < scale < _USUAL[1]:
        view = Rescaled(view, scale / _TYPICAL)
    return Averaged(view, _DRAWS) if trial.randomised else view
