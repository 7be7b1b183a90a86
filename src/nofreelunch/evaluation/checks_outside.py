"""Whether the model answers us as it answers anybody.

All else is asked of copies, by code of this package, under a seed of its own. A model that knows its object, its place
in memory, its callers or the seed can tell: so its own object is asked in the end, as a stranger would.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from nofreelunch.attacks import misclassified
from nofreelunch.attacks.door import as_tensor
from nofreelunch.attacks.losses import margin
from nofreelunch.evaluation.protocols import Protocol
from nofreelunch.evaluation.remedies.surrogate_pgd import SurrogatePGD
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.subject import as_in_use, gradients_kept
from nofreelunch.evaluation.trial import Trial
from nofreelunch.evaluation.trust.probe import counted, differs
from nofreelunch.types import Logits, Model

_TIE = 1e-3
"""Margins below this share of the logits' spread are ties: rounding decides them."""


def check_outside(trial: Trial, model: Model, protocol: Protocol) -> list[Flag]:
    """What is found where the caller's own object answers otherwise than its copies did.

    It is asked about some examples, points near them, and points that an attack on the copies has come to. One that
    changes when it is called is left alone, and so is one that cannot be copied, which has been asked all along.

    Args:
        trial: the evaluation, over but for this; its random numbers must be the caller's again.
        model: the caller's.
        protocol: says how many examples are looked at, and how many steps are taken.
    """
    subject = trial.subject
    if subject.stateful or trial.randomised or subject.pristine is model:
        return []
    index = trial.some(protocol.few)
    x, y = trial.load(index)
    near = trial.threat.random_start(x, trial.streams(index, "from outside"))
    z, right = trial.reached(SurrogatePGD(trial.threat, protocol.probing, surrogate=trial.view), index, "from outside")
    answers = trial.attempted("from outside", lambda: [_asked(trial, model, points) for points in (x, near, z)])
    if answers is None:  # some models work in one thread alone
        return []
    there, here, ended = answers
    sure = margin(ended, y).abs() > _TIE * (ended.amax(1) - ended.amin(1))
    otherwise = sure & (misclassified(ended, y) != (right < 0.5).to(y.device))
    different = torch.cat([differs(there, subject.logits(x)), differs(here, subject.logits(near)), otherwise])
    if not different.any():
        return []
    return [
        Flag(
            "knows-who-asks",
            f"the model itself, asked from outside, answers otherwise than its copies at {counted(different)} points",
            "it looks at its own object, its callers or the seed; make it a function of its input",
        )
    ]


def _asked(trial: Trial, model: Model, points: Tensor) -> Logits:
    """The model's answers from a thread of their own, above which none of our code runs."""
    with (
        as_in_use(points.device, model),
        gradients_kept(model),
        torch.random.fork_rng(devices=[]),
        ThreadPoolExecutor(1, initializer=torch.set_grad_enabled, initargs=(False,)) as pool,
    ):
        # Cut out of something larger, as rows of a data set are: a tensor of its own begins at its storage's beginning.
        parts = (torch.cat([part[:1], part]).to(trial.subject.dtype)[1:] for part in torch.split(points, trial.batch))
        return torch.cat([as_tensor(pool.submit(model, part).result()).float() for part in parts])
