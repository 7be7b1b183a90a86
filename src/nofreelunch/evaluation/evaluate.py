"""`evaluate`: how accurate a model is, at worst, within a threat; and whether to believe it."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nofreelunch.attacks import Attack
from nofreelunch.attacks.door import check_labels, first_logits
from nofreelunch.data import Split
from nofreelunch.errors import InputError, check_count
from nofreelunch.evaluation import operations
from nofreelunch.evaluation.adaptive import adapt, adapt_again, scout
from nofreelunch.evaluation.board import CLEAN, STANDING, Board, tally_of
from nofreelunch.evaluation.checks_after import check_after, gave_up_too_soon, run_whole
from nofreelunch.evaluation.checks_at_ends import check_at_ends
from nofreelunch.evaluation.checks_before import check_before
from nofreelunch.evaluation.checks_outside import check_outside
from nofreelunch.evaluation.journal import Journal
from nofreelunch.evaluation.protocols import Protocol, further, plan_of
from nofreelunch.evaluation.remedies.wrappers import BPDA
from nofreelunch.evaluation.result import Evaluation, Flag
from nofreelunch.evaluation.source import Source, source_of
from nofreelunch.evaluation.steps import run
from nofreelunch.evaluation.subject import Subject, own_randomness
from nofreelunch.evaluation.tally import Tally
from nofreelunch.evaluation.trial import FINAL, Progress, Trial
from nofreelunch.evaluation.trust import function, search
from nofreelunch.models.precision import full_float32
from nofreelunch.threats import Threat
from nofreelunch.types import Model
from nofreelunch.workspace import versions, without_addresses

_PIXELS_AT_A_TIME = {"cpu": 400_000, "cuda": 4_000_000}
"""Bounds what a step holds in memory, for images of any size."""
_ONE_AT_A_TIME = threading.RLock()
"""Seeds and the tracing of models are the whole process's: threads wait for each other."""
_ASKED_AGAIN = 64
"""Examples on which a model is held against what is kept of it."""
_BESIDE = 1e-6
"""Of the pixels' range: a point moved by so much is another one to whoever remembers points, and the same to others."""
_FORMAT = "4"
"""Of what the journal keeps."""
_FICKLE = {"randomised", "batch-dependent", "stateful"}
"""What a model is flagged for that does not answer alike when it is asked again."""


def evaluate(
    model: Model,
    data: Split | tuple[Tensor, Tensor],
    threat: Threat,
    protocol: str | Protocol = "standard",
    seed: int = 0,
    keep_examples: bool = False,
    *,
    attacks: Mapping[str, Attack] | None = None,
    batch_size: int | None = None,
    out: str | Path | None = None,
    known: Evaluation | None = None,
    progress: Progress = lambda step, done, total: None,
) -> Evaluation:
    """Clean and robust accuracy of a model, attack by attack, and every reason found not to believe them.

    The model is called in evaluation mode, on copies, and left as it was. Attacks run on a fast version of it; what
    they find is judged by the model itself, in float32, on the point as it would be stored, after ball and box have
    been checked in float64. The figures depend on model, data, threat, protocol and seed alone; where attacks that are
    not ours are added, which draw their random numbers batch by batch, also on the batch size.

    While it runs torch is patched for the whole process: no other thread should use it.

    It is the front door of the package, and has more parameters than others for that: all but three have a default.

    Args:
        model: maps float inputs (n, ...) in the threat's box to logits (n, k), k >= 2: a module or any callable.
        data: a split, or inputs and class indices; read a batch at a time.
        threat: what the adversary may do.
        protocol: "quick" or "standard", a name in `PROTOCOLS`; or one of your own.
        seed: of all that is random.
        keep_examples: keep the worst points found, as `x_adv`; in a file if `out` is given.
        attacks: further attacks by name, run after those of the protocol on what they left.
        batch_size: examples at a time in attacks; by default as many as keep the machine busy. Checks ask about more
            points at a time: up to 128, or some for each example.
        out: a folder in which the state is kept; the same call goes on where it was stopped.
        known: an evaluation of the same model and data within a smaller radius: what was lost there is lost.
        progress: called with a step's name, how many examples it is through with, and of how many.

    Returns:
        The figures, with the reasons to doubt them.

    Raises:
        InputError: if model, data or settings are not what they should be, before any work; the message says which.
        RunError: if the state cannot be written.
    """
    started, plan, known = time.monotonic(), plan_of(protocol), _earlier(known)
    extra, out = further(attacks, plan), None if out is None else Path(out)
    with _ONE_AT_A_TIME, full_float32(), torch.inference_mode(False), torch.enable_grad():
        with own_randomness(seed):
            subject, source = Subject(model), source_of(data, model, threat)
            _check(subject, source, threat, known, keep_examples)
            batch = _batch_size(batch_size, source, subject.device)
            identity = {
                "format": _FORMAT, "model": subject.digest, "data": source.digest, "threat": repr(threat),
                "protocol": plan.identity(threat), "seed": str(seed), "attacks": _added(extra, batch),
                "known": repr(known and known.threat), "examples kept": str(keep_examples),
            }  # fmt: skip
            trial = Trial(
                subject, source, threat, seed, batch,
                journal=Journal(out, identity, Board(len(source))), progress=progress, keep_examples=keep_examples,
            )  # fmt: skip
            try:
                flags, exact = _conduct(trial, plan, extra, known)
            finally:  # an interrupt keeps what is done
                trial.journal.save()
        late = [] if _FICKLE & {flag.name for flag in flags} else check_outside(trial, model, plan)
        trial.board.count_noted()  # no check looks any more
        certified = operations.certified(trial, {flag.name for flag in flags + late})
    return _assembled(trial, flags + late, exact and not late, certified, plan.name, time.monotonic() - started)


