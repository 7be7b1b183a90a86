"""Readers fed with damaged files, the command line with random words: one sentence, and nothing is executed.

Whatever is read, a reader returns or raises an `InputError` (or, where a run fails, a `RunError`); the command line
exits with 0 to 3, tells no traceback, and creates no file that it was not asked for. Each property takes a few seconds
here; for more, multiply the number of examples, which are then drawn at random:

    NOFREELUNCH_FUZZ=100 pytest tests/test_fuzz.py
"""

import contextlib
import io
import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from nofreelunch.cli import COMMANDS, main, parse
from nofreelunch.data import load_data
from nofreelunch.data.packed import stream, write_packed
from nofreelunch.errors import InputError, RunError
from nofreelunch.evaluation.board import Board
from nofreelunch.evaluation.journal import FILE, Journal
from nofreelunch.models import build, load_model, save_model
from nofreelunch.models.foreign import read_weights
from nofreelunch.sweep import read_spec
from nofreelunch.training.state import State, load_state, save_state
from nofreelunch.workspace import Workspace, digest, to_json
from training_toy import toy_data

MORE = int(os.environ.get("NOFREELUNCH_FUZZ", "1"))
RAN = Path(tempfile.gettempdir()) / f"nofreelunch-fuzz-{os.getpid()}"
"""What hostile files would make."""


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """So many examples, the same each time; or many times more, others each time."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(
        derandomize=MORE == 1, max_examples=examples * MORE, deadline=None, database=None, suppress_health_check=checks
    )


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a cache of the test's own."""
    monkeypatch.setenv("NOFREELUNCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NOFREELUNCH_DATA", raising=False)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no checker before the door
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def answered(read: Callable[[], object]) -> Any:
    """What was read; None where that was refused in a sentence."""
    try:
        return read()
    except (InputError, RunError):
        return None
    finally:
        assert not RAN.exists()


# Bytes

