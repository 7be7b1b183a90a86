"""The local web page: its tabs show what the commands leave; it serves this machine only and calls nobody."""

import json
import re
import shlex
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from nofreelunch.app.answers import evaluated, explained
from nofreelunch.app.frame import framed
from nofreelunch.app.gaussian import COLUMNS, solved
from nofreelunch.app.question import Place, Question, datasets, radii
from nofreelunch.cli import main
from nofreelunch.data import DATASETS
from nofreelunch.errors import InputError
from nofreelunch.experiments.paper_values import TABLE_2_EPS, TABLE_3_EPS
from nofreelunch.models import zoo_names
from nofreelunch.theory import GaussianModel

HERE = Place()
DIGITS = Question("mnist-standard", "mnist", "l2", "4", n=2, seed=1)
OBJECTS = Question("cifar10-linf-4", "cifar10-sample", "linf", "4/255", n=2, seed=0)


def silent(step: str, done: int, total: int) -> None:
    pass


def test_each_model_has_images() -> None:
    found = datasets(HERE)
    assert [*found] == [*zoo_names()]
    assert all(sets and set(sets) <= set(DATASETS) for sets in found.values())
    assert found["mnist-standard"] == ("mnist",)
    assert "cifar10-sample" in found["cifar10-standard"]


def test_radii_are_those_of_the_paper_in_its_unit() -> None:
    digits = radii(TABLE_3_EPS, "mnist", "l2")
    assert (digits.paper, digits.eps(digits.paper), digits.eps(0.1 + 0.2)) == (4.0, "4", "0.3")
    objects = radii(TABLE_2_EPS, "cifar10-sample", "l2")
    assert (objects.paper, objects.step, objects.eps(objects.paper)) == (80.0, 1.0, "80/255")


def test_an_explanation_is_the_page_of_the_command(tmp_path: Path) -> None:
    assert main([*shlex.split(DIGITS.command("explain", HERE))[1:], "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert shown(explained(DIGITS, HERE)) == shown((tmp_path / "explain.html").read_bytes())


@pytest.mark.usefixtures("unchecked")
def test_an_evaluation_is_the_page_of_the_command(tmp_path: Path) -> None:
    command = OBJECTS.command("evaluate", HERE, "--protocol", "quick")
    assert main([*shlex.split(command)[1:], "--device", "cpu", "--out", str(tmp_path)]) == 3
    steps: list[str] = []
    page = evaluated(OBJECTS, HERE, lambda step, done, total: steps.append(step))
    assert "few-examples" in shown(page)
    assert shown(page) == shown((tmp_path / "evaluation.html").read_bytes())
    assert steps


def test_the_command_says_where_the_data_sets_lie() -> None:
    assert shlex.split(DIGITS.command("explain", Place(data_root=Path("my data"))))[-1] == "--data-root=my data"


def shown(page: bytes) -> str:
    """All but how long it took, and the command, which has more than one wording."""
    return re.sub("<code>nofreelunch .*?</code>|<dt>Wall time</dt>.*", "", page.decode())


def test_what_cannot_be_asked_is_said() -> None:
    cases = {
        "model": Question("mnist-robust", "mnist", "l2", "4", 2, 0),
        "data set": Question("mnist-standard", "mnits", "l2", "4", 2, 0),
        "did you mean 255/255": Question("mnist-standard", "mnist", "l2", "255", 2, 0),
        "n must be": Question("mnist-standard", "mnist", "l2", "4", 0, 0),
    }
    for said, question in cases.items():
        for ask in (explained, lambda question, place: evaluated(question, place, silent)):
            with pytest.raises(InputError, match=said):
                ask(question, HERE)


def test_the_theory_is_the_closed_form() -> None:
    found = solved(100, 0.3, 0.7, 0.6)
    average = [0.0] + [1.0] * 100
    model = GaussianModel(100, 0.3, 0.7)
    clean, robust = (100 * model.robust_accuracy(average, eps) for eps in (0.0, 0.6))
    row = dict(zip(COLUMNS, next(row for row in found.rows if row[0].startswith("average")), strict=True))
    assert row["clean accuracy"] == f"{clean:.2f} %"
    assert row["robust accuracy"] == f"{robust:.2f} %"
    assert row["Theorem 2.1 allows"] == f"{7 / 3 * (100 - clean):.2f} %"
    assert "as ε ≥ 2η = 0.6 here" in found.words[0]
    assert "There is no adversarial SVM here" in found.words[2]
    assert found.markdown().count("\n|") == len(found.rows) + 1
    assert found.plot.startswith("<svg")


def test_the_bound_is_not_shown_where_it_does_not_hold() -> None:
    found = solved(100, 0.3, 0.7, 0.5)
    assert {row[-1] for row in found.rows} == {"–"}
    assert "but only for ε ≥ 2η = 0.6" in found.words[0]


@pytest.mark.parametrize("corner", [(1, 0.0, 0.5, 0.0), (1, 1.0, 0.99, 0.99), (5000, 1.0, 0.5, 0.99)])
def test_the_theory_has_an_answer_in_every_corner(corner: tuple[int, float, float, float]) -> None:
    assert "NaN" not in solved(*corner).markdown()


def test_a_page_in_a_frame_stays_there() -> None:
    shown = framed(b'<p>"</iframe><script>', 'a "title"')
    assert shown.count("<") == 2
    assert 'sandbox="allow-same-origin"' in shown


def test_without_gradio_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "--device", "cpu"]) == 2
    told = "error: app needs the package gradio; install it with: pip install 'nofreelunch[app]'\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_a_port_that_is_none(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--port", port]) == 2
    assert "port must be a whole number from 1 to 65535" in capsys.readouterr().err


