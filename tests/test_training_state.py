"""State files: whole at every moment, whatever happens to the process, the disk or the bytes."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import torch as safetensors

from nofreelunch import workspace
from nofreelunch.errors import InputError, RunError
from nofreelunch.training.state import State, load_state, save_state
from nofreelunch.workspace import digest, to_json


def state(step: int) -> State:
    rng = torch.Generator().manual_seed(step)
    return State({"step": step, "history": []}, {"w": torch.randn(3, 2, generator=rng), "n": torch.tensor(step)})


def same(a: State, b: State) -> bool:
    if a.about["step"] != b.about["step"] or a.tensors.keys() != b.tensors.keys():
        return False
    return all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def saved(folder: Path, *steps: int) -> Path:
    for step in steps:
        save_state(folder, state(step))
    return folder


def test_an_empty_folder_holds_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path) == (None, ())


def test_the_last_state_comes_back(tmp_path: Path) -> None:
    found, complaints = load_state(saved(tmp_path, 1, 2, 3))
    assert found
    assert same(found, state(3))
    assert complaints == ()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{suffix}" for name in ("state", "previous") for suffix in ("json", "safetensors")
    }


def the_one_before(folder: Path) -> State:
    """What is loaded when the last state is damaged."""
    (folder / "state.json").write_bytes(b"")
    found, _ = load_state(folder)
    assert found
    return found


def test_the_state_before_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1, 2)
    files = {suffix: (tmp_path / f"state.{suffix}").stat().st_ino for suffix in ("json", "safetensors")}
    saved(tmp_path, 3)
    assert {suffix: (tmp_path / f"previous.{suffix}").stat().st_ino for suffix in files} == files
    without_links(monkeypatch)
    saved(tmp_path, 4)
    assert same(the_one_before(tmp_path), state(3))


def test_a_damaged_state_does_not_take_the_place_of_the_one_before(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / "state.safetensors").write_bytes(b"damaged")
    saved(tmp_path, 3)
    assert same(the_one_before(tmp_path), state(1))


def test_any_memory_layout_is_kept_by_value(tmp_path: Path) -> None:
    filters = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    save_state(tmp_path, State({"step": 1}, {"filters": filters}))
    found, _ = load_state(tmp_path)
    assert found
    assert torch.equal(found.tensors["filters"], filters)


class Killed(BaseException):
    """The process is gone."""


def killing(monkeypatch: pytest.MonkeyPatch, name: str, at: int) -> None:
    """The `at`-th call of this function of the system never returns, and nothing is tidied up after it."""
    real: Callable[..., object] = getattr(os, name)
    calls = [0]

    def call(*args: object, **kwargs: object) -> object:
        calls[0] += 1
        if calls[0] == at:
            monkeypatch.setattr(os, "unlink", lambda path: None)
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, call)


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("before", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("name", "links", "calls"),
    [
        ("link", True, 2),
        ("unlink", True, 4),  # also of what is not there
        ("fsync", True, 5),
        ("chmod", True, 2),
        ("replace", True, 4),
        ("fsync", False, 8),
        ("replace", False, 4),
    ],
)
def test_a_kill_at_any_call_leaves_a_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, name: str, links: bool, calls: int
) -> None:
    if not links:
        without_links(monkeypatch)
    for at in range(1, calls + 2):
        folder = saved(tmp_path / str(at), *range(1, before + 1))
        with monkeypatch.context() as patch:
            killing(patch, name, at)
            try:
                save_state(folder, state(before + 1))
            except Killed:
                pass
            else:
                assert at > calls or not before
        found, _ = load_state(folder)
        assert found is None if not before and not found else any(same(found, state(s)) for s in (before, before + 1))
        for step in (before + 2, before + 3):  # and the run goes on
            save_state(folder, state(step))
        again, complaints = load_state(folder)
        assert again
        assert same(again, state(before + 3))
        assert complaints == ()


def test_a_kill_while_going_on_from_the_previous_state_loses_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 1, 2)
    for at in range(1, 5):
        with monkeypatch.context() as patch:
            killing(patch, "replace", 1 if at % 2 else 2)  # the first time the tensors are new, their JSON is not
            with pytest.raises(Killed):
                save_state(tmp_path, state(2 + at))
        found, _ = load_state(tmp_path)
        assert found
        assert found.about["step"] >= 1


def damage(path: Path, rng: random.Random) -> str:
    """Flip a bit, cut the end off, or put something in."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "cut", "insert"])
    place = rng.randrange(len(content))
    if kind == "flip":
        content[place] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[place:]
    else:
        content.insert(place, rng.randrange(256))
    path.write_bytes(bytes(content))
    return f"{kind} at {place} of {path.name}"


def test_every_damage_is_found_and_the_previous_state_used(tmp_path: Path) -> None:
    rng = random.Random(0)
    whole = saved(tmp_path / "whole", 1, 2)
    for trial in range(150):
        folder = tmp_path / "damaged"
        shutil.copytree(whole, folder)
        done = damage(folder / rng.choice(["state.json", "state.safetensors"]), rng)
        found, complaints = load_state(folder)
        assert found, done
        assert same(found, state(1)), (trial, done)
        assert len(complaints) == 1, done
        assert "state." in complaints[0]
        assert "digest" in complaints[0]
        shutil.rmtree(folder)


def test_damage_to_both_is_told_and_nothing_is_loaded(tmp_path: Path) -> None:
    rng = random.Random(1)
    whole = saved(tmp_path / "whole", 1, 2)
    for _ in range(20):
        folder = tmp_path / "damaged"
        shutil.copytree(whole, folder)
        for name in ("state", "previous"):
            damage(folder / f"{name}.{rng.choice(['json', 'safetensors'])}", rng)
        found, complaints = load_state(folder)
        assert found is None
        assert len(complaints) == 2
        shutil.rmtree(folder)


def test_an_edited_step_is_found(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / "state.json"
    path.write_text(path.read_text().replace('"step": 2', '"step": 9'))
    found, complaints = load_state(tmp_path)
    assert found
    assert found.about["step"] == 1
    assert complaints


def test_a_missing_tensor_file_is_found(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / "state.safetensors").unlink()
    found, complaints = load_state(tmp_path)
    assert found
    assert found.about["step"] == 1
    assert "cannot read" in complaints[0]


def test_another_version_is_refused(tmp_path: Path) -> None:
    content = safetensors.save(state(1).tensors)
    about = {"format": 2, "step": 1, "tensors": digest(content)}
    (tmp_path / "state.safetensors").write_bytes(content)
    (tmp_path / "state.json").write_bytes(to_json({**about, "sha256": digest(to_json(about))}))
    with pytest.raises(InputError, match="has format 2, this version reads 1"):
        load_state(tmp_path)


def test_a_full_disk_destroys_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1, 2)
    for at in range(1, 5):
        with monkeypatch.context() as patch:
            calls = [0]

            def full(handle: int, at: int = at, calls: list[int] = calls) -> None:
                calls[0] += 1
                if calls[0] >= at:
                    raise OSError(28, "No space left on device")

            patch.setattr(workspace.os, "fsync", full)
            with pytest.raises(RunError, match="No space left on device"):
                save_state(tmp_path, state(3))
        found, _ = load_state(tmp_path)
        assert found
        assert any(same(found, state(step)) for step in (1, 2, 3))