FORCEFUL = [
    b"\0",
    b"\xff",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"9" * 30,
    b"../",
    b"\xf0\x9f\x98\x80",
]


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A function that changes bytes: flips, overwrites, inserts, removes, cuts off."""
    edits = st.tuples(
        st.sampled_from(["flip", "put", "insert", "remove", "cut", "double"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(FORCEFUL), st.binary(min_size=1, max_size=8)),
    )
    chosen = draw(st.lists(edits, min_size=1, max_size=5))

    def apply(content: bytes) -> bytes:
        for kind, where, some in chosen:
            place = int(where * len(content))
            head, tail = content[:place], content[place:]
            content = {
                "flip": head + bytes([tail[0] ^ (1 << some[0] % 8)] if tail else []) + tail[1:],
                "put": head + some + tail[len(some) :],
                "insert": head + some + tail,
                "remove": head + tail[len(some) :],
                "cut": head,
                "double": head + tail + tail,
            }[kind]
        return content

    return apply


def content(*valid: bytes) -> st.SearchStrategy[bytes]:
    """Damaged files, and garbage that begins like one."""
    damaged = st.builds(lambda change, whole: change(whole), damage(), st.sampled_from(valid))
    garbage = st.builds(
        lambda whole, head, tail: whole[:head] + tail, st.sampled_from(valid), st.integers(0, 64), st.binary()
    )
    return st.one_of(damaged, damaged, garbage)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.integers(-3, 2**70)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=6,
)


@st.composite
def altered(draw: st.DrawFn, whole: dict[str, Any]) -> dict[str, Any]:
    """The same JSON object with a value replaced, at any depth, or a key removed or added."""
    copy: dict[str, Any] = json.loads(json.dumps(whole))
    spot: Any = copy
    while True:
        if isinstance(spot, dict) and spot:
            key: Any = draw(st.sampled_from(sorted(spot)))
        elif isinstance(spot, list) and spot:
            key = draw(st.integers(0, len(spot) - 1))
        else:
            break
        if isinstance(spot[key], (dict, list)) and spot[key] and draw(st.booleans()):
            spot = spot[key]
            continue
        if isinstance(spot, dict) and draw(st.integers(0, 3)) == 0:
            del spot[key]
        else:
            spot[key] = draw(json_values)
        break
    return copy


# Data sets

TOY = toy_data(24)


def npz() -> bytes:
    buffer = io.BytesIO()
    parts = {f"x_{part}": split.x[:, 0].numpy() for part, split in (("train", TOY.train), ("test", TOY.test))}
    np.savez(buffer, y_train=TOY.train.y.numpy(), y_test=TOY.test.y.numpy(), **parts)
    return buffer.getvalue()


def packed() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_packed(Path(folder) / "toy.safetensors", stream(TOY))
        return (Path(folder) / "toy.safetensors").read_bytes()


def header_of(whole: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    return header


def with_header(whole: bytes, header: dict[str, Any]) -> bytes:
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + whole[8 + int.from_bytes(whole[:8], "little") :]


NPZ, PACKED = npz(), packed()
ABOUT = json.loads(header_of(PACKED)["__metadata__"]["nofreelunch"])


@given(content(NPZ))
@fuzzed(120)
def test_npz_files(whole: bytes) -> None:
    Path("toy.npz").write_bytes(whole)
    answered(lambda: load_data("npz:toy.npz"))


def check_packed(whole: bytes) -> None:
    Path("toy.safetensors").write_bytes(whole)
    data = answered(lambda: load_data("toy.safetensors"))
    if data is not None:  # nothing that counts has changed: the digest holds
        assert torch.equal(data.train.x, TOY.train.x)
        assert torch.equal(data.test.y, TOY.test.y)


@given(content(PACKED))
@fuzzed(120)
def test_packed_files(whole: bytes) -> None:
    check_packed(whole)


@given(altered(header_of(PACKED)))
@fuzzed(80)
def test_headers_of_packed_files(header: dict[str, Any]) -> None:
    check_packed(with_header(PACKED, header))


@example({**ABOUT, "labels": []})
@given(altered(ABOUT))
@fuzzed(80)
def test_descriptions_in_packed_files(about: dict[str, Any]) -> None:
    header = header_of(PACKED)
    header["__metadata__"]["nofreelunch"] = json.dumps(about)
    check_packed(with_header(PACKED, header))


def picture(kind: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


PICTURES = [
    picture("PNG", "RGB"),
    picture("PNG", "L"),
    picture("JPEG", "RGB"),
    picture("GIF", "P"),
    picture("BMP", "RGB"),
]
PICTURES += [picture("TIFF", "RGB"), picture("WEBP", "RGB"), picture("PPM", "RGB")]


@given(
    st.lists(content(*PICTURES), min_size=1, max_size=3), st.sampled_from(["png", "jpg", "gif", "tiff", "webp", "ppm"])
)
@fuzzed(40)
def test_images_in_folders(wholes: list[bytes], suffix: str) -> None:
    shutil.rmtree("tree", ignore_errors=True)
    for part in ("train", "test"):
        for name in ("a", "b"):
            Path("tree", part, name).mkdir(parents=True)
            Path("tree", part, name, "whole.png").write_bytes(PICTURES[0])
    for number, whole in enumerate(wholes):
        Path("tree", "train", "a", f"{number}.{suffix}").write_bytes(whole)
    data = answered(lambda: load_data("folder:tree", size=8))
    assert data is not None  # what cannot be read is skipped and named
    assert len(data.train) + sum("skipped" in note for note in data.notes) >= 2


# Models, states, results


def model_files() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save_model(build("linear", TOY), Path(folder) / "m.safetensors")
        return Path(folder, "m.safetensors").read_bytes(), Path(folder, "m.json").read_bytes()


MODEL, CARD = model_files()


def sealed(about: dict[str, Any]) -> bytes:
    """An object with a digest that holds, as a hostile author would write it."""
    unsealed = {key: value for key, value in about.items() if key != "sha256"}
    try:
        return to_json({**unsealed, "sha256": digest(to_json(unsealed))})
    except ValueError:  # NaN
        assume(False)
        raise


@given(content(MODEL), content(CARD), st.sampled_from([(True, False), (False, True), (True, True)]))
@fuzzed(80)
def test_files_of_models(tensors: bytes, card: bytes, which: tuple[bool, bool]) -> None:
    Path("m.safetensors").write_bytes(tensors if which[0] else MODEL)
    Path("m.json").write_bytes(card if which[1] else CARD)
    found = answered(lambda: load_model("m.safetensors"))
    if found is not None:
        assert (Path("m.safetensors").read_bytes(), Path("m.json").read_bytes()) == (MODEL, CARD)


@given(altered(json.loads(CARD)))
@fuzzed(120)
def test_cards_of_hostile_authors(about: dict[str, Any]) -> None:
    Path("m.safetensors").write_bytes(MODEL)
    Path("m.json").write_bytes(sealed(about))
    found = answered(lambda: load_model("m.safetensors"))
    if found is not None:
        answered(lambda: main(["data", "list"]))
        assert found(torch.rand(2, 1, 8, 8)).shape[0] == 2


TENSORS = save({"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.zeros(2)})


def torch_saved(**options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.zeros(2)}, buffer, **options)
    return buffer.getvalue()


def with_pickle(opcodes: bytes) -> bytes:
    """What torch saved, with another pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_saved())) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, opcodes if entry.filename.endswith("data.pkl") else old.read(entry))
    return buffer.getvalue()


