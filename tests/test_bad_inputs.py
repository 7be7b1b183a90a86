"""Bad uses, lines 1 to 28: values that mean something else; labels and shapes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bad_uses import (
    BALL,
    NET,
    Commands,
    Refused,
    X,
    Y,
    _no_type_checker,
    asked,
    attacked,
    evaluated,
    here,
    line,
    names,
    refused,
    refused_by_command,
    run,
)  # fmt: skip
from nofreelunch.attacks import PGD, fgsm, restarts
from nofreelunch.attacks.targets import targeted
from nofreelunch.cli import main
from nofreelunch.data import Split, load_data
from nofreelunch.evaluation import evaluate
from nofreelunch.models.classifier import Card
from nofreelunch.models.registry import assemble
from nofreelunch.threats import L2, Linf, threat
from nofreelunch.training.config import TrainConfig

__all__ = ["_no_type_checker", "here"]


def with_pixel(value: float) -> torch.Tensor:
    x = X.clone()
    x[3, 0, 1, 1] = value
    return x


OURS = assemble(Card("linear", (1, 28, 28), 2, (0.0,), (1.0,)))
LEVELS, WHITE = (X * 255).round(), (X - X.mean()) / X.std()
REFUSED: Refused = {
    "eps of grey levels": (1, lambda: Linf(8), r"eps=8: .* did you mean 8/255 = 0\.03137\?"),
    "eps of half the grey levels": (1, lambda: Linf(127.5), r"did you mean 127\.5/255 = 0\.5\?"),
    "pixels of 0 to 255": (2, lambda: attacked(x=LEVELS), r"lie in \[0, 1\], got values from .* divide by 255"),
    "pixels of 0 to 255, evaluated": (2, lambda: evaluated(x=LEVELS), "divide by 255"),
    "normalised pixels": (3, lambda: attacked(x=WHITE), "normalise inside the model"),
    "normalised pixels, evaluated": (3, lambda: evaluated(x=WHITE), "normalise inside the model"),
    "uint8 pixels": (4, lambda: attacked(x=LEVELS.byte()), r"uint8; .* x\.float\(\) / 255"),
    "int64 pixels": (5, lambda: attacked(x=LEVELS.long()), "got torch.int64"),
    "int64 pixels, evaluated": (5, lambda: evaluated(x=LEVELS.long()), "got torch.int64"),
    "numpy pixels": (5, lambda: attacked(x=X.numpy()), "x must be a tensor, got ndarray; torch.as_tensor"),
    "numpy pixels, evaluated": (5, lambda: evaluated(x=X.numpy()), r"got \(ndarray, Tensor\); torch.as_tensor"),
    "float16 pixels": (6, lambda: attacked(x=X.half()), "float32 or float64, got torch.float16"),
    "negative eps": (7, lambda: Linf(-0.1), r"eps must be in \[0, inf\), got -0\.1"),
    "eps that is NaN": (7, lambda: L2(float("nan")), "got nan"),
    "infinite eps": (7, lambda: L2(float("inf")), "got inf"),
    "no steps": (10, lambda: PGD(BALL, steps=0), "steps must be a whole number of at least 1, got 0"),
    "negative steps": (10, lambda: PGD(BALL, steps=-1), "got -1"),
    "half steps": (10, lambda: PGD(BALL, steps=1.5), "got 1.5"),
    "a negative step": (11, lambda: PGD(BALL, step_size=-0.01), "step_size must be in .*got -0.01"),
    "a step of length 0": (11, lambda: PGD(BALL, step_size=0), "step_size must be in"),
    "an unknown norm": (12, lambda: threat("l3", 0.1), 'unknown norm "l3"; known: l2, linf'),
    "a norm misspelt": (12, lambda: threat("linf2", 0.1), 'did you mean "linf"'),
    "identical restarts": (13, lambda: restarts(fgsm(BALL), 10), "random_start=True"),
    "no targets": (
        14,
        lambda: targeted(PGD(BALL), NET, X, Y, None, torch.Generator()),
        "targets must be a tensor, got None",
    ),
    "targets that are true": (14, lambda: targeted(PGD(BALL), NET, X, Y, Y, torch.Generator()), "example 0 has 0 for"),
    "labels from 1": (15, lambda: attacked(y=Y + 1), r"label 2 seen, but the model has 2 outputs \(0..1\)"),
    "labels from 1, evaluated": (15, lambda: evaluated(y=Y + 1), r"label 2 seen, but the model has 2 outputs"),
    "torch's label to ignore": (16, lambda: attacked(y=Y.where(Y == 0, -100)), "label -100 seen"),
    "a label of -1": (16, lambda: evaluated(y=-Y), "label -1 seen"),
    "float labels": (17, lambda: evaluated(y=Y.float()), "y must hold integers, got torch.float32"),
    "labels in a list": (17, lambda: attacked(y=Y.tolist()), "y must be a tensor, got list"),
    "one-hot labels": (18, lambda: evaluated(y=nn.functional.one_hot(Y).float()), r"y\.argmax\(1\)"),
    "fewer labels": (19, lambda: evaluated(y=Y[:5]), "x holds 24 examples and y 5 labels"),
    "no batch": (20, lambda: OURS(torch.rand(1, 28, 28)), r"\(1, 28, 28\)"),
    "no channel": (20, lambda: attacked(OURS, torch.rand(24, 28, 28)), r"\(24, 28, 28\)"),
    "channels last": (21, lambda: attacked(OURS, torch.rand(24, 28, 28, 1)), r"1, 28, 28.*28, 28, 1"),
    "no examples": (22, lambda: evaluated(x=X[:0], y=Y[:0]), "nothing to evaluate"),
    "a scalar": (22, lambda: evaluated(x=torch.tensor(0.5), y=torch.tensor(1)), "nothing to evaluate"),
    "an empty split": (
        22,
        lambda: evaluate(NET, Split(X[:0].byte(), Y[:0], (0, 1)), Linf(0.1), "quick"),
        "nothing to evaluate: the split holds no images",
    ),
    "NaN in an image": (25, lambda: attacked(x=with_pixel(torch.nan)), "example 3 holds NaN"),
    "infinity in an image": (25, lambda: evaluated(x=with_pixel(torch.inf)), "example 3 holds NaN or inf"),
    "one class": (26, lambda: evaluated(lambda z: NET(z)[:, :1], y=Y * 0), "at least 2 logits, got 1"),
    "a threat that is none": (12, lambda: evaluated(threat="linf"), r"threat such as Linf\(8 / 255\), got 'linf'"),
    "a box that is none": (2, lambda: Linf(0.1, box=255), "box must be .low, high., finite, .* got 255"),
    "a box that cuts images off": (
        2,
        lambda: TrainConfig(arch="linear", threat=Linf(0.1, box=(0.2, 0.8))),
        r"pixels of images are in \[0, 1\], and so must be .* got box=\(0.2, 0.8\)",
    ),
    "images beside a box of 255": (
        2,
        lambda: evaluated(x=LEVELS.byte(), threat=Linf(8, box=(0, 255))),
        r"got box=\(0, 255\); leave the box away, and give eps in that unit, such as 8/255",
    ),
    "a model that ends the program": (28, lambda: evaluated(lambda z: sys.exit(0)), "cannot take x .*SystemExit"),
    "targets of labels from 1": (
        15,
        lambda: targeted(PGD(BALL), NET, X, Y + 2, Y, torch.Generator()),
        r"label 3 seen, but the model has 2 outputs",
    ),
    "a seed that is none": (7, lambda: evaluated(seed=1.5), "seed must be a whole number of at least 0, got 1.5"),
}
asked(REFUSED)

EVALUATE = ["evaluate", "python:toy_nets:linear", "--data", "npz:halves.npz", "--threat", "linf"]
TRAIN = ["train", "--data", "npz:halves.npz", "--arch", "linear"]
COMMANDS: Commands = {
    "eps of grey levels": (1, [*EVALUATE, "--eps", "8"], r"did you mean 8/255 = 0\.03137\?"),
    "eps of grey levels, l2": (1, [*EVALUATE[:-1], "l2", "--eps", "128"], "did you mean 128/255"),
    "eps of grey levels to train": (1, [*TRAIN, "--threat", "linf", "--eps", "8"], r"did you mean 8/255"),
    "eps that is NaN": (7, [*EVALUATE, "--eps", "nan"], '"nan" is not a number'),
    "infinite eps": (7, [*EVALUATE, "--eps", "inf"], '"inf" is not a number'),
    "negative eps": (7, [*EVALUATE, "--eps", "-0.1"], "eps"),
    "a fraction by 0": (9, [*EVALUATE, "--eps", "8/0"], '"8/0" is not a number; write it like 0.3, 1e-3 or 8/255'),
    "a norm misspelt": (12, [*TRAIN, "--threat", "linf2", "--eps", "0.1"], 'did you mean "linf"'),
    "no images": (22, [*EVALUATE, "--eps", "0.1", "--n", "0"], "n must be a whole number of at least 1, got 0"),
}
asked(COMMANDS)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    _, use, words = REFUSED[name]
    refused(use, words)


@pytest.mark.parametrize("name", COMMANDS)
def test_refused_by_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, words, said = COMMANDS[name]
    refused_by_command(words, said, capsys)


@line(4)
def test_uint8_images_are_converted_and_that_is_said() -> None:
    found = evaluated(x=LEVELS.byte())
    assert found.broken_by == evaluated(x=LEVELS / 255).broken_by
    assert "uint8" in found.notes[0]
    assert "dividing by 255" in found.notes[0]


@line(6)
def test_float64_images_are_converted_once() -> None:
    assert attacked(x=X.double()).dtype == torch.float64
    assert evaluated(x=X.double()).broken_by == evaluated().broken_by


@line(8)
@pytest.mark.parametrize("kind", [Linf, L2])
def test_without_a_radius_nothing_moves(kind: type[Linf]) -> None:
    assert torch.equal(attacked(threat=kind(0)), X)
    found = evaluated(threat=kind(0), keep_examples=True)
    assert found.robust == found.clean
    assert torch.equal(found.x_adv, X)


@line(9)
def test_fractions_are_read_and_echoed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("linear", "--eps", "8/255") == 0
    assert "linf eps 8/255" in capsys.readouterr().out
    assert '"eps": 0.03137254901960784' in Path("runs/evaluate/evaluation.json").read_text()
    assert threat("linf", "8/255") == Linf(8 / 255)


@line(11)
def test_steps_that_cannot_reach_the_surface_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="cannot reach the surface"):
        PGD(BALL, 10, step_size=0.001)


@line(12)
@pytest.mark.parametrize("norm", ["2", 2, 2.0, "L2", "l_2", "l2"])
def test_spellings_of_the_l2_norm(norm: str | float) -> None:
    assert threat(norm, 0.5) == L2(0.5)


@line(12)
@pytest.mark.parametrize("norm", ["inf", "Linf", "L_inf", "linf", float("inf"), np.inf])
def test_spellings_of_the_linf_norm(norm: str | float) -> None:
    assert threat(norm, 0.5) == Linf(0.5)


@line(17)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_integer_labels_of_any_width_are_taken(dtype: torch.dtype) -> None:
    assert torch.equal(attacked(y=Y.to(dtype)), attacked())


@line(23)
def test_a_batch_of_one_is_as_good_as_a_large_one() -> None:
    assert attacked(x=X[:1], y=Y[:1]).shape == (1, 1, 4, 4)
    whole = evaluated(threat=Linf(0.3))
    assert evaluated(threat=Linf(0.3), batch_size=23).broken_by == whole.broken_by
    assert evaluated(x=X[:1], y=Y[:1], threat=Linf(0.3)).broken_by == whole.broken_by[:1]


@line(24)
def test_more_images_than_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("linear", "--eps", "0.01", "--n", "1000") == 0
    out, err = capsys.readouterr()
    assert "60 of 60 test images" in out
    assert "the test set has 60 images; all of them are used" in err


@line(26)
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes: int) -> None:
    def net(z: torch.Tensor) -> torch.Tensor:
        return torch.cat([NET(z), NET(z).amin(1, keepdim=True) - 1], 1)[:, :classes]

    assert evaluated(net, threat=Linf(0.4)).robust.rate < 1


@line(27)
def test_labels_in_another_order_make_the_figure_invalid() -> None:
    found = evaluated(y=Y.roll(12).sort().values)
    assert found.verdict == "invalid"
    assert "chance-accuracy" in names(found)


@line(28)
def test_images_of_train_among_those_of_test_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = dict(np.load("halves.npz"))
    np.savez("leaked.npz", **arrays | {"x_test": np.concatenate([arrays["x_train"][:2], arrays["x_test"][2:]])})
    told = "2 of 60 test images of leaked are training images as well"
    assert load_data("npz:leaked.npz").notes == (told,)
    assert load_data("npz:halves.npz").notes == ()
    assert main([*EVALUATE, "--eps", "0.01", "--protocol", "quick"]) == 0
    assert "60 of 60 test images" in capsys.readouterr().out  # the split stands beside the figure
    assert main([*[word.replace("halves", "leaked") for word in EVALUATE], "--eps", "0.01", "--protocol", "quick"]) == 0
    assert told in capsys.readouterr().out
    assert told in Path("runs/evaluate/evaluation.html").read_text()
    assert main(["data", "pack", "npz:leaked.npz", "--out", "leaked.safetensors"]) == 0
    assert load_data("leaked.safetensors").notes == (told,)
