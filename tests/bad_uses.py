"""What the four tests of bad uses share: a small problem, and the count of the 64 lines of the catalogue that they ask.

The catalogue has five parts: A, values that mean something else (lines 1 to 14); B, labels and shapes (15 to 28);
C, models (29 to 40); D, files, checkpoints, data (41 to 56); E, the command line (57 to 64).
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from nofreelunch.attacks import PGD
from nofreelunch.cli import main
from nofreelunch.errors import InputError
from nofreelunch.evaluation import Evaluation, evaluate
from nofreelunch.threats import Linf, Threat
from test_cli_evaluate import SHORT, here, run

__all__ = ["SHORT", "here", "run"]

Test = TypeVar("Test", bound=Callable[..., object])
Refused: TypeAlias = dict[str, tuple[int, Callable[[], object], str]]
"""Name of a use -> the line it stands for, the use, what the sentence says (a pattern)."""
Commands: TypeAlias = dict[str, tuple[int, Sequence[str], str]]
"""Name of a command -> the line it stands for, its words, what the sentence says."""

ASKED: set[int] = set()
"""The lines that some test asks; filled in as the tests are read."""

BALL = Linf(0.1)
Y = torch.arange(24) % 2
X = (torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + Y.view(-1, 1, 1, 1)) / 2
NET = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
NET[1].weight.data = torch.tensor([[-1.0], [1.0]]).expand(2, 16).clone()
NET[1].bias.data = torch.tensor([8.0, -8.0])


def line(*numbers: int) -> Callable[[Test], Test]:
    """The test asks these lines."""
    ASKED.update(numbers)
    return lambda test: test


def asked(table: Refused | Commands) -> Refused | Commands:
    """The table, whose lines are asked."""
    ASKED.update(number for number, *_ in table.values())
    return table


@pytest.fixture
def _no_type_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users have none before the door."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def attacked(model: object = NET, x: object = X, y: object = Y, threat: Threat = BALL) -> Tensor:
    return PGD(threat, steps=3)(model, x, y, torch.Generator())  # type: ignore[arg-type]


def evaluated(model: object = NET, x: object = X, y: object = Y, threat: object = BALL, **more: object) -> Evaluation:
    return evaluate(model, (x, y), threat, SHORT, **more)  # type: ignore[arg-type]


def names(found: Evaluation) -> set[str]:
    return {flag.name for flag in found.flags}


def refused(use: Callable[[], object], words: str) -> None:
    """The use is answered at the door, in one sentence that says this."""
    with pytest.raises(InputError) as caught:
        use()
    message = str(caught.value)
    assert re.search(words, message), message
    assert "\n" not in message
    assert "weights_only" not in message


def refused_by_command(words: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one sentence that says this, nothing on stdout, nothing written or changed."""
    before = contents()
    code = main(words)
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert out == ""
    *notices, last = err.splitlines()
    assert last.startswith("error: ")
    assert re.search(said, last), last
    assert len(notices) <= 1
    assert contents() == before


def contents(folder: Path = Path()) -> dict[str, bytes]:
    """All files below the folder but locks, which are empty."""
    found = (Path(place, name) for place, _, files in os.walk(folder) for name in files if name != ".lock")
    return {str(path): path.read_bytes() for path in found if "__pycache__" not in path.parts}