TORCH, OLD = torch_saved(), torch_saved(_use_new_zipfile_serialization=False)
with zipfile.ZipFile(io.BytesIO(TORCH)) as _archive:
    PICKLE = next(_archive.read(name) for name in _archive.namelist() if name.endswith("data.pkl"))
HOSTILE = f"cposix\nsystem\n(S'touch {RAN}'\ntR.".encode()


@given(content(TORCH, TENSORS), st.sampled_from(["w.pt", "w.safetensors"]))
@example(TORCH.replace(b"PK\x01\x02", b"PK\x01\x03", 1), "w.pt")
@example(TORCH.replace(b"PK\x06\x07\0\0", b"PK\x06\x07\1\0"), "w.pt")
@fuzzed(80)
def test_weights_of_others(whole: bytes, name: str) -> None:
    Path(name).write_bytes(whole)
    answered(lambda: read_weights(Path(name)))


@given(content(OLD, TORCH))
@example(OLD[:41] + HOSTILE)
@fuzzed(80)
def test_weights_of_others_from_before_torch_1_6(whole: bytes) -> None:
    Path("w.pt").write_bytes(whole)
    answered(lambda: read_weights(Path("w.pt")))


@given(content(PICKLE, HOSTILE))
@example(HOSTILE)
@example(b"\x80\x02" + HOSTILE)
@fuzzed(80)
def test_pickles_of_others(opcodes: bytes) -> None:
    Path("w.pt").write_bytes(with_pickle(opcodes))
    answered(lambda: read_weights(Path("w.pt")))


@given(altered(header_of(TENSORS)))
@fuzzed(80)
def test_headers_of_others(header: dict[str, Any]) -> None:
    Path("w.safetensors").write_bytes(with_header(TENSORS, header))
    answered(lambda: read_weights(Path("w.safetensors")))


def state_files() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder), State({"step": 3, "config": {"lr": 0.1}}, {"w": torch.ones(3)}))
        return Path(folder, "state.safetensors").read_bytes(), Path(folder, "state.json").read_bytes()


STATE, STEP = state_files()


