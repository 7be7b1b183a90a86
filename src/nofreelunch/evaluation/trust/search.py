"""Whether the attacks searched well enough, judged by what they found.

Carlini et al. 2019, sections 5.2 to 5.8; Pintor et al. 2022; Tramer et al. 2020.
"""

from collections.abc import Mapping

from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.tally import Tally
from nofreelunch.threats import Threat
from nofreelunch.types import Mask, PerExample

_POINT = 0.01
_FEWEST = 3
"""Fewer examples than this are chance."""
_LOOKING_IN = ("bpda", "quiet units", "sleeping units", "decisions", "switches", "hidden parts")
"""What looks into a model, by the names under which failures are written down."""


def significant(count: int, total: int, least: float = _POINT) -> bool:
    """Whether so many examples are worth a word: more than `least` of all, and not one or two."""
    return count >= _FEWEST and count > least * total


def black_box_flag(gained: int, total: int) -> Flag | None:
    """Square after the gradient attacks: where gradients are good it adds a point or two."""
    if not significant(gained, total, 0.05):
        return None
    return Flag(
        "black-box-stronger",
        f"attacks from scores alone broke {gained} examples that gradients had not",
        "the gradients mislead; look for what masks them",
    )


def masked_flag(gains: Mapping[str, tuple[int, int]], robust: Tally) -> Flag | None:
    """Stand-ins for the model led where its own gradient did not; nothing to doubt where no example is left."""
    if not gains or robust.correct == 0:
        return None
    found = ", ".join(f"{name} ({count} of {total})" for name, (count, total) in gains.items())
    return Flag(
        "masked-gradients",
        f"of those looked at, surrogates broke examples that the model's gradient did not: {found}",
        "the figure includes these attacks, but is only as good as they are",
    )


def not_converged_flag(gained: int, total: int) -> Flag | None:
    """More steps still break examples."""
    if not significant(gained, total):
        return None
    evidence = f"more steps, in up to three rounds, broke {gained} more examples"
    return Flag("not-converged", evidence, "raise the number of steps")


def no_progress_flag(clean_margin: PerExample, margin: PerExample) -> Flag | None:
    """The loss must rise along an attack: where it never did, nothing was learnt from it."""
    still = margin <= clean_margin + 1e-6 * clean_margin.abs()
    if not significant(int(still.sum()), len(margin), 0.1):
        return None
    return Flag(
        "no-progress",
        f"no attack raised the loss of {int(still.sum())} of {len(margin)} unbroken examples",
        "the attacks see nothing to climb; look for what masks the gradients and the scores",
    )


def unbounded_flag(standing: Mask, threat: Threat) -> Flag | None:
    """With the whole box to move in, following the gradient must break nearly everything."""
    if not significant(int(standing.sum()), len(standing), 0.1):
        return None
    return Flag(
        "unbounded-attack-fails",
        f"{int(standing.sum())} of {len(standing)} examples survive gradient ascent at "
        f"{threat.norm} eps {threat.eps:g}, where every image is allowed",
        "following the gradient does not lead to the boundary; it is masked or reversed",
    )


def opaque_flags(failed: Mapping[str, str]) -> list[Flag]:
    """The model's code fails where the checks look into it: what hides there has not been seen."""
    return [
        Flag(
            "opaque",
            f"the model's code fails where the checks look into it: {failed[name]} ({name})",
            "what hides its gradient, if anything does, has not been seen; write it in plain torch operations",
        )
        for name in _LOOKING_IN
        if name in failed
    ][:1]


def few_examples_flag(total: int) -> Flag | None:
    """Too few for any figure."""
    if total >= 20:
        return None
    low, high = Tally(total // 2, total).interval(0.95)
    return Flag(
        "few-examples",
        f"with {total} examples the figure may be off by {(high - low) / 2:.0%}",
        "evaluate at least 100",
    )


def chance_flag(clean: Tally, classes: int) -> Flag | None:
    """Clean accuracy no better than guessing: nothing to be robust with."""
    if clean.interval(0.95)[0] > 1 / classes or clean.rate > 1 / classes + 0.5 * (1 - 1 / classes):
        return None
    return Flag(
        "chance-accuracy",
        f"clean accuracy {clean.rate:.1%} of {clean.total} is chance level for {classes} classes",
        "check that the weights are loaded, the labels and their order, and the range of the inputs",
    )


def one_class_flag(by_class: Mapping[int, Tally]) -> Flag | None:
    """One class is always named: the accuracy is that class's share, and no attack can lower it."""
    rates = sorted(tally.rate for tally in by_class.values())
    if len(rates) < 2 or rates[-2:] != [0.0, 1.0]:
        return None
    right = max(by_class, key=lambda label: by_class[label].rate)
    return Flag(
        "chance-accuracy",
        f"all examples of class {right} are recognised and none of any other",
        "check labels, their order, and the range of the inputs; balance the classes",
    )


def non_finite_flag(found: Mapping[str, int], total: int) -> Flag | None:
    """NaN among the logits, or no chance at all for the truth: a failure of the model, counted as one."""
    if not any(found.values()):
        return None
    where = ", ".join(f"{count} of {total} examples ({name})" for name, count in found.items() if count)
    evidence = f"logits are NaN, or minus infinity for the true class, on {where}"
    return Flag("non-finite-output", evidence, "find the overflow; such answers count as wrong")
