"""Arguments of another type than the annotations say: one sentence, never a plain Python error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nofreelunch as nfl
from bad_uses import _no_type_checker
from nofreelunch.attacks import APGD, FAB, EachTarget, ExactLinear, Square, WorstOf, attack, fgsm, targeted
from nofreelunch.data import Split
from nofreelunch.errors import InputError
from nofreelunch.evaluation import sweep
from nofreelunch.models.declared import Declared
from training_toy import toy_data

__all__ = ["_no_type_checker"]

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
X, Y = torch.rand(30, 1, 4, 4), torch.arange(30) % 3
THREAT = nfl.Linf(0.1)
NO_THREAT, NO_ATTACK = r"threat must be a threat such as Linf\(8 / 255\), got 0.1", "an attack must be one such as"
IMAGES = (X * 255).to(torch.uint8)
SPARSE = X.flatten(1).to_sparse()


def evaluated(**settings: Any) -> object:
    return nfl.evaluate(MODEL, (X, Y), THREAT, **{"protocol": "quick", **settings})


def attacked(x: torch.Tensor, rng: Any) -> object:
    return nfl.PGD(THREAT, steps=1)(MODEL, x, Y, rng)


WRONG: dict[str, tuple[Callable[..., object], str]] = {
    **{kind.__name__: (lambda kind=kind: kind(0.1), NO_THREAT) for kind in (nfl.PGD, APGD, FAB, Square, ExactLinear)},
    "fgsm": (lambda: fgsm(0.1), NO_THREAT),  # type: ignore[arg-type]
    "a recipe": (lambda: attack("pgd-40", 0.1), NO_THREAT),  # type: ignore[arg-type]
    "one attack": (lambda: WorstOf(APGD(THREAT)), "a tuple of at least one attack"),  # type: ignore[arg-type]
    "an attack's name": (lambda: WorstOf(("pgd-40",)), NO_ATTACK),  # type: ignore[arg-type]
    "an attack's class": (lambda: WorstOf((APGD,)), NO_ATTACK),
    "no rank": (lambda: EachTarget(nfl.PGD(THREAT)), "an attack with a target_rank"),  # type: ignore[arg-type]
    "targeted": (lambda: targeted("pgd", MODEL, X, Y, (Y + 1) % 3, torch.Generator()), NO_ATTACK),  # type: ignore[arg-type]
    "no generator": (lambda: attacked(X, None), "rng must be a generator, got None; write"),
    "a seed": (lambda: attacked(X, 0), "rng must be a generator, got 0; write"),
    "sparse inputs": (lambda: attacked(SPARSE, torch.Generator()), r"x must be a dense tensor.* x.to_dense\(\)"),
    "sparse data": (lambda: nfl.evaluate(MODEL, (SPARSE, Y), THREAT), "x must be a dense tensor"),
    "a list as protocol": (lambda: evaluated(protocol=[1]), "unknown protocol"),
    "a list of attacks": (lambda: evaluated(attacks=[APGD(THREAT)]), "attacks must be attacks by name"),
    "a number as name": (lambda: evaluated(attacks={1: APGD(THREAT)}), "attacks must be attacks by name"),
    "a name as attack": (lambda: evaluated(attacks={"mine": "pgd-40"}), NO_ATTACK),
    **{
        f"{name}={value!r}": (
            lambda name=name, value=value: nfl.TrainConfig(**{name: value}),
            f"{name} must be .* got {value!r}",
        )
        for name, value in [
            *((name, "0.5") for name in ("epochs", "lr", "weight_decay", "ema", "eps_warmup", "holdout", "step_size")),
            *((name, "2") for name in ("batch_size", "accumulate", "seed")),
            ("epochs", True),
            ("lr", b"1"),
            ("start", None),
        ]
    },
    **{
        f"a list as {name}": (lambda name=name: nfl.TrainConfig(**{name: ["x"]}), rf"unknown {name}.* \"\['x'\]")
        for name in ("arch", "recipe", "attack", "optimiser", "schedule", "augment", "precision")
    },
    "a text as eps": (lambda: nfl.Linf("0.1"), "eps must be a number in .* got '0.1'"),  # type: ignore[arg-type]
    "a data set's name": (lambda: nfl.train("mnist", nfl.TrainConfig()), "data must be a Dataset.* got str"),  # type: ignore[arg-type]
    "a preset's name": (lambda: nfl.train(toy_data(8), "laptop"), "config must be a TrainConfig, got str"),  # type: ignore[arg-type]
    "a data set": (lambda: nfl.evaluate(MODEL, toy_data(8), THREAT), "got Dataset.* its .test is one"),  # type: ignore[arg-type]
    "radii as threats": (lambda: sweep(MODEL, (X, Y), [0.1, 0.2]), NO_THREAT),  # type: ignore[list-item]
    "one threat": (lambda: sweep(MODEL, (X, Y), THREAT), "one or more of one norm and box, in a list"),  # type: ignore[arg-type]
    "attacks in a list": (lambda: sweep(MODEL, (X, Y), [THREAT], attacks=["a"]), "functions of the threat by name"),  # type: ignore[arg-type]
    "a radius beyond floats": (lambda: nfl.Linf(10**400), "eps must be a number in"),
    "steps as a type": (lambda: nfl.PGD(THREAT, steps=int), "steps must be a whole number .* got <class 'int'>"),  # type: ignore[arg-type]
    "steps in an array": (lambda: nfl.PGD(THREAT, steps=torch.tensor([1, 2])), "steps must be a whole number"),  # type: ignore[arg-type]
    "half a step": (lambda: nfl.PGD(THREAT, steps=torch.tensor(1.5)), "steps must be a whole number"),  # type: ignore[arg-type]
    "a list as loss": (lambda: nfl.PGD(THREAT, loss=["ce"]), "unknown loss"),  # type: ignore[arg-type]
    "a list as recipe": (lambda: nfl.TrainConfig().changed({"recipe": ["x"]}), "unknown recipe"),
    "one mean": (lambda: Declared(mean=0.5, std=0.5), r"a number per channel, such as \(0.5,\)"),  # type: ignore[arg-type]
    "texts as outputs": (lambda: Declared(labels=("a", "b")), "an index of labels must be a whole number"),  # type: ignore[arg-type]
    "lists as a split": (lambda: Split([1], [2], (0, 1)), "x must be a tensor, got list"),  # type: ignore[arg-type]
    "a class twice": (lambda: Split(IMAGES, Y, (0, 0, 1, 2)), "its classes, each once"),
    "a box of texts": (lambda: nfl.fit_linear([[0.1]], [1], 0.1, box=("a", "b")), r"box must be \(low, high\)"),  # type: ignore[arg-type]
    "half a box": (lambda: nfl.fit_linear([[0.1]], [1], 0.1, box=(None, 1)), r"box must be \(low, high\)"),  # type: ignore[arg-type]
    "a number as known": (lambda: evaluated(known=3), "known must be an earlier result of evaluate, got 3"),
}


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("name", WRONG)
def test_wrong_types_are_refused_in_a_sentence(name: str) -> None:
    use, words = WRONG[name]
    with pytest.raises(InputError, match=words):
        use()


@pytest.mark.usefixtures("_no_type_checker")
def test_a_folder_may_be_given_as_text(tmp_path: Path) -> None:
    evaluated(out=str(tmp_path / "kept"))
    assert (tmp_path / "kept").is_dir()
