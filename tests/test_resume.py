"""A run that is killed, stopped or spread over processes ends like one that is not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import training_toy
from nofreelunch.errors import RunError
from nofreelunch.models import tensors
from nofreelunch.training import train
from nofreelunch.training.events import Event, Notice, Started, Step
from nofreelunch.training.signals import NotedSignals
from training_toy import DATA, toy_config

pytestmark = pytest.mark.usefixtures("unchecked")

TOY = Path(__file__).with_name("training_toy.py")
CHANGES = {"arch": "mnist-cnn-small", "epochs": 2.0, "ema": 0.9, "augment": "crop-flip", "eps_warmup": 0.5}
SETTINGS = {"recipe": "free", **CHANGES}


def launch(out: Path, *changes: dict[str, object], processes: int = 1) -> subprocess.Popen[str]:
    """Runs in `out/0`, `out/1`, ... in a process of their own, or several that share the work."""
    spread = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(spread if processes > 1 else []), str(TOY), str(out), *map(json.dumps, changes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(process: subprocess.Popen[str], seconds: float = 120.0) -> tuple[str, str]:
    """What it wrote to stdout and stderr; processes that wait for each other for ever are ended."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends those it has started
        process.communicate()
        raise


def kept(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last state: weights, optimiser, average, best, delta."""
    return load_file(out / "state.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def steps_logged(out: Path) -> list[str]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return [line for line in lines if json.loads(line)["event"] in ("step", "epoch")]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption; made before any test, with its shapes and types checked."""
    out = tmp_path_factory.mktemp("reference")
    torch.set_num_threads(1)
    train(DATA, toy_config(**SETTINGS), out=out, device="cpu")
    return out


def check_like(reference: Path, out: Path) -> None:
    assert same(kept(out), kept(reference))
    assert same(load_file(out / "model.safetensors"), load_file(reference / "model.safetensors"))
    assert steps_logged(out) == steps_logged(reference)


class Killed(BaseException):
    """The process is gone."""


def run_until_killed(out: Path, listener: Callable[[Event], None]) -> None:
    try:
        train(DATA, toy_config(**SETTINGS), out=out, device="cpu", report=listener, save_seconds=0.0)
    except Killed:
        return
    pytest.fail("the run was to be killed")


def go_on(out: Path) -> list[Event]:
    events: list[Event] = []
    train(DATA, toy_config(**SETTINGS), out=out, device="cpu", report=events.append)
    return events


def test_a_run_killed_anywhere_in_its_steps_ends_like_the_uninterrupted_one(reference: Path, tmp_path: Path) -> None:
    """Cut after some events: within a replayed batch, before and after a look, twice in a row, in the last step."""
    for number, cuts in enumerate([(1,), (4, 3), (7,), (8,), (13, 2, 1)]):
        out = tmp_path / str(number)
        for cut in cuts:
            seen: list[Event] = []

            def listener(event: Event, seen: list[Event] = seen, cut: int = cut) -> None:
                seen.append(event)
                if len(seen) > cut:
                    raise Killed

            run_until_killed(out, listener)
        go_on(out)
        check_like(reference, out)


def test_at_most_the_steps_since_the_last_save_are_lost(tmp_path: Path) -> None:
    def listener(event: Event) -> None:
        if isinstance(event, Step) and event.step == 5:
            raise Killed

    run_until_killed(tmp_path, listener)
    started = go_on(tmp_path)[0]
    assert isinstance(started, Started)
    assert started.step == 4


def test_a_real_kill_while_it_works(reference: Path, tmp_path: Path) -> None:
    with launch(tmp_path, SETTINGS) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("step 4 "):
                process.kill()
    go_on(tmp_path / "0")
    check_like(reference, tmp_path / "0")


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Killed)])
def test_a_signal_saves_within_a_step_and_goes_to_its_own_handler(
    reference: Path, tmp_path: Path, number: signal.Signals, raised: type[BaseException]
) -> None:
    def handler(signum: int, frame: object) -> None:
        raise raised

    def listener(event: Event) -> None:
        if isinstance(event, Step) and event.step == 3:
            os.kill(os.getpid(), number)

    before = signal.signal(number, handler)
    try:
        with pytest.raises(raised):
            train(DATA, toy_config(**SETTINGS), out=tmp_path, device="cpu", report=listener)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 3
    go_on(tmp_path)
    check_like(reference, tmp_path)


