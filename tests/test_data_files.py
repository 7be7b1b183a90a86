"""Packed files and npz files: what is in them comes back, and a bad one is refused in one sentence."""

import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nofreelunch.data import Dataset, Split, catalogue, dataset, load_data, packed, store
from nofreelunch.data.dataset import content_digest, pixel_statistics, with_statistics
from nofreelunch.data.npz import load_npz
from nofreelunch.data.packed import Stream, read_packed, stream, write_packed
from nofreelunch.errors import InputError, RunError


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOFREELUNCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def random_split(n: int, seed: int = 0) -> Split:
    rng = np.random.default_rng((n, seed))
    x = torch.from_numpy(rng.integers(0, 256, (n, 3, 5, 3), dtype=np.uint8))
    return Split(x, torch.from_numpy(np.arange(n) % 2 * 2 - 1), (-1, 1))


def example(notes: tuple[str, ...] = ()) -> Dataset:
    return with_statistics('a "strange" näme', ("left/..", "right<script>"), random_split(1003), random_split(7), notes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    write_packed(path, stream(example(("a note", "another"))))
    return path


# Packed files


def test_a_packed_file_gives_back_what_went_in(file: Path) -> None:
    before, after = example(("a note", "another")), load_data(str(file))
    assert (after.name, after.classes, after.notes) == (before.name, before.classes, before.notes)
    assert (after.mean, after.std, after.digest) == (before.mean, before.std, before.digest)
    for ours, theirs in ((after.train, before.train), (after.test, before.test)):
        assert ours.labels == theirs.labels
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.y, theirs.y)
    assert load_file(file)["x_test"].shape == (7, 3, 5, 3)  # a plain safetensors file to others


def test_images_are_mapped_not_read(file: Path) -> None:
    data = read_packed(file)
    mapped = Path("/proc/self/maps").read_text()
    assert str(file) in mapped
    data.train.x.zero_()
    assert torch.equal(read_packed(file).train.x, example().train.x)


def test_a_file_may_be_larger_than_the_memory(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with (tmp_path / "sparse").open("w+b") as sparse:
        sparse.truncate(4 * memory)
        content = store.mapped(sparse)
        content[0] = 1
        assert content[[0, -1]].tolist() == [1, 0]
        assert sparse.read(1) == b"\0"


def test_a_file_is_read_whole_only_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "content_digest", lambda *_: pytest.fail("hashed again"))
    read_packed(file)  # the writer has noted it
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(pytest.fail.Exception):
        read_packed(file)  # another file at the same place


