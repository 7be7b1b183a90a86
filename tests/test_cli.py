"""The command line: one sentence for bad input, the right exit code, nothing half-written, quick help."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nofreelunch import __version__, cli, names
from nofreelunch.cli import COMMANDS, main, parse
from nofreelunch.cli.complaint import EXAMPLES
from nofreelunch.data import DATASETS, FORMATS
from nofreelunch.errors import RunError
from nofreelunch.experiments.registry import EXPERIMENTS
from nofreelunch.models import ARCHITECTURES
from nofreelunch.theory import summary
from nofreelunch.workspace import plain

OF_ZOO = ["zoo:mnist-standard", "--data", "mnist", "--threat", "linf"]
BAD = {
    "unknown command": (["teory"], 'unknown command "teory"; did you mean "theory"?'),
    "unknown experiment": (["reproduce", "figure-22"], 'unknown experiment "figure-22"; did you mean "figure-2"?'),
    "unknown option": (["theory", "--d", "3", "--eta", "1", "--eps", "0", "--epz", "0.1"], 'did you mean "--eps"?'),
    "missing option": (
        ["theory", "--d", "3"],
        "theory needs --eta and --eps; for example: nofreelunch theory --d 1000",
    ),
    "all is missing": (
        ["evaluate"],
        "evaluate needs MODEL, --data, --threat and --eps; for example: nofreelunch evaluate",
    ),
    "missing value": (["theory", "--d", "3", "--eta"], "theory needs a value after --eta; nofreelunch theory --help"),
    "unlike any": (
        ["train", "--data", "mnist", "--foo", "1"],
        "train has no use for --foo, 1; nofreelunch train --help",
    ),
    "epsilon": (["evaluate", *OF_ZOO, "--epsilon", "0.3"], '"--epsilon" is no option, did you mean "--eps"?'),
    "dataset": (
        ["explain", "zoo:mnist-standard", "--dataset=mnist"],
        'needs --data; "--dataset" is no option, did you',
    ),
    "norm": (
        ["train", "--data", "mnist", "--norm", "l2", "--eps", "1"],
        '"--norm" is no option, did you mean "--threat"?',
    ),
    "samples": (["evaluate", *OF_ZOO, "--eps", "1", "--samples", "9"], '"--samples" is no option, did you mean "--n"?'),
    "model": (["evaluate", "--model", *OF_ZOO, "--eps", "0.3"], 'MODEL is written without "--model"'),
    "model for arch": (["train", "--data", "mnist", "--model", "linear"], 'did you mean "--arch"?'),
    "nothing like it": (
        ["evaluate", *OF_ZOO, "--zzzz"],
        "no use for --zzzz; nofreelunch evaluate --help lists the options",
    ),
    "missing command word": (["data"], "list"),
    "eps is no number": (["theory", "--d", "3", "--eta", "1", "--eps", "abc"], '"abc" is not a number'),
    "eps is negative": (["theory", "--d", "3", "--eta", "1", "--eps", "-1"], "eps must be in"),
    "eps is nan": (["theory", "--d", "3", "--eta", "1", "--eps", "nan"], "nan"),
    "p is no probability": (["theory", "--d", "3", "--eta", "1", "--eps", "0", "--p", "1.2"], "p must be in"),
    "d is no whole number": (["theory", "--d", "1.5", "--eta", "1", "--eps", "0"], '"1.5" is not a whole number'),
    "two radii in one": (
        ["evaluate", "zoo:mnist-standard", "--data", "mnist", "--threat", "linf", "--eps", "0.1,8/255"],
        "write --eps 0.1 --eps 8/255",
    ),
    "a file in the place of a module": (
        ["evaluate", "nets/mine.py:make", "--data", "mnist", "--threat", "linf", "--eps", "0.1"],
        "a function of yours is python:nets.mine:make",
    ),
    "d is no count": (["theory", "--d", "0", "--eta", "1", "--eps", "0"], "d must be"),
    "unknown scale": (["reproduce", "--scale", "lap"], "smoke"),
    "unknown data set": (["reproduce", "table-4", "--data", "mnits"], 'did you mean "mnist"?'),
    "a file without its kind": (["reproduce", "table-4", "--data", "d3.npz"], 'did you mean "npz:d3.npz"?'),
    "unknown class": (["reproduce", "table-4", "--classes", "3", "12"], "12"),
    "one of two values": (
        ["reproduce", "table-4", "--classes", "3"],
        "--classes takes 2 values, such as --classes 3 8; got 1: '3'",
    ),
    "an option without meaning": (["reproduce", "theorem-2.1", "--classes", "3", "8"], "--classes means nothing to"),
    "no such device": (["reproduce", "theorem-2.1", "--device", "cuda:99"], "cuda:99"),
    "nothing to fetch": (["data", "fetch"], "needs a name"),
    "nowhere to pack to": (["data", "pack", "somewhere"], "--out"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, expected = BAD[name]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    *progress, last = err.strip().splitlines()
    assert last.startswith("error: ")
    assert expected in last
    assert len(progress) <= 1
    assert "Traceback" not in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


WITHOUT_TORCH = [
    ["evaluate", *OF_ZOO],
    ["evaluate", *OF_ZOO, "--eps", "abc"],
    ["evaluate", *OF_ZOO, "--eps=-1"],
    ["evaluate", *OF_ZOO, "--eps", "0.1", "--n", "0"],
    ["evaluate", *OF_ZOO, "--epsilon", "0.1"],
    ["evaluate", "zoo:mnist-lnf-0.3", *OF_ZOO[1:], "--eps", "0.1"],
    ["evaluate", "nowhere.onnx", *OF_ZOO[1:], "--eps", "0.1"],
    *(
        ["explain", "zoo:mnist-standard", "--data", data]
        for data in ("mnits", "npz:no.npz", "folder:no", "no.safetensors")
    ),
    ["explain", "zoo:mnist-standard", "--data", "mnist", "--points", "1"],
    ["train", "--data", "mnits"],
    ["train", "--data", "mnist", "--arch", "mnits-cnn"],
    ["train", "--data", "mnist", "--threat", "linf", "--eps", "1/0"],
    ["reproduce", "figure-22"],
    ["reproduce", "table-4", "--data", "mnits"],
]


def test_names_and_numbers_are_refused_before_torch_is_loaded() -> None:
    code = (
        "import json, sys; from nofreelunch.cli import main\n"
        "codes = [main(arguments) for arguments in json.loads(sys.argv[1])]\n"
        "sys.exit(bool({'torch', 'scipy'} & set(sys.modules)) or codes != [2] * len(codes))"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(WITHOUT_TORCH)], check=True)


def test_the_names_are_those_of_the_tables() -> None:
    assert tuple(DATASETS) == names.DATA_SETS
    assert tuple(FORMATS) == names.FORMATS
    assert tuple(ARCHITECTURES) == names.ARCHITECTURES
    assert tuple(EXPERIMENTS) == names.EXPERIMENTS


def test_examples_of_commands_are_commands() -> None:
    for name, example in EXAMPLES.items():
        assert isinstance(parse(example.split()[1:]), COMMANDS[name])
    for name, command in COMMANDS.items():
        assert name in EXAMPLES or isinstance(parse([name]), command)


def test_unwritable_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["reproduce", "theorem-2.1", "--scale", "smoke", "--out", str(tmp_path / "file" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nofreelunch {__version__}\n"
    for arguments in ([], ["--help"], *([command, "--help"] for command in COMMANDS)):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert not stop.value.code
        assert "usage: nofreelunch" in capsys.readouterr().out


def test_help_imports_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; from nofreelunch.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_signal_ends_in_one_sentence(tmp_path: Path) -> None:
    """The command is stopped while it computes: its own code, one line, no half-written file.

    What SIGINT does to a process is asked in test_cli_train.py.
    """
    command = [sys.executable, "-m", "nofreelunch", "reproduce", "--scale", "laptop", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stderr is not None
    process.stderr.readline()  # the first experiment has begun
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert "goes on from what was kept" in err.splitlines()[-1]
    assert not list(tmp_path.rglob(".*.json.*"))


def test_theory_prints_and_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["theory", "--d", "16", "--eta", "1", "--eps", "1/2", "--json", "out.json"]
    assert main(arguments) == 0
    first = (tmp_path / "out.json").read_bytes()
    assert first == (tmp_path / "runs" / "theory" / "theory.json").read_bytes()
    assert main(arguments) == 0
    assert first == (tmp_path / "out.json").read_bytes()
    quantities = summary(16, 1.0, 0.7, 0.5)
    assert json.loads(first) == plain(quantities)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if line and line[0] != " "] == list(quantities) * 2
    row = next(line for line in lines if line.strip().startswith("bayes"))
    assert row.split()[1:] == [f"{value:.6g}" for value in quantities["accuracy"]["bayes"].values()]
    assert main([*arguments, "--d", "1.6e1"]) == 0
    assert first == (tmp_path / "out.json").read_bytes()


def test_reproduce_says_how_the_claims_fared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "theorem-2.2", "--scale", "smoke", "--out", str(tmp_path)]) == 0
    counts, *refuted, report = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "results" / "theorem-2.2.json").read_text())["findings"]
    verdicts = [finding["verdict"] for finding in found]
    told = [f"{verdicts.count(name)} {name}" for name in ("agrees", "refuted", "beyond the paper")]
    assert counts == f"theorem-2.2: {', '.join(told)}"
    assert [line.split(": ", 1)[1].split(" Here")[0] for line in refuted] == [
        finding["claim"] for finding in found if finding["verdict"] == "refuted"
    ]
    assert report == f"report: {tmp_path / 'report.html'}"


class Fails:
    """Its launcher ends it as soon as it fails."""

    def run(self) -> int:
        try:
            raise RunError("another process ended")
        finally:
            signal.raise_signal(signal.SIGTERM)


def test_a_failure_is_told_whoever_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "parse", lambda arguments: Fails())
    before = signal.getsignal(signal.SIGTERM)
    assert main(["train"]) == 1
    assert capsys.readouterr().err == "failed: another process ended\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_class_that_is_not_there_is_told_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "theorem-2.2", "table-4", "--classes", "3", "12", "--scale", "smoke", "--out", str(tmp_path)]
    assert main(words) == 2
    assert 'unknown class of mnist "12"' in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_code_of_a_model_s_that_ends_the_program_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "leaving.py").write_text(
        "import sys, torch\n"
        "class Leaves(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        sys.exit(0)\n"
        "def factory():\n"
        "    sys.exit(0)\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("Leaves", "factory"):
        words = [
            "evaluate",
            f"python:leaving:{name}",
            "--data",
            "mnist",
            "--threat",
            "linf",
            "--eps",
            "0.1",
            "--n",
            "20",
        ]
        assert main(words) == 2
        assert "SystemExit" in capsys.readouterr().err