SERVE = """
import socket, sys
from nofreelunch.cli import main

connect = socket.socket.connect
def connect_here(self, place):
    if place[0] != "127.0.0.1":
        print("calls", place, file=sys.stderr)
        raise OSError("there is no network")
    connect(self, place)
socket.socket.connect = connect_here

with socket.create_server(("127.0.0.1", 0)) as taken:
    assert main(["app", "--device", "cpu", "--port", str(taken.getsockname()[1])]) == 2
sys.exit(main(["app", "--device", "cpu"]))
"""
"""Asks for a port that is taken, then serves; a call to another machine is told and fails."""


def test_the_page_as_it_is_served() -> None:
    """In a process of its own, through HTTP: Gradio's threads and sockets outlive its server."""
    if not getattr(find_spec("gradio"), "origin", None):  # it may have left an empty folder
        pytest.skip("pip install 'nofreelunch[app]'")
    command = [sys.executable, "-W", "ignore", "-c", SERVE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = re.fullmatch(r"page: (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", process.stdout.readline())
        assert said
        with urlopen(said[1]) as page:
            assert page.headers["content-security-policy"].startswith("default-src 'self';")
        plot, words = ask(said[1], "theory", 100, 0.3, 0.7, 0.6)
        found = solved(100, 0.3, 0.7, 0.6)
        assert found.plot in plot
        assert words == found.markdown()
        assert ask(said[1], "explain", "mnist-standard", "mnist", "l2", 4, 2, 1) == [
            framed(explained(DIGITS, HERE), "What mnist-standard sees")
        ]
        refusal = ask(said[1], "explain", "mnist-standard", "mnist", "l2", 4, 2, None)
        assert refusal["error"] == "seed must be a whole number of at least 0, got None"
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    taken, stopped = err.splitlines()
    assert re.fullmatch(r"error: port \d+ is in use; give another --port", taken)
    assert stopped.startswith("stopped")


def ask(address: str, what: str, *values: object) -> Any:
    """What the page answers."""
    place = f"{address}gradio_api/call/{what}"
    request = Request(place, json.dumps({"data": values}).encode(), {"content-type": "application/json"})
    with urlopen(request) as begun:
        event = json.load(begun)["event_id"]
    with urlopen(f"{place}/{event}") as stream:
        *_, last = [line for line in stream.read().decode().splitlines() if line.startswith("data: ")]
    return json.loads(last.removeprefix("data: "))