@given(content(STATE), content(STEP), st.sampled_from([(True, False), (False, True)]))
@fuzzed(80)
def test_states_of_runs(tensors: bytes, about: bytes, which: tuple[bool, bool]) -> None:
    Path("state.safetensors").write_bytes(tensors if which[0] else STATE)
    Path("state.json").write_bytes(about if which[1] else STEP)
    found = answered(lambda: load_state(Path()))
    if found and found[0]:
        assert (Path("state.safetensors").read_bytes(), Path("state.json").read_bytes()) == (STATE, STEP)
    else:
        assert found is None or found[1]


def journal_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), {"seed": "0"}, Board(4))
        journal.once("step", lambda: 1)
        return Path(folder, FILE).read_bytes()


JOURNAL = journal_file()


@given(content(JOURNAL))
@fuzzed(80)
def test_states_of_evaluations(whole: bytes) -> None:
    Path(FILE).write_bytes(whole)
    answered(lambda: Journal(Path(), {"seed": "0"}, Board(4)))


@dataclass(frozen=True)
class Found:
    """A result."""

    count: int
    numbers: tuple[float, ...]
    array: np.ndarray


def result_files() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        Workspace(Path(folder)).save("it", Found(3, (0.5, 1.0), np.arange(3)), config={"seed": 0})
        return Path(folder, "results", "it.npz").read_bytes(), Path(folder, "results", "it.json").read_bytes()


ARRAYS, RESULT = result_files()


def read_result(arrays: bytes, about: bytes) -> None:
    Path("results").mkdir(exist_ok=True)
    Path("results", "it.npz").write_bytes(arrays)
    Path("results", "it.json").write_bytes(about)
    answered(lambda: Workspace(Path()).load("it", Found))


@given(content(ARRAYS), content(RESULT), st.sampled_from([(True, False), (False, True), (True, True)]))
@fuzzed(80)
def test_results(arrays: bytes, about: bytes, which: tuple[bool, bool]) -> None:
    read_result(arrays if which[0] else ARRAYS, about if which[1] else RESULT)


@given(altered(json.loads(RESULT)))
@fuzzed(80)
def test_results_of_hostile_authors(about: dict[str, Any]) -> None:
    read_result(ARRAYS, json.dumps(about).encode())


# Sweeps and the command line

SPEC = b"""preset = "laptop"
[train]
data = "mnist"
threat = "linf"
epochs = 0.5
[grid]
eps = [0, "8/255"]
seed = [0, 1]
[evaluate]
protocol = "quick"
n = 10
threats = ["linf 0.1"]
[run]
cpus = 1
"""
WORDS = [
    b"data",
    b"arch",
    b"recipe",
    b"[[grid]]",
    b"[grid]",
    b'"fgsm"',
    b"attack = ",
    b"1e400",
    b"nan",
    b"true",
    b"2000-01-01",
]
WORDS += [b"lr = [1, 'x']", b"\n", b"\"__import__('os').system('touch x')\"", b"[train.eps]", b"{}", b"[]", b"a.b = 1"]


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from(WORDS), st.integers(0, 12)), max_size=4), content(SPEC))
@fuzzed(120)
def test_specs_of_sweeps(edits: list[tuple[float, bytes, int]], damaged: bytes) -> None:
    whole = SPEC
    for where, word, length in edits:
        place = int(where * len(whole))
        whole = whole[:place] + word + whole[place + length :]
    for text in (whole, damaged):
        Path("spec.toml").write_bytes(text)
        answered(lambda: read_spec("spec.toml"))
    assert sorted(os.listdir()) == ["spec.toml"]