def _batch_size(asked: int | None, source: Source, device: torch.device) -> int:
    """What is asked for; by default as many examples as keep the device busy."""
    if asked is not None:
        return check_count("batch_size", asked, 2)
    pixels = source.images(torch.arange(1)).numel()
    return min(1024, max(2, _PIXELS_AT_A_TIME.get(device.type, _PIXELS_AT_A_TIME["cpu"]) // pixels))


def _added(extra: Mapping[str, Attack], batch: int) -> str:
    """The attacks of the caller's in words, with the batch size, on which they may depend."""
    return f"{without_addresses(extra)}, {batch} examples at a time" if extra else "none"


def _conduct(
    trial: Trial, plan: Protocol, extra: Mapping[str, Attack], known: Evaluation | None
) -> tuple[list[Flag], bool]:
    """All phases; the flags, and whether the answer is exact."""
    trial.journal.once("versions", versions)
    first = trial.journal.once("first answers", lambda: _first_answers(trial).tolist())
    flags, trial.view = check_before(trial)
    resumed = trial.journal.knows(CLEAN)
    trial.journal.once(CLEAN, trial.clean)
    if resumed and not _FICKLE & {flag.name for flag in flags}:
        _check_answers(trial, trial.board.clean_margin)
    if known is not None and not trial.randomised:
        _take_over(known, trial, {flag.name for flag in flags})
    exact = trial.threat.eps == 0 or (not flags and not trial.subject.stateful and operations.exactly(trial))
    if not exact:
        flags += _attacked(trial, plan, extra, flags)
        if not _FICKLE & {flag.name for flag in flags}:
            flags += trial.journal.flags("changed", lambda: _changed(trial, first))
        if trial.randomised:
            trial.journal.once(FINAL, trial.final)
    distinct: dict[str, Flag] = {}
    for flag in (*flags, *_flags_of_scores(trial)):
        distinct.setdefault(flag.name, flag)
    return list(distinct.values()), exact and not trial.randomised


def _attacked(trial: Trial, plan: Protocol, extra: Mapping[str, Attack], flags: list[Flag]) -> list[Flag]:
    """The phases that attack; the flags that they add."""
    name, recipe = plan.first
    run(trial, "main", name, recipe(trial.threat))
    found = check_at_ends(trial, plan, {flag.name for flag in flags})
    if "watches-gradients" in {flag.name for flag in found}:
        trial.view = BPDA(trial.subject)
    scouting = scout(trial, plan, flags + found)
    opaque = trial.journal.flags("opaque", lambda: search.opaque_flags(trial.failed))
    trial.suspicious = scouting.suspicious or bool(scouting.unexplained or opaque)
    gains = adapt(trial, plan, scouting)
    for name, recipe in plan.main.items():
        run(trial, "main", name, recipe(trial.threat))
    for name, attack in extra.items():
        run(trial, "further", name, attack)
    late = check_after(trial, plan, gains | adapt_again(trial, plan, scouting))
    if not trial.suspicious and (late or gave_up_too_soon(trial, plan)):
        trial.suspicious = True
        run_whole(trial, plan)
    return found + opaque + late + trial.journal.flags("opaque at last", lambda: search.opaque_flags(trial.failed))


def _flags_of_scores(trial: Trial) -> list[Flag]:
    """What the board alone gives reason to doubt."""
    board = trial.board
    clean = board.clean_margin.isposinf()
    nan = {"clean": clean, "under attack": board.margin.isposinf() & ~clean}
    of_classes = _by_class(board.clean_right, trial.source.y)
    found = (
        search.chance_flag(board.clean(), trial.subject.classes) or search.one_class_flag(of_classes),
        search.few_examples_flag(len(board)),
        search.non_finite_flag({where: int(rows.sum()) for where, rows in nan.items()}, len(board)),
    )
    return [flag for flag in found if flag]


def _first_answers(trial: Trial, beside: float = 0.0) -> Tensor:
    """The model's answers at a random point near each of a few examples, and to these examples; or beside them all."""
    index = trial.some(_ASKED_AGAIN)
    x = trial.load(index)[0]
    near, step = trial.threat.random_start(x, trial.streams(index, "first answers")), beside * trial.threat.width
    return torch.cat([trial.subject.logits(trial.threat.clip(z + step)) for z in (near, x)]).double().cpu()


def _changed(trial: Trial, first: list[list[float]]) -> list[Flag]:
    """Whether the model still answers as it did at first, as a flag or none."""
    beside = (_first_answers(trial, _BESIDE), _first_answers(trial, -_BESIDE))
    found = function.changed(torch.tensor(first, dtype=torch.float64), _first_answers(trial), beside)
    return [found] if found else []


def _check(subject: Subject, source: Source, threat: Threat, known: Evaluation | None, keep_examples: bool) -> None:
    """An `InputError` if the model's first answer does not go with all labels, or what is known with the rest."""
    x = source.images(torch.arange(min(2, len(source)))).to(subject.device)
    logits = first_logits(subject.logits, x, source.y[: len(x)].to(subject.device))
    check_labels(source.y, logits)
    if known is None:
        return
    same = (known.data_digest, known.weights_digest, known.threat.norm, known.threat.box) == (
        source.digest, subject.digest, threat.norm, threat.box,
    )  # fmt: skip
    if not same or known.threat.eps > threat.eps:
        raise InputError(
            f"known must be of the same model and data within a smaller radius, got one within {known.threat}"
        )
    if keep_examples and known.x_adv is None:
        raise InputError("known must hold its examples if examples are to be kept; evaluate it with keep_examples=True")


def _earlier(known: object) -> Evaluation | None:
    if known is None or isinstance(known, Evaluation):
        return known
    raise InputError(f"known must be an earlier result of evaluate, got {known!r}")


def _check_answers(trial: Trial, margin: Tensor) -> None:
    """What is kept must be of a model that answers alike: a digest does not see all that a callable is made of."""
    index = trial.some(_ASKED_AGAIN)
    now, then = trial.answers(*trial.load(index), 1)[1], margin[index]
    if not torch.isclose(now, then, rtol=0.01, atol=0.01 * float(then.abs().nanmedian())).all():
        raise InputError("what is kept of this evaluation is of a model that answers otherwise; give another folder")


def _take_over(known: Evaluation, trial: Trial, flags: set[str]) -> None:
    """What was lost within a smaller radius is lost."""
    if not _FICKLE & flags:
        _check_answers(trial, torch.from_numpy(known.clean_margin))
    step = f"within {known.threat.eps:g}"
    trial.board.enter(step)
    lost = torch.tensor([name not in ("", CLEAN) for name in known.broken_by])
    index = (lost & (trial.board.broken_by == STANDING)).nonzero().squeeze(1)
    margins = torch.from_numpy(known.margin)[index]
    trial.board.record(step, index, torch.zeros(len(index)), margins, torch.ones(len(index), dtype=torch.bool))
    if trial.examples is not None and known.x_adv is not None:
        trial.examples[index] = known.x_adv[index]


def _by_class(right: Tensor, y: Tensor) -> dict[int, Tally]:
    return {int(label): tally_of(right[y == label]) for label in torch.unique(y).tolist()}


def _assembled(
    trial: Trial, flags: list[Flag], exact: bool, certified: Tally | None, protocol: str, seconds: float
) -> Evaluation:
    board, source = trial.board, trial.source
    notes = list(source.notes)
    if trial.subject.came_training:
        notes.append("the model came in training mode and was evaluated in evaluation mode")
    if trial.failed:
        told = ", ".join(f"{remedy} ({why})" for remedy, why in sorted(trial.failed.items()))
        notes.append(f"not tried, because the model's code fails under it: {told}")
    return Evaluation(
        clean=board.clean(),
        robust=board.robust(),
        by_attack=board.after(),
        clean_by_class=_by_class(board.clean_right, source.y),
        robust_by_class=_by_class(board.right, source.y),
        flags=tuple(flags),
        notes=tuple(notes),
        exact=exact,
        certified=certified,
        threat=trial.threat,
        protocol=protocol,
        seed=trial.seed,
        versions=trial.journal.once("versions", versions),
        data_digest=source.digest,
        weights_digest=trial.subject.digest,
        dropped=board.dropped,
        seconds=seconds,
        broken_by=tuple("" if step == STANDING else board.steps[step] for step in board.broken_by.tolist()),
        clean_margin=board.clean_margin.numpy(),
        margin=board.margin.numpy(),
        x_adv=trial.examples if trial.keep_examples else None,
    )
