"""The command line: one frozen dataclass a command; its fields are the options, its `run` does the work.

Exit codes: 0 done; 1 the run failed; 2 bad input; 3 `evaluate` cannot trust its number; 130 Ctrl-C; 143 SIGTERM.
"""

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from nofreelunch import __version__
from nofreelunch.cli.app import App
from nofreelunch.cli.complaint import sentence
from nofreelunch.cli.data import Data
from nofreelunch.cli.evaluate import Evaluate
from nofreelunch.cli.explain import Explain
from nofreelunch.cli.reproduce import Reproduce
from nofreelunch.cli.sweep import Sweep
from nofreelunch.cli.theory import Theory
from nofreelunch.cli.train import Train
from nofreelunch.errors import InputError, RunError, unknown

COMMANDS: dict[str, type[Any]] = {
    "reproduce": Reproduce,
    "train": Train,
    "evaluate": Evaluate,
    "explain": Explain,
    "sweep": Sweep,
    "theory": Theory,
    "data": Data,
    "app": App,
}

_DESCRIPTION = "Adversarial robustness: exact where it can be, honest where it cannot (after Tsipras et al., 2018)."


@runtime_checkable
class Command(Protocol):
    """What `main` runs."""

    def run(self) -> int:
        """Do the work; the exit code."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, run the command, answer errors in one sentence on stderr; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may hold letters that the terminal has not
    with _terminated_as_exception():
        return _answered(arguments)


def _answered(arguments: list[str]) -> int:
    """The exit code of a command, once its errors are told."""
    try:
        if arguments == ["--version"]:
            print(f"nofreelunch {__version__}")
            return 0
        command = parse(arguments or ["--help"])
        try:
            return command.run()
        except SystemExit as stop:
            if stop.code:
                raise
            raise RunError("code of the model's ended the program, which is no success") from stop
    except InputError as error:
        return _fail(f"error: {error}", 2)
    except RunError as error:
        return _fail(f"failed: {error}", 1)
    except KeyboardInterrupt:
        return _fail("stopped: the same command goes on from what was kept, if anything was", 130)
    except _Terminated:
        return _fail("terminated: the same command goes on from what was kept, if anything was", 143)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"failed: {error.filename or 'the system'}: {error.strerror or error}", 1)
    except Exception as error:
        return _fail(f"failed: {type(error).__name__}: {_line(str(error))} (NOFREELUNCH_DEBUG=1 shows where)", 1)


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments ask for.

    Raises:
        InputError: for an unknown command or option, or a value of the wrong form.
        SystemExit: with 0, after `--help`.
    """
    import tyro

    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise unknown("command", arguments[0], COMMANDS)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command: Command = tyro.extras.subcommand_cli_from_dict(
                dict(COMMANDS), prog="nofreelunch", description=_DESCRIPTION, args=list(arguments)
            )
            return command
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(sentence(complaint.getvalue(), arguments, COMMANDS)) from None


class _Terminated(BaseException):
    """SIGTERM arrived."""


@contextlib.contextmanager
def _terminated_as_exception() -> Iterator[None]:
    """SIGTERM unwinds the stack like Ctrl-C does, so that whoever holds state can keep it.

    A command that is ending already says why before it is gone.
    """

    def terminate(signum: int, frame: FrameType | None) -> None:
        if not isinstance(sys.exc_info()[1], (InputError, RunError, KeyboardInterrupt, _Terminated)):
            raise _Terminated

    try:
        previous = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not in the main thread: signals are the caller's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _line(text: str) -> str:
    return " ".join(text.split())[:600]


def _fail(message: str, code: int) -> int:
    if os.environ.get("NOFREELUNCH_DEBUG"):
        traceback.print_exc()
    print("".join(map(_shown, message)), file=sys.stderr)
    return code


def _shown(letter: str) -> str:
    """The letter, or its code where it would break the line, or is none: words of the user's stand in sentences."""
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()