def test_a_signal_that_comes_after_the_last_step_is_not_lost() -> None:
    def last_step() -> None:
        with NotedSignals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.signum == signal.SIGINT

    with pytest.raises(KeyboardInterrupt):
        last_step()


def test_a_second_signal_acts_at_once() -> None:
    reached = []

    def step() -> None:
        with NotedSignals():
            for number in (1, 2):
                signal.raise_signal(signal.SIGINT)
                reached.append(number)

    with pytest.raises(KeyboardInterrupt):
        step()
    assert reached == [1]


def test_damage_costs_one_save_and_a_notice(reference: Path, tmp_path: Path) -> None:
    def listener(event: Event) -> None:
        if isinstance(event, Step) and event.step == 4:
            raise Killed

    run_until_killed(tmp_path, listener)
    path = tmp_path / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(bytes(content))
    events = go_on(tmp_path)
    notices = [event for event in events if isinstance(event, Notice)]
    assert "digest does not hold" in notices[0].message
    assert next(event for event in events if isinstance(event, Started)).step == 2
    check_like(reference, tmp_path)


def test_a_full_disk_stops_the_run_and_keeps_the_last_state(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = tensors.atomic_write, [0]

    def full(path: Path, content: bytes) -> None:
        calls[0] += 1
        if calls[0] > 13:
            raise RunError(f"cannot write {path}: No space left on device")
        real(path, content)

    monkeypatch.setattr(tensors, "atomic_write", full)
    with pytest.raises(RunError) as caught:
        train(DATA, toy_config(**SETTINGS), out=tmp_path, device="cpu", report=lambda event: None, save_seconds=0.0)
    assert "No space left on device" in str(caught.value)
    assert "the last good state is that of step" in str(caught.value)
    monkeypatch.undo()
    go_on(tmp_path)
    check_like(reference, tmp_path)


# --- several processes


PLAIN: list[dict[str, object]] = [{"arch": "mnist-cnn-small", "epochs": 1.0}, {"recipe": "free", "epochs": 1.0}]
WITH_STATISTICS: list[dict[str, object]] = [{"arch": "batch-norm", "epochs": 1.0, "ema": ema} for ema in (0.0, 0.9)]
DISAGREEING: dict[str, object] = {"arch": "mnist-cnn-small", "epochs": 0.5}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Runs that two processes share, and what these printed; in the last one they find different states, and end."""
    out = tmp_path_factory.mktemp("together")
    train(DATA, toy_config(**DISAGREEING), out=out / "4-0", device="cpu")
    with launch(out, *PLAIN, *WITH_STATISTICS, {**DISAGREEING, "apart": True}, processes=2) as process:
        output, complaint = finished(process)
    assert process.returncode != 0
    assert sorted(path.name for path in out.glob("*.*")) == [f"{run}.{rank}" for run in "0123" for rank in "01"], (
        complaint
    )
    return out, output, complaint


def losses(output: str) -> list[float]:
    return [float(line.split()[2]) for line in output.splitlines() if line.startswith("step")]


def test_two_processes_share_each_batch_and_find_the_same_losses(
    together: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, output, _ = together
    training_toy.main(str(tmp_path), *map(json.dumps, PLAIN))
    expected = losses(capsys.readouterr().out)
    assert len(expected) == 12
    assert [json.loads((out / run / "previous.json").read_text())["step"] for run in "01"] == [6, 6]
    assert losses(output)[:12] == pytest.approx(expected, abs=1e-5)
    for run in "01":
        models = [load_file(folder / run / "model.safetensors") for folder in (tmp_path, out)]
        assert all(torch.allclose(models[0][name], models[1][name], atol=1e-4) for name in models[0])


def test_two_processes_agree_on_the_statistics_of_batch_norm(together: tuple[Path, str, str]) -> None:
    """Each sees its own half of a batch, and only the first one's state is saved."""
    for run in "23":
        assert (together[0] / f"{run}.0").read_text() == (together[0] / f"{run}.1").read_text()


def test_processes_that_find_different_states_do_not_go_on(together: tuple[Path, str, str]) -> None:
    """As on two machines without a common disk."""
    out, _, complaint = together
    assert "must be one folder for all processes" in complaint
    assert (out / "4-0" / "model.safetensors").exists()
    assert not (out / "4-1" / "model.safetensors").exists()
