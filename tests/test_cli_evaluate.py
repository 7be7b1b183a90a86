"""`nofreelunch evaluate`: what it writes, says and exits with, on models of a few weights."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nofreelunch.attacks import APGD, PGD, Square
from nofreelunch.cli import main, progress
from nofreelunch.data import Split
from nofreelunch.drawing import style
from nofreelunch.evaluation import PROTOCOLS, Protocol, journal
from nofreelunch.evaluation.tally import Tally
from nofreelunch.models.sources import code_fingerprint
from nofreelunch.report.evaluation import evaluation_page, plot

pytestmark = pytest.mark.usefixtures("unchecked")

NETS = """
import torch
from torch import nn

def linear():
    '''The brighter half wins.'''
    layer = nn.Linear(16, 2)
    layer.weight.data = torch.tensor([[1.0] * 8 + [-1.0] * 8, [-1.0] * 8 + [1.0] * 8]) / 8
    layer.bias.data.zero_()
    return nn.Sequential(nn.Flatten(), layer)

class Bent(nn.Module):
    '''Nearly linear, so that attacks find what there is to find.'''
    def __init__(self):
        super().__init__()
        self.inner = linear()
    def forward(self, x):
        return torch.tanh(self.inner(x))

class Rounded(Bent):
    '''Has no gradient.'''
    def forward(self, x):
        return super().forward((x * 4).round() / 4)

class Swapped(Bent):
    '''Its outputs are in another order, among others, and it takes pixels from 0 to 255.'''
    def forward(self, x):
        logits = super().forward(x / 255)
        return torch.stack([logits[:, 1], -9 + 0 * logits[:, 0], logits[:, 0]], 1)

class Fickle(Bent):
    '''Another one whenever it is made.'''
    made = 0
    def __init__(self):
        super().__init__()
        Fickle.made += 1
        self.inner[1].weight.data *= (-1) ** Fickle.made
"""


SHORT = Protocol(
    "short",
    first=("pgd-10", lambda threat: PGD(threat, steps=5)),
    main={"apgd-ce": lambda threat: APGD(threat, steps=10), "square": lambda threat: Square(threat, steps=20)},
    harder=lambda threat: APGD(threat, steps=20),
    sample=8,
    probing=5,
    thorough=5,
    longest=20,
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a data set of two classes, left half or right half bright, and networks for it."""
    rng = np.random.default_rng(0)
    images = rng.integers(60, 150, (90, 4, 4)).astype(np.uint8)
    labels = np.arange(90) % 2
    images[labels == 0, :2] += 40
    images[labels == 1, 2:] += 40
    np.savez(tmp_path / "halves.npz", x_train=images[:30], y_train=labels[:30], x_test=images[30:], y_test=labels[30:])
    (tmp_path / "toy_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PROTOCOLS, "quick", SHORT)
    monkeypatch.delitem(sys.modules, "toy_nets", raising=False)


BY = ("by_attack", "clean_by_class", "robust_by_class")


def run(net: str, *options: str) -> int:
    given = [
        "evaluate",
        f"python:toy_nets:{net}",
        "--data",
        "npz:halves.npz",
        "--threat",
        "linf",
        "--protocol",
        "quick",
    ]
    return main([*given, *options])


def record(folder: str = "runs/evaluate") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "evaluation.json").read_text())
    return content


def test_a_linear_model_is_answered_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("linear", "--eps", "8/255", "--json", "copy.json") == 0
    out, err = capsys.readouterr()
    found = record()
    assert Path("copy.json").read_bytes() == Path("runs/evaluate/evaluation.json").read_bytes()
    assert found["verdict"] == "trusted"
    assert found["exact"]
    assert found["threat"]["eps"] == 8 / 255
    assert found["data"] == {"name": "halves", "classes": ["0", "1"], "images": 60, "of": 60, "index": [*range(60)]}
    share = f"{found['robust']['correct'] / 60:.1%} of 60"
    counts = [found["clean"], found["robust"], *(c for by in BY for c in found[by].values())]
    for count in counts:
        tally = Tally(count["correct"], count["total"])
        assert (count["rate"], tuple(count["interval"])) == (tally.rate, tally.interval(0.95))
    assert f"robust accuracy exactly {share} (95% interval " in out
    assert "verdict         trusted" in out
    assert "linf eps 8/255" in out
    assert out.isascii()
    assert "exact-linear: " in err
    page = Path("runs/evaluate/evaluation.html").read_text()
    assert "<del>" not in page
    low, high = found["robust_by_class"]["1"]["interval"]
    assert f"{found['robust_by_class']['1']['rate']:.1%} ({low:.1%} to {high:.1%})</td>" in page
    for by in BY:
        for count in found[by].values():
            del count["rate"], count["interval"]
    pages = (page, evaluation_page(found).decode())  # the second of a file of before, which says counts alone
    first, second = (each.partition("By class")[2].partition("</table>")[0] for each in pages)
    assert first == second
    assert "exactly" in page
    assert not list(Path("runs/evaluate").glob("evaluation.state*"))


