"""Whole files or none; what is saved loads back equal; damage is noticed."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nofreelunch import files
from nofreelunch.errors import InputError, RunError
from nofreelunch.files import atomic_write
from nofreelunch.workspace import Workspace, find_device, read_json, to_json


@dataclass(frozen=True)
class Record:
    number: float = 0.1
    names: tuple[str, ...] = ("a", "ü")
    nested: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"k": (1, 2)})
    array: np.ndarray = field(default_factory=lambda: np.arange(6.0).reshape(2, 3))


@given(
    number=st.floats(allow_nan=False, allow_infinity=False),
    array=hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=4)),
)
@settings(max_examples=25, deadline=None)
def test_a_record_loads_back_equal(tmp_path_factory: pytest.TempPathFactory, number: float, array: np.ndarray) -> None:
    space = Workspace(tmp_path_factory.mktemp("space"))
    space.save("r", Record(number=number, array=array), seed=3)
    loaded, about = space.load("r", Record)
    assert (loaded.number, loaded.names, loaded.nested) == (number, ("a", "ü"), {"k": (1, 2)})
    np.testing.assert_array_equal(loaded.array, array)
    assert about["seed"] == 3


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty"])
def test_damage_is_noticed(tmp_path: Path, suffix: str, damage: str) -> None:
    space = Workspace(tmp_path)
    space.save("r", Record())
    path = tmp_path / "results" / f"r{suffix}"
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "flip":
        content[2] ^= 0x10
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2 if damage == "truncate" else 0])
    with pytest.raises(InputError, match=r"r\.(json|npz)"):
        space.load("r", Record)


def test_a_result_of_another_kind_or_version_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Other:
        number: float

    space = Workspace(tmp_path)
    space.save("r", Record())
    with pytest.raises(InputError, match="another kind"):
        space.load("r", Other)
    path = tmp_path / "results" / "r.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(InputError, match="version"):
        space.load("r", Record)


def test_nan_is_not_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Workspace(tmp_path).save("r", Record(number=float("nan")))
    assert not (tmp_path / "results" / "r.json").exists()


@pytest.mark.parametrize("call", ["mkstemp", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "f"
    atomic_write(path, b"old")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.tempfile if call == "mkstemp" else files.os, call, full)
    with pytest.raises(RunError, match="No space left on device"):
        atomic_write(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_canonical() -> None:
    assert to_json({"b": (1, np.float64(0.1)), "a": Path("x")}) == to_json({"a": "x", "b": [1, 0.1]})


def test_names_of_files_that_are_no_text_read_back(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(to_json({"path": os.fsdecode(b"/caf\xe9"), "city": "Z\u00fcrich"}))
    assert read_json(path) == {"path": "/caf\udce9", "city": "Z\u00fcrich"}


def test_device_names() -> None:
    assert find_device("cpu") == "cpu"
    with pytest.raises(InputError, match=r"cuda:99.*there are: auto, cpu"):
        find_device("cuda:99")