OPTIONS = [
    "--data",
    "--threat",
    "--eps",
    "--n",
    "--seed",
    "--device",
    "--out",
    "--data-root",
    "--weights",
    "--arch",
    "--lr",
]
OPTIONS += [
    "--recipe",
    "--attack",
    "--json",
    "--save-examples",
    "--labels",
    "--range",
    "--mean",
    "--protocol",
    "--epochs",
]
OPTIONS += ["--batch-size", "--holdout", "--start", "--preset", "--d", "--eta", "--p", "--size", "--strict", "--points"]
VALUES = [
    "npz:toy.npz",
    "toy.safetensors",
    "folder:.",
    "folder:none",
    "npz:",
    "linf",
    "l2",
    "0.1",
    "8/255",
    "8",
    "-1",
    "0",
]
VALUES += [
    "nan",
    "inf",
    "1e999",
    "9" * 25,
    "1/0",
    "",
    " ",
    "-",
    "--",
    "=",
    "x" * 300,
    "../..",
    "/",
    "/dev/null/x",
    "out",
    "~x/y",
]
VALUES += [
    "m.safetensors",
    "zoo:x",
    "python:os:getcwd",
    "python:no:thing",
    "python::",
    "onnx:x",
    "toy.npz",
    "toy_net",
    "b.onnx",
]
VALUES += [
    "list",
    "pack",
    "fetch",
    "cuda:7",
    "cpu",
    "linear",
    "quick",
    "n-fgsm",
    "pgd-5",
    "1,2",
    "0..255",
    "spec.toml",
    "\ud800",
]
VALUES += ["<script>", "é", "a\nb", "x.json", "x.npz", "local", "torchattacks:PGD", "foolbox:x", "16", "2", "none"]
words = st.one_of(
    st.sampled_from(VALUES),
    st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES)),
    st.text(max_size=6),
    st.sampled_from(OPTIONS),
).filter(lambda word: "\0" not in word)
PREFIXES = {
    "train": ["--data", "npz:toy.npz", "--arch", "linear"],
    "evaluate": [
        "m.safetensors",
        "--data",
        "npz:toy.npz",
        "--threat",
        "linf",
        "--eps",
        "0.1",
        "--protocol",
        "quick",
        "--n",
        "4",
    ],
    "explain": [
        "m.safetensors",
        "--data",
        "npz:toy.npz",
        "--eps",
        "0.1",
        "--n",
        "2",
        "--measure",
        "2",
        "--points",
        "2",
    ],
    "sweep": ["spec.toml", "--dry-run"],
    "theory": ["--d", "4", "--eta", "1", "--eps", "0.1"],
    "data": [],
    "": [],
}


def commanded(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code, what was printed, and where files are, are as they should be."""
    for name, whole in {
        "toy.npz": NPZ,
        "m.safetensors": MODEL,
        "m.json": CARD,
        "spec.toml": b"[grid]\nlr = [1]",
    }.items():
        Path(name).write_bytes(whole)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the system's own; a user is shown them
            code = main(arguments)
    except SystemExit as stop:  # --help
        code = int(stop.code or 0)
        assert code == 0
    out, err = capsys.readouterr()
    assert code in (0, 1, 2, 3)
    assert "Traceback" not in out + err
    assert "NOFREELUNCH_DEBUG" not in err, err  # an error of a kind that nobody has thought of
    if code in (1, 2):
        assert err.splitlines()[-1].startswith("error: " if code == 2 else "failed: ")
    assert not RAN.exists()


@given(command=st.sampled_from(sorted(PREFIXES)), whole=st.booleans(), more=st.lists(words, max_size=6))
@example(command="", whole=False, more=["a\nb"])
@example(command="", whole=False, more=[("--data", "\ud800")])
@fuzzed(25)
def test_commands(
    command: str, whole: bool, more: list[str | tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    added = [part for word in more for part in ([word] if isinstance(word, str) else word)]
    commanded([*([command] if command else []), *(PREFIXES[command] if whole else []), *added], capsys)


@given(st.lists(st.one_of(words, st.sampled_from(sorted(COMMANDS))), max_size=8))
@fuzzed(25)
def test_words_of_no_meaning(more: list[str | tuple[str, str]]) -> None:
    """The parser answers each of them, or understands; nothing runs."""
    added = [part for word in more for part in ([word] if isinstance(word, str) else word)]
    with contextlib.suppress(SystemExit):  # --help
        answered(lambda: parse(added))