def test_the_figure_does_not_depend_on_the_batch_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("Bent", "--eps", "8/255", "--batch-size", "7", "--out", "small") == 0
    assert run("Bent", "--eps", "8/255") == 0
    assert record("small").pop("command") == f"{record()['command']} --batch-size=7"
    for same in ("robust", "by_attack", "broken_by", "margin"):
        assert record("small")[same] == record()[same]
    assert run("Bent", "--eps", "8/255", "--batch-size", "1") == 2
    assert "--batch-size must be a whole number of at least 2, got 1" in capsys.readouterr().err


def test_test_images_alone_are_evaluated_and_explained_but_not_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    whole = np.load("halves.npz")
    np.savez("alone.npz", x=whole["x_test"], y=whole["y_test"])
    assert run("Bent", "--eps", "8/255") == 0
    assert run("Bent", "--eps", "8/255", "--data", "npz:alone.npz", "--out", "alone") == 0
    for same in ("robust", "by_attack", "data_digest", "margin"):
        assert record()[same] == record("alone")[same]
    shown = ["explain", "python:toy_nets:Bent", "--n", "2", "--measure", "8", "--points", "3", "--eps", "0.5"]
    for data, neighbours in (("halves", 1), ("alone", 0)):
        assert main([*shown, "--data", f"npz:{data}.npz", "--out", data]) == 0
        assert Path(data, "explain.html").read_text().count("the real image nearest to that") == neighbours
    capsys.readouterr()
    for words in (["train", "--arch", "linear"], ["reproduce", "table-4", "--classes", "0", "1", "--scale", "smoke"]):
        assert main([*words, "--data", "npz:alone.npz", "--out", "none"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert re.match("error: alone.* has test images only: it can be evaluated and explained, not trained on", said)
    assert not list(Path("none").glob("*"))


@pytest.mark.parametrize("file", ["worst.npz", "worst.safetensors"])
def test_several_radii_make_a_curve_and_the_file_proves_it(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("Bent", "--eps", "0.15", "--eps", "0.03", "--n", "20", "--save-examples", file) in (0, 3)
    out, _ = capsys.readouterr()
    found = record()
    assert [ev["threat"]["eps"] for ev in (*found["smaller_radii"], found)] == [0.03, 0.15]
    arrays = {k: torch.from_numpy(v) for k, v in np.load(file).items()} if file[-1] == "z" else load_file(file)
    test = np.load("halves.npz")
    index = arrays["index"].numpy()
    assert len(set(index)) == 20
    x = torch.from_numpy(test["x_test"][index]).double()[:, None] / 255
    import toy_nets  # type: ignore[import-not-found]

    for z, eps, ev in zip(arrays["x_adv"], arrays["eps"], (*found["smaller_radii"], found), strict=True):
        assert (z.double() - x.float().double()).abs().amax() <= eps
        assert z.min() >= 0
        assert z.max() <= 1
        wrong = toy_nets.Bent()(z).argmax(1) != arrays["y"]
        assert int(wrong.sum()) == 20 - ev["robust"]["correct"]
        assert f"{int(wrong.sum())} at eps {float(eps):.4g}" in out
    assert found["smaller_radii"][0]["robust"]["correct"] > found["robust"]["correct"]
    lost_first = [step != "" for step in found["smaller_radii"][0]["broken_by"]]
    assert [radius is not None and radius <= 0.03 for radius in found["distance"]] == lost_first
    assert sum(radius is None for radius in found["distance"]) == found["robust"]["correct"]
    assert found["median_distance"] == 0.15
    assert "half of the images are lost within eps 0.15" in out
    page = Path("runs/evaluate/evaluation.html").read_text()
    assert 'role="img" aria-label="Robust accuracy falls with the radius: ' in page
    assert page.count("<svg") == 1
    with style():
        shown = plot(found).axes[0].containers
    assert [bar.lines[0].get_xdata()[0] for bar in shown] == [0, 0.03, 0.15]
    assert [100 * found["clean"]["correct"] / 20, 100 * found["robust"]["correct"] / 20] == pytest.approx(
        [bar.lines[0].get_ydata()[0] for bar in (shown[0], shown[2])]
    )


def test_a_doubtful_figure_is_struck_out_with_its_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("Rounded", "--eps", "0.05", "--n", "24") == 3
    out, _ = capsys.readouterr()
    assert "verdict         doubtful" in out
    assert "zero-gradients" in out
    assert "what to do: " in out
    page = Path("runs/evaluate/evaluation.html").read_text()
    assert "<del>at most" in page
    assert "zero-gradients" in page
    assert "What to do:" in page


def test_more_images_than_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("linear", "--eps", "0.01", "--n", "1000") == 0
    out, err = capsys.readouterr()
    assert "60 of 60 test images" in out
    assert "--n 1000: the test set has 60 images; all of them are used" in err


@pytest.mark.parametrize("there", [1, 7, 10000, 50000])
def test_images_are_spread_evenly_and_none_is_taken_twice(there: int) -> None:
    split = Split(torch.zeros(there, 1, 1, 1, dtype=torch.uint8), torch.zeros(there, dtype=torch.long), (0, 1))
    for n in {1, 3, there // 3 + 1, there - 1, there, there + 1} - {0}:
        index = split.evenly_spaced(n).tolist()
        assert len(set(index)) == len(index) == min(n, there)
        assert index[0] == 0
        gaps = {b - a for a, b in pairwise([*index, there])}
        assert max(gaps) - min(gaps) <= 1


def test_what_is_declared_of_a_model_becomes_part_of_it() -> None:
    assert run("Bent", "--eps", "0.03", "--out", "plain") == 0
    assert run("Swapped", "--eps", "0.03", "--range", "0..255", "--labels", "2,0", "--out", "swapped") == 0
    plain, swapped = record("plain"), record("swapped")
    assert plain["clean"] == swapped["clean"]
    assert plain["robust"] == swapped["robust"]
    assert "--range=0..255 --labels=2,0" in swapped["command"]


BAD = {
    "no radius": ([], "--eps is needed"),
    "a radius of 0 to 255": (["--eps", "8"], "did you mean 8/255"),
    "an l_2 radius of 0 to 255": (["--threat", "l2", "--eps", "128"], "at most 4 apart; did you mean 128/255"),
    "no number": (["--eps", "x"], '"x" is not a number'),
    "no count": (["--eps", "0.1", "--n", "0"], "n must be a whole number of at least 1"),
    "a pickle": (["--eps", "0.1", "--save-examples", "a.pkl"], "must end in .npz or .safetensors"),
    "no range": (["--eps", "0.1", "--range", "255"], "write it like 0..255"),
    "a range upside down": (["--eps", "0.1", "--range", "1..0"], "range must go up"),
    "no deviation": (["--eps", "0.1", "--std", "0"], "std must be in"),
    "too few labels": (["--eps", "0.1", "--labels", "1,2,3"], "one index for each of the 2 classes"),
    "no such output": (["--eps", "0.1", "--labels", "1,2"], "labels name output 2, but the model has 2 outputs"),
    "twice the same": (["--eps", "0.1", "--labels", "1,1"], "two or more different output indices"),
    "half a label": (["--eps", "0.1", "--labels", "0.5,1"], "whole numbers"),
    "no such library": (["--eps", "0.1", "--attack", "torchattack:PGD"], 'did you mean "torchattacks"'),
    "no such attack": (["--eps", "0.1", "--attack", "pgd-41"], 'unknown attack "pgd-41"; did you mean "pgd-40"'),
    "an attack of the protocol's": (["--eps", "0.1", "--attack", "square"], '"square" is a step of evaluate itself'),
    "no such protocol": (["--eps", "0.1", "--protocol", "slow"], "quick"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, message = BAD[name]
    assert run("linear", *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not Path("runs/evaluate/evaluation.json").exists()


class Stop(BaseException):
    """kill -9, as far as what is on the disk goes."""


def test_a_stopped_evaluation_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--eps", "0.02", "--eps", "0.1", "--n", "24", "--save-examples", "a.npz")
    whole_exit = run("Bent", *options, "--out", "whole")
    steps = capsys.readouterr().err.splitlines()

    @contextmanager
    def stopped(console: object) -> Iterator[progress.Report]:
        left = iter(range(len(steps) // 2))

        def report(step: str, done: int, total: int) -> None:
            if next(left, None) is None:
                raise Stop

        yield report

    monkeypatch.setattr(journal, "_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(progress, "shown", stopped)
        with pytest.raises(Stop):
            run("Bent", *options)
    assert list(Path("runs/evaluate/evaluation.state").glob("*/linf-eps-0.02/*.npz"))
    first = np.load("a.npz")["x_adv"]
    assert run("Bent", *options) == whole_exit
    assert len(capsys.readouterr().err.splitlines()) < len(steps)
    assert np.array_equal(np.load("a.npz")["x_adv"], first)
    for found, whole in (
        (record(), record("whole")),
        (record()["smaller_radii"][0], record("whole")["smaller_radii"][0]),
    ):
        assert {**found, "seconds": 0, "smaller_radii": 0} == {**whole, "seconds": 0, "smaller_radii": 0}
    assert not Path("runs/evaluate/evaluation.state").exists()


def test_a_model_that_is_another_one_each_time_proves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("Fickle", "--eps", "0.02", "--n", "20", "--save-examples", "a.npz") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "a fresh copy of the model judges" in err
    assert not Path("runs/evaluate/evaluation.json").exists()


def test_points_outside_the_ball_prove_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nofreelunch.evaluation import proof

    save = proof.save_examples

    def shifted(path: Path, *others: Any) -> None:
        save(path, *others)
        arrays = load_file(path)
        arrays["x_adv"][0, 3] += 1e-3
        save_file(arrays, path)

    monkeypatch.setattr(proof, "save_examples", shifted)
    assert run("linear", "--eps", "0.02", "--n", "20", "--save-examples", "a.safetensors") == 1
    assert "1 of 20 examples in a.safetensors are outside ball or box" in capsys.readouterr().err


def test_an_edited_network_is_another_one() -> None:
    sys.path.insert(0, ".")
    try:
        import toy_nets
    finally:
        sys.path.remove(".")
    before = code_fingerprint("python:toy_nets:Bent", toy_nets.Bent())
    assert b"Nearly linear" in before
    Path("toy_nets.py").write_text(NETS.replace("tanh", "sin"))
    assert code_fingerprint("python:toy_nets:Bent", toy_nets.Bent()) != before


def test_the_page_escapes_what_it_shows() -> None:
    run("linear", "--eps", "0.02")
    found = record()
    evil = "<script>alert(1)</script>"
    found["model"]["spec"] = found["data"]["classes"][0] = found["command"] = evil
    found["flags"] = [{"name": evil, "evidence": evil, "what_to_do": evil}]
    page = evaluation_page(found).decode()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6
    assert "http" not in page.replace("http-equiv", "")


def test_progress_in_a_log_is_lines_now_and_then() -> None:
    said: list[str] = []
    times = iter([0.0, 1.0, 20.0, 20.5, 21.0, 22.0])
    report = progress._lines(said.append, lambda: next(times))
    for done in (10, 20, 30):
        report("apgd-ce", done, 100)
    report("apgd-ce", 100, 100)
    assert said == ["apgd-ce: 20 of 100", "apgd-ce: 100 of 100"]


def test_every_flag_is_in_the_manual() -> None:
    root = Path(__file__).parents[1]
    page = (root / "docs" / "evaluate.md").read_text()
    sources = "".join(path.read_text() for path in (root / "src/nofreelunch/evaluation").rglob("*.py"))
    names = set(re.findall(r'Flag\(\s*"([a-z-]+)"', sources))
    assert len(names) > 15
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_a_model_of_other_classes_is_told_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["evaluate", "zoo:mnist-standard", "--data", "mnist-5v7", "--threat", "linf", "--eps", "0.1"]
    assert main([*command, "--out", str(tmp_path / "e")]) == 2
    said = "zoo:mnist-standard has 10 outputs, and mnist-5v7 2 classes (5, 7); say which output each class is"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_a_mean_in_other_units_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "zoo:mnist-standard", "--data", "mnist", "--threat", "linf", "--eps", "0.1"]
    assert main([*command, "--mean", "33.3", "--std", "78.6"]) == 2
    assert "mean 33.3 lies outside of the pixels' range 0..1; " in capsys.readouterr().err