@pytest.mark.parametrize("place", [-1, -3000, 40_000, 60_000])
def test_one_flipped_bit_is_found(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged|belongs to no class"):
        read_packed(file)


def test_a_changed_mean_is_found(file: Path) -> None:
    content = file.read_bytes()
    first_digit = content.index(b"mean") + len(rb"mean\": [0.4")
    digit = content[first_digit : first_digit + 1]
    assert digit.isdigit()
    file.write_bytes(content[:first_digit] + (b"7" if digit != b"7" else b"8") + content[first_digit + 1 :])
    with pytest.raises(InputError, match="damaged"):
        read_packed(file)


def test_a_file_from_a_machine_that_rounds_otherwise_is_sound(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_digit_off(x: torch.Tensor) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(math.nextafter(value, 1) for value in values) for values in pixel_statistics(x))

    monkeypatch.setattr(dataset, "pixel_statistics", one_digit_off)
    assert read_packed(file.rename(file.with_name("moved.safetensors"))).digest == example().digest


@given(share=st.floats(0, 1, exclude_max=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_truncated_file_is_refused(file: Path, share: float) -> None:
    content = file.read_bytes()
    short = file.with_name("short.safetensors")
    short.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"short\.safetensors"):
        read_packed(short)


def about(**changes: Any) -> dict[str, str]:
    fields = {"format": 1, "name": "n", "classes": ["a", "b"], "labels": [0, 1], "mean": [0.0], "std": [0.0]}
    return {"nofreelunch": json.dumps(fields | {"notes": [], "digest": "0" * 64} | changes)}


TENSORS = {
    "x_train": torch.zeros(2, 1, 2, 2, dtype=torch.uint8),
    "x_test": torch.zeros(2, 1, 2, 2, dtype=torch.uint8),
    "y_train": torch.tensor([0, 1]),
    "y_test": torch.tensor([0, 1]),
}
FOREIGN: dict[str, tuple[dict[str, torch.Tensor], dict[str, str] | None, str]] = {
    "other arrays": ({"weight": torch.zeros(2)}, about(), "its arrays are"),
    "float images": (TENSORS | {"x_train": torch.zeros(2, 1, 2, 2)}, about(), "its arrays are"),
    "no description": (TENSORS, None, "its format is None"),
    "newer": (TENSORS, about(format=2), "its format is 2, this version reads 1"),
    "no digest": (TENSORS, about(digest="0"), "its digest is"),
    "no list": (TENSORS, about(labels=7), "not iterable"),
    "nested": (TENSORS, {"nofreelunch": "[" * 10**5}, "not a packed data set"),
    "infinite label": (TENSORS, about(labels=[0, float("inf")]), "not a packed data set"),
    "one class": (TENSORS, about(classes=["a"], labels=[0]), "label 1 belongs to no class"),
    "short labels": (TENSORS | {"y_test": torch.tensor([0])}, about(), "2 images cannot have 1 labels"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_file_is_refused(case: str, tmp_path: Path) -> None:
    tensors, metadata, message = FOREIGN[case]
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    with pytest.raises(InputError, match=message):
        load_data(str(tmp_path / "x.safetensors"))


def test_a_missing_file_a_folder_and_a_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "text.safetensors").write_text("no tensors here, only words")
    (tmp_path / "empty.safetensors").touch()
    for name in ("missing", "folder", "text", "empty"):
        with pytest.raises(InputError, match=name):
            load_data(str(tmp_path / f"{name}.safetensors"))


def test_a_failed_write_leaves_nothing(file: Path) -> None:
    def failing() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield TENSORS["x_train"], TENSORS["y_train"]
        raise KeyboardInterrupt

    before = file.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_packed(file, Stream("n", ("a", "b"), (0, 1), failing(), failing()))
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_stream_must_have_images_of_one_shape(tmp_path: Path) -> None:
    small, y = TENSORS["x_train"], TENSORS["y_train"]
    with pytest.raises(InputError, match="one shape"):
        write_packed(
            tmp_path / "x.safetensors",
            Stream("n", ("a", "b"), (0, 1), [(small, y), (small.mT[..., :1], y)], [(small, y)]),
        )
    with pytest.raises(InputError, match="at least one image to test on"):
        write_packed(tmp_path / "x.safetensors", Stream("n", ("a", "b"), (0, 1), [(small, y)], []))
    assert not list(tmp_path.iterdir())


def test_pack_writes_any_data_set(tmp_path: Path) -> None:
    out = tmp_path / "sample.safetensors"
    said = catalogue.pack("cifar10-sample", out)
    assert "200 + 200 images of 3 x 32 x 32" in said
    assert load_data(str(out)).digest == load_data("cifar10-sample").digest
    with pytest.raises(InputError, match="exists already"):
        catalogue.pack("cifar10-sample", out)
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        catalogue.pack("cifar10-sample", tmp_path / "sample.npz")
    with pytest.raises(InputError, match="size=8"):
        catalogue.pack("cifar10-sample", tmp_path / "other.safetensors", size=8)
    with pytest.raises(RunError, match="cannot write"):
        catalogue.pack("cifar10-sample", out / "below-a-file.safetensors")


# npz files

Arrays = dict[str, Any]


def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    x = {f"x_{part}": rng.integers(0, 256, (n, 6, 5, 3), dtype=np.uint8) for part, n in (("train", 9), ("test", 4))}
    return x | {"y_train": np.arange(9) % 3, "y_test": np.arange(4) % 3}


def alone(**changes: Any) -> Arrays:
    """Test images alone."""
    return {"x": arrays()["x_test"], "y": arrays()["y_test"]} | changes


def saved(path: Path, content: Arrays, save: Callable[..., None] = np.savez) -> str:
    save(path / "own.npz", **content)
    return f"npz:{path / 'own.npz'}"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32, ">i4"])
def test_an_npz_file_is_read(save: Callable[..., None], dtype: Any, tmp_path: Path) -> None:
    content = arrays()
    content["y_train"] = content["y_train"].astype(dtype)
    data = load_data(saved(tmp_path, content, save))
    assert (data.name, data.classes) == ("own", ("0", "1", "2"))
    np.testing.assert_array_equal(data.train.x.permute(0, 2, 3, 1), content["x_train"])
    assert data.train.y.tolist() == content["y_train"].tolist()
    assert data.digest == content_digest(data.train, data.test)


def test_greyscale_images_need_no_channel_axis(tmp_path: Path) -> None:
    content = arrays()
    flat = {name: array[..., 0] if name[0] == "x" else array for name, array in content.items()}
    data = load_data(saved(tmp_path, flat))
    np.testing.assert_array_equal(data.train.x[:, 0], content["x_train"][..., 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_taken_where_nothing_is_lost(dtype: Any, tmp_path: Path) -> None:
    content = arrays()
    levels = np.arange(270, dtype=np.uint8).reshape(3, 6, 5, 3)[[0, 1, 2] * 3]  # all 256
    data = load_data(saved(tmp_path, content | {"x_train": (levels / 255).astype(dtype)}))
    np.testing.assert_array_equal(data.train.x.permute(0, 2, 3, 1), levels)


@pytest.mark.parametrize("end", ["", "_test"])
def test_test_images_alone_are_a_data_set(end: str, tmp_path: Path) -> None:
    data = load_data(saved(tmp_path, {f"{name}{end}": array for name, array in alone().items()}))
    np.testing.assert_array_equal(data.test.x.permute(0, 2, 3, 1), arrays()["x_test"])
    assert data.test.y.tolist() == arrays()["y_test"].tolist()
    assert data.classes == ("0", "1", "2")
    assert (len(data.train), data.train.x.shape[1:]) == (0, data.test.x.shape[1:])
    assert data.mean == pixel_statistics(data.test.x)[0]
    packed_file = tmp_path / "own.safetensors"
    assert "own: 0 + 4 images of 3 x 6 x 5" in catalogue.pack(f"npz:{tmp_path / 'own.npz'}", packed_file)
    again = load_data(packed_file)
    assert (again.digest, again.train.x.shape) == (data.digest, data.train.x.shape)
    assert torch.equal(again.test.x, data.test.x)
    with pytest.raises(InputError, match="own has test images only"):
        again.for_training()


def test_classes_without_test_images_are_counted_and_may_be_named(tmp_path: Path) -> None:
    y = np.array([7, 2, 7, 2])
    assert load_data(saved(tmp_path, alone(y=y))).classes == tuple("01234567")
    assert load_data(saved(tmp_path, alone(y=y, classes=np.arange(1000)))).classes[-1] == "999"
    assert load_data(saved(tmp_path, alone(y=y * 0, classes=["cat", "dog"]))).classes == ("cat", "dog")
    assert load_data(saved(tmp_path, arrays() | {"classes": ["a", "b", "c"]})).classes == ("a", "b", "c")


def changed(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[], Arrays]:
    def content() -> Arrays:
        whole = arrays()
        return whole | {name: change(whole[name])}

    return content


def with_nan(x: np.ndarray) -> np.ndarray:
    floats = x / 255
    floats[5, 0, 0, 0] = np.nan
    return floats


BAD_ARRAYS: dict[str, tuple[Callable[[], Arrays], str]] = {
    "missing": (lambda: {name: a for name, a in arrays().items() if name != "y_test"}, "array y_test is missing"),
    "NaN": (changed("x_train", with_nan), "image 5 has a pixel that is not finite"),
    "0..255 floats": (changed("x_train", lambda x: x.astype(float)), r"got 0 to 255: give uint8, or divide by 255"),
    "normalised": (changed("x_test", lambda x: x / 127.5 - 1), "undo the normalisation"),
    "lossy floats": (changed("x_train", lambda x: x / 256), "not k/255"),
    "half floats": (changed("x_train", lambda x: (x / 255).astype(np.float16)), "not k/255"),
    "int64 images": (changed("x_train", lambda x: x.astype(int)), r"must be uint8, got int64; .*astype\('uint8'\)"),
    "complex": (changed("x_train", lambda x: x.astype(complex)), "got complex128"),
    "text": (changed("x_train", lambda x: x.astype(str)), "must be uint8"),
    "flat": (changed("x_train", lambda x: x.reshape(9, -1)), r"must be \(n, h, w, c\) or \(n, h, w\), got \(9, 90\)"),
    "channels first": (changed("x_train", lambda x: x.transpose(0, 3, 1, 2)), r"transpose\(0, 2, 3, 1\)"),
    "float labels": (changed("y_train", lambda y: y * 1.0), r"y_train must be integers .* give y_train.astype\(int\)"),
    "one-hot": (changed("y_train", lambda y: np.eye(3)[y]), r"y_train.argmax\(1\)"),
    "column": (changed("y_test", lambda y: y[:, None]), r"y_test.ravel\(\)"),
    "labels from 1": (changed("y_train", lambda y: y + 1), "label 1 is there, label 0 is not .* give y - 1"),
    "signs": (changed("y_train", lambda y: y // 2 * 2 - 1), r"give \(y \+ 1\) // 2"),
    "stray label": (changed("y_train", lambda y: np.append(y[:-1], 57)), "label 57 is there, label 3 is not"),
    "ignored label": (changed("y_train", lambda y: np.append(y[:-1], -100)), "label -100 is there"),
    "huge label": (changed("y_train", lambda y: np.append(y[:-1], 2**63).astype(np.uint64)), "9223372036854775808"),
    "other test label": (changed("y_test", lambda y: y + 3), "y_test has label 3; the labels of y_train are 0 .. 2"),
    "one class": (changed("y_train", lambda y: y * 0), r"two classes or more, got \[0\]"),
    "lengths": (changed("y_train", lambda y: np.append(y, 0)), "9 images, y_train has 10 labels"),
    "empty": (lambda: {name: array[:0] for name, array in arrays().items()}, "x_train must hold at least one image"),
    "empty test": (lambda: arrays() | {n: arrays()[n][:0] for n in ("x_test", "y_test")}, "at least one image"),
    "other size": (changed("x_test", lambda x: x[:, :3]), "one shape"),
    "objects": (changed("y_train", lambda y: y.astype(object)), "Python objects, which are never read"),
    "record": (changed("y_train", lambda y: np.zeros(9, [("a", int)])), "must be integers"),
    "no pixels": (lambda: arrays() | {n: arrays()[n][:, :0] for n in ("x_train", "x_test")}, "at least one pixel"),
    "names for none": (
        lambda: arrays() | {"classes": np.array("abcd")},
        "classes must be a list of names.* got <U4",
    ),
    "names of no letters": (
        lambda: arrays() | {"classes": np.zeros(3)},
        "classes must be a list of names.* float64",
    ),
    "too few names": (lambda: arrays() | {"classes": ["a", "b"]}, "classes has 2 names, y_train has 3 labels"),
    "the same name": (lambda: arrays() | {"classes": ["a", "b", "a"]}, "different names"),
    "other names": (lambda: {"images": arrays()["x_test"]}, "x_test is missing; .* the file has 'images'"),
    "nothing": (dict, "array x_test is missing; .* the file has none"),
    "training images only": (lambda: {n: a for n, a in arrays().items() if n[2:] == "train"}, "x_test is missing"),
    "images without labels": (lambda: {"x": arrays()["x_test"]}, "array y is missing"),
    "test labels from -1": (lambda: alone(y=np.arange(4) - 1), r"y must be 0 .. K-1; label -1 is there"),
    "test signs": (lambda: alone(y=np.array([1, -1] * 2)), r"give \(y \+ 1\) // 2"),
    "one class to test": (lambda: alone(y=np.zeros(4, int)), "name all classes in an array classes"),
    "a number for a label": (lambda: alone(y=np.arange(4) * 10**6), "label 1000000 is there, label 1 is not"),
    "no such name": (lambda: alone(classes=list("abc"), y=np.arange(4)), "the labels of classes are 0 .. 2"),
    "test lengths": (lambda: alone(y=np.arange(3)), "x has 4 images, y has 3 labels"),
    "no test labels": (lambda: alone(y=np.arange(0)), r"two classes or more, got \[\]"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused(case: str, tmp_path: Path) -> None:
    content, message = BAD_ARRAYS[case]
    with pytest.raises(InputError, match=message) as error:
        load_data(saved(tmp_path, content()))
    assert "own.npz" in str(error.value)
    assert "\n" not in str(error.value)


def member(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """An npy file whose header claims `shape`."""
    buffer = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + array.tobytes()


@pytest.mark.parametrize("shape", [(10**6, 10**3, 10**3), (2**62, 4, 4), (8, 6, 5, 3), (-9, 6, 5, -3)])
def test_a_header_that_lies_is_refused_before_anything_is_allocated(shape: tuple[int, ...], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        for name, array in arrays().items():
            archive.writestr(f"{name}.npy", member(array, shape if name == "x_train" else None))
    with pytest.raises(InputError, match="the file has not got them"):
        load_npz(tmp_path / "own.npz")


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npz.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("words")
    (tmp_path / "empty.npz").touch()
    for path in (*tmp_path.iterdir(), tmp_path / "missing.npz", tmp_path):
        with pytest.raises(InputError, match=r"no npz file|cannot be read"):
            load_npz(path)


def npz_bytes(save: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays())
    return buffer.getvalue()


NPZ = [npz_bytes(np.savez), npz_bytes(np.savez_compressed)]


@given(which=st.sampled_from(NPZ), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
def test_damaged_bytes_never_give_anything_but_an_input_error(
    which: bytes, data: st.DataObject, tmp_path: Path
) -> None:
    content = bytearray(which)
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, max_size=8), label="places"):
        content[place] = data.draw(st.integers(0, 255), label="byte")
    end = data.draw(st.one_of(st.none(), places), label="end")
    (tmp_path / "own.npz").write_bytes(content[:end])
    try:
        loaded = load_npz(tmp_path / "own.npz")
    except InputError:
        return
    # Only what the loader does not use has changed: zip's checksums guard the rest.
    np.testing.assert_array_equal(loaded.train.x.permute(0, 2, 3, 1), arrays()["x_train"])
    np.testing.assert_array_equal(loaded.test.y, arrays()["y_test"])


dtypes = st.sampled_from(["u1", "i8", "u8", "f2", "f4", "f8", "c8", "?", "S3", "U2", "M8[s]", "O", "i1"])
shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)


@given(kinds=st.lists(st.tuples(dtypes, shapes), min_size=4, max_size=4), seed=st.integers(0, 999))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
def test_arrays_of_any_kind_never_give_anything_but_an_input_error(kinds: Any, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    content = {
        name: rng.integers(0, 3, shape).astype(dtype)
        for name, (dtype, shape) in zip(("x_train", "y_train", "x_test", "y_test"), kinds, strict=True)
    }
    np.savez(tmp_path / "own.npz", allow_pickle=True, **content)
    try:
        load_npz(tmp_path / "own.npz")
    except InputError:
        return
    assert {content[name].dtype.kind for name in ("x_train", "x_test")} <= set("uf")
    assert content["x_train"].shape[1:] == content["x_test"].shape[1:]
