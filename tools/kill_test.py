"""Stop training in every way we know, 60 times, and count how often it ends as if nothing had happened.

Standard, l_inf and l_2 training on 512 images of MNIST, with a state after each step. 40 kills at random moments, 12 at
chosen points of the work, 4 full disks, 4 times SIGTERM or Ctrl-C. Then the run is started again: it must go on without
a question, from at most one step before, and end with the same weights, optimiser and log as the run that was left
alone.

    python tools/kill_test.py [--seed N] [--only random|placed|disk|signal]
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHILD = Path(__file__).with_name("kill_test_run.py")
TASKS = ("standard", "linf", "l2")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Trial:
    """One way to stop a run.

    Args:
        kind: "random", "placed", "disk" or "signal".
        task: what is trained.
        faults: one for each start of the run before the last: a fault of `kill_test_run`, or "" for none.
        moment: share of an undisturbed run after which it is killed or signalled from outside; None for not at all.
        number: the signal; SIGKILL for kinds that kill.
        processes: that share the run.
    """

    kind: str
    task: str
    faults: tuple[str, ...] = ("",)
    moment: float | None = None
    number: int = signal.SIGKILL
    processes: int = 1


@dataclass(frozen=True)
class Ended:
    """How one start of a run ended.

    Args:
        code: exit status; negative for a signal.
        first: the step that it went on from; None if it did not come so far.
        last: the last step that it told of.
        seconds: from its first word to its end.
        complaint: what it wrote on stderr.
    """

    code: int
    first: int | None
    last: int
    seconds: float
    complaint: str


def trials(rng: random.Random) -> Iterator[Trial]:
    """The 60 of the protocol."""
    for count in range(40):
        yield Trial("random", TASKS[count % 3], moment=rng.random())
    placed = [
        ("before-open:9",),
        ("after-open:10",),
        ("half-written:11",),
        ("before-fsync:12",),
        ("before-rename:13",),
        ("after-rename:14",),
        ("between-pairs:5",),
        ("during-look:2",),
        ("during-log:2",),
        ("before-rename:7", "half-written:6"),
        ("after-rename:9", "during-resume:1"),
    ]
    for count, faults in enumerate(placed):
        yield Trial("placed", TASKS[count % 3], faults)
    yield Trial("placed", "linf", ("one-of-two:20",), processes=2)
    for count in range(4):
        yield Trial("disk", TASKS[count % 3], (f"disk-full:{rng.randrange(3, 60)}",))
    for count in range(4):
        yield Trial("signal", TASKS[count % 3], moment=rng.random() * 0.8, number=SIGNALS[count % 2])


def start(out: Path, task: str, fault: str, processes: int) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    spread = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [
        sys.executable,
        *(spread if processes > 1 else []),
        str(CHILD),
        str(out),
        task,
        *([fault] if fault else []),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def follow(process: subprocess.Popen[str], wait: float | None = None, number: int = 0) -> Ended:
    """Read what a run tells until it ends; `wait` seconds after its first word it gets the signal."""
    assert process.stdout
    assert process.stderr
    first, last, began = None, 0, time.monotonic()
    for line in process.stdout:
        event, step = line.split()
        if event == "started":
            first, began = int(step), time.monotonic()
            if wait is not None:
                time.sleep(wait)
                process.send_signal(number)
        last = max(last, int(step))
    complaint = process.stderr.read()
    return Ended(process.wait(), first, last, time.monotonic() - began, complaint)


def digest(out: Path) -> str:
    """Of weights, optimiser, average and log of a run that has ended."""
    sha = hashlib.sha256()
    for name in ("state.safetensors", "model.safetensors"):
        sha.update((out / name).read_bytes())
    for line in (out / "log.jsonl").read_text().splitlines():
        if json.loads(line)["event"] in ("step", "epoch"):
            sha.update(line.encode())
    return sha.hexdigest()


def verdict(trial: Trial, out: Path, expected: str, seconds: float) -> str:
    """What went wrong, "" for nothing."""
    reached = 0
    for fault in trial.faults:
        wait = None if trial.moment is None else trial.moment * seconds
        ended = follow(start(out, trial.task, fault, trial.processes), wait, trial.number)
        if trial.kind == "disk" and (ended.code != 1 or "No space left on device" not in ended.complaint):
            return f"the full disk was answered with exit {ended.code}: {ended.complaint}"
        if trial.kind == "signal" and ended.last and ended.code not in (-trial.number, 0):
            return f"the signal was answered with exit {ended.code}"
        if trial.kind == "placed" and trial.processes == 1 and ended.code != -signal.SIGKILL:
            return f"{fault} did not kill the run: exit {ended.code}: {ended.complaint}"
        if trial.processes > 1 and "SIGKILL" not in ended.complaint:
            return f"{fault} killed no process: {ended.complaint}"
        reached = max(reached, ended.last)
    ended = follow(start(out, trial.task, "", trial.processes))
    if ended.code:
        return f"it did not go on: exit {ended.code}: {ended.complaint}"
    if ended.first is None or ended.first < reached - 1:
        return f"it went on from step {ended.first}, though step {reached} had been reached"
    return "" if digest(out) == expected else "it ended differently"


def main() -> int:
    """Run the trials; 0 if all pass."""
    parser = argparse.ArgumentParser(description="Stop training 60 times; it must end as if nothing had happened.")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--only", choices=("random", "placed", "disk", "signal"), help="one kind of trial")
    options = parser.parse_args()
    chosen = [trial for trial in trials(random.Random(options.seed)) if options.only in (None, trial.kind)]
    with tempfile.TemporaryDirectory() as folder:
        references: dict[tuple[str, int], tuple[str, float]] = {}
        for task, processes in sorted({(trial.task, trial.processes) for trial in chosen}):
            out = Path(folder) / f"reference-{task}-{processes}"
            ended = follow(start(out, task, "", processes))
            if ended.code:
                sys.exit(f"{task} cannot be trained at all: {ended.complaint}")
            references[task, processes] = digest(out), ended.seconds
        passed = 0
        for count, trial in enumerate(chosen, 1):
            wrong = verdict(trial, Path(folder) / str(count), *references[trial.task, trial.processes])
            passed += not wrong
            how = " then ".join(fault for fault in trial.faults if fault) or f"at {trial.moment:.2f} of the run"
            print(
                f"{count:2} {trial.kind:6} {trial.task:8} {how:40} {wrong or 'as if nothing had happened'}", flush=True
            )
    print(f"{passed} of {len(chosen)} passed")
    return 0 if passed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
