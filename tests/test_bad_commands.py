"""Bad uses, lines 57 to 64: the command line; and that all 64 lines are asked."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import test_bad_files
import test_bad_inputs
import test_bad_models
from bad_uses import ASKED, Commands, asked, here, line, refused_by_command
from nofreelunch.cli import main, parse
from nofreelunch.cli.train import Train
from nofreelunch.training.state import State, load_state, save_state

__all__ = ["here", "test_bad_files", "test_bad_inputs", "test_bad_models"]

THEORY = ["theory", "--d", "4", "--eta", "1", "--eps", "0.1"]
OF_HALVES = ["--data", "npz:halves.npz", "--threat", "linf", "--eps", "0.1"]
COMMANDS: Commands = {
    "an option is missing": (57, ["theory", "--d", "4"], "--eta"),
    "an option misspelt": (58, [*THEORY, "--epz", "0.1"], 'did you mean "--eps"'),
    "a command behind a dash": (58, ["-", "evaluate"], "evaluate needs MODEL, --data, --threat and --eps"),
    "a needed option misspelt": (
        58,
        ["theory", "--d", "3", "--eta", "1", "--epz", "0"],
        '"--epz" is no option, did you mean "--eps"?',
    ),
    "a value misspelt": (58, ["evaluate", "x", *OF_HALVES[:3], "linff", "--eps", "1"], 'did you mean "linf"'),
    "a command misspelt": (58, ["teory"], 'did you mean "theory"'),
    "an unknown key": (60, ["sweep", "key.toml"], 'unknown setting "epz"; did you mean "eps"'),
    "a value of another type": (60, ["sweep", "type.toml"], "seed must be a whole number, got 'one'"),
    "a seed below 0": (60, ["reproduce", "theorem-2.1", "--seed", "-1"], "seed must be a whole number of at least 0"),
    "code": (60, ["sweep", "code.toml"], "is not a number"),
    "an option of another command": (58, [*THEORY, "--device", "cpu"], "--help lists the options"),
    "an option of another action": (58, ["data", "list", "--size", "5"], "--size means nothing to data list"),
    "no GPU": (61, ["evaluate", "python:toy_nets:linear", *OF_HALVES, "--device", "cuda:7"], '"cuda:7" is not on this'),
    "no such device": (61, ["train", "--data", "npz:halves.npz", "--device", "gpu"], "there are: auto, cpu"),
}
asked(COMMANDS)
SPECS = {
    "key": '[train]\ndata = "mnist"\nepz = 1\n[grid]\nseed = [0]',
    "type": '[train]\ndata = "mnist"\n[grid]\nseed = ["one"]',
    "code": "[train]\ndata = \"mnist\"\nlr = \"__import__('os').mkdir('ran')\"\n[grid]\nseed = [0]",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_refused_by_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for spec, content in SPECS.items():
        Path(f"{spec}.toml").write_text(content)
    _, words, said = COMMANDS[name]
    refused_by_command(words, said, capsys)
    assert not Path("ran").exists()


@line(59)
def test_of_an_option_given_twice_the_last_one_counts_and_is_shown() -> None:
    command = parse(["train", "--data", "npz:x", "--arch", "linear", "--seed", "1", "--seed", "2"])
    assert isinstance(command, Train)
    config = command.config(command.data)
    assert config.seed == 2
    assert "--seed 2" in command._command(config)


@line(57, 62)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_help_is_plain_text_on_any_terminal(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "NO_COLOR": "1", "LC_ALL": "C"}
    code = "import sys; from nofreelunch.cli import main; main(['data', 'list']) if sys.argv[1:] else main([])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert done.returncode == 0
    assert b"usage: nofreelunch" in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr


@line(63)
def test_sigterm_ends_a_command_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a training keeps then is asked in test_resume.py and test_cli_train.py."""
    monkeypatch.setattr("nofreelunch.theory.summary", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert main(THEORY) == 143
    assert capsys.readouterr().err.startswith("terminated: ")


@line(42, 64)
def test_the_latest_state_is_that_of_its_content_not_of_a_clock() -> None:
    for step in (1, 2):
        save_state(Path(), State({"step": step}, {"w": torch.full((1,), float(step))}))
    for name in ("state.json", "state.safetensors"):
        os.utime(name, (0, 0))
    found, _ = load_state(Path())
    assert found
    assert found.about["step"] == 2
    Path("state.safetensors").write_bytes(b"")
    found, complaints = load_state(Path())
    assert found
    assert found.about["step"] == 1
    assert "state.safetensors is damaged" in complaints[0]


def test_each_of_the_64_lines_is_asked() -> None:
    assert set(range(1, 65)) == ASKED
