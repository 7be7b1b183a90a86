"""The data sets that lie in the package, CIFAR-10, and what every data set promises."""

import dataclasses
import hashlib
import os
import pickle
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import CIFAR10

from nofreelunch.data import DATASETS, Dataset, Split, catalogue, cifar10, load_data, mnist, packed, present, store
from nofreelunch.data.dataset import content_digest, pixel_statistics, with_statistics
from nofreelunch.errors import InputError

REAL_DATA = os.environ.get("NOFREELUNCH_DATA", "")
MNIST_MD5 = {
    "train-images": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels": "a25bea736e30d166cdddb491f175f624",
    "t10k-images": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels": "27ae3e4e09519cfbb04c329615203637",
}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOFREELUNCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("NOFREELUNCH_DATA", raising=False)
        yield


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOFREELUNCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("mnist")


def random_split(n: int, shape: tuple[int, int, int] = (1, 4, 4), labels: tuple[int, ...] = (0, 1, 2)) -> Split:
    rng = np.random.default_rng(n)
    x = torch.from_numpy(rng.integers(0, 256, (n, *shape), dtype=np.uint8))
    return Split(x, torch.from_numpy(rng.choice(labels, n)), labels)


# MNIST


def test_mnist_is_the_original_byte_for_byte(digits: Dataset) -> None:
    found = {}
    for prefix, split in (("train", digits.train), ("t10k", digits.test)):
        n = len(split)
        images = struct.pack(">IIII", 2051, n, 28, 28) + split.x.numpy().tobytes()
        labels = struct.pack(">II", 2049, n) + split.y.to(torch.uint8).numpy().tobytes()
        found[f"{prefix}-images"] = hashlib.md5(images).hexdigest()
        found[f"{prefix}-labels"] = hashlib.md5(labels).hexdigest()
    assert found == MNIST_MD5


def test_mnist_has_its_known_class_counts_and_statistics(digits: Dataset) -> None:
    assert digits.test.targets.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert digits.train.targets.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_allclose(pixel_statistics(digits.train.x), (mnist.MEAN, mnist.STD), rtol=1e-12)
    assert pytest.approx([0.1307], abs=5e-5) == mnist.MEAN
    assert pytest.approx([0.3081], abs=5e-5) == mnist.STD


def test_mnist_carries_its_attribution_and_stays_small() -> None:
    folder = Path(mnist.__file__).parent
    text = (folder / "mnist.txt").read_text()
    assert all(words in text for words in ("LeCun", "Cortes", "Burges", "CC BY-SA 3.0"))
    assert (folder / "mnist.xz").stat().st_size < 10e6


def test_mnist_5v7_has_the_papers_labels(digits: Dataset) -> None:
    data = load_data("mnist-5v7")
    assert (len(data.train), len(data.test)) == (11_686, 1_920)
    assert (data.name, data.classes, data.train.labels) == ("mnist-5v7", ("5", "7"), (-1, 1))
    assert torch.equal(data.train.x[data.train.y == 1], digits.train.x[digits.train.y == 7])
    assert torch.equal(data.test.x[data.test.y == -1], digits.test.x[digits.test.y == 5])
    assert torch.equal(data.test.targets, (data.test.y + 1) // 2)
    assert (data.mean, data.std) == pixel_statistics(data.train.x)


# The cache


class Build:
    """Makes a small data set and counts how often."""

    def __init__(self) -> None:
        self.data = with_statistics("small", ("a", "b", "c"), random_split(1200), random_split(50))
        self.count = 0

    def __call__(self) -> Dataset:
        self.count += 1
        return self.data

    def load(self) -> Dataset:
        return packed.through_cache("small", self.data.digest, self)


def test_mnist_is_decompressed_once(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "unpack", lambda *_: pytest.fail("decompressed again"))
    assert load_data("mnist").digest == digits.digest == mnist.DIGEST


def test_a_cached_data_set_is_mapped_and_cannot_be_changed(empty_cache: Path) -> None:
    build = Build()
    data = [build.load() for _ in range(3)]
    assert build.count == 1
    assert torch.equal(data[2].train.x, build.data.train.x)
    assert torch.equal(data[2].test.y, build.data.test.y)
    assert data[2].digest == build.data.digest == packed.content_digest(data[2].train, data[2].test)
    data[1].train.x[0] = 255  # copy on write: neither a warning nor a change of the file
    assert torch.equal(build.load().train.x, build.data.train.x)


def test_a_damaged_cache_is_made_anew(empty_cache: Path) -> None:
    build = Build()
    build.load()
    (path,) = empty_cache.glob("small-*")
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    assert torch.equal(build.load().train.x, build.data.train.x)
    assert build.count == 2
    path.write_bytes(content[:-1])
    build.load()
    assert build.count == 3
    packed.write_packed(path, packed.stream(load_data("cifar10-sample")))  # sound, but another data set
    assert build.load().digest == build.data.digest
    assert build.count == 4


def test_without_a_cache_data_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    monkeypatch.setenv("NOFREELUNCH_CACHE", str(tmp_path / "file"))
    build = Build()
    assert build.load() is build.load() is build.data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_of_many_processes_one_builds(empty_cache: Path) -> None:
    """The others wait, and find what it has made; what a killed one left is removed."""
    build = Build()
    path = packed.cache_path("small", build.data.digest)
    leftover = path.with_name(f".{path.name}.x7_abc12")
    with ThreadPoolExecutor() as pool:
        with store.exclusive(path):
            leftover.write_bytes(b"half")
            waiting = [pool.submit(build.load) for _ in range(3)]
        assert {future.result().digest for future in waiting} == {build.data.digest}
    assert build.count == 1
    assert not leftover.exists()


def test_a_failure_lets_the_next_one_build_alone(tmp_path: Path) -> None:
    """It removes the lock that others wait for: they and whoever comes later must still be one at a time."""
    path, inside, most = tmp_path / "new" / "file", list[int](), list[int]()

    def build(number: int) -> None:
        with store.exclusive(path):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.05)
            inside.remove(number)

    def fail() -> None:
        with store.exclusive(path):
            first.set()
            time.sleep(0.2)
            raise OSError("no space")

    first = threading.Event()
    with ThreadPoolExecutor() as pool:
        failing = pool.submit(fail)
        first.wait()
        waiting = [pool.submit(build, number) for number in range(3)]
        with pytest.raises(OSError, match="no space"):
            failing.result()
        for future in [*waiting, *(pool.submit(build, number) for number in range(3, 6))]:
            future.result()
    assert most == [1] * 6


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(store.cache_folder()) == os.environ["NOFREELUNCH_CACHE"]
    monkeypatch.delenv("NOFREELUNCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert store.cache_folder() == Path("/xdg/nofreelunch")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert store.cache_folder() == Path("/home/someone/.cache/nofreelunch")


# Splits and data sets


def test_a_split_gives_pixels_targets_and_its_first_examples() -> None:
    split = random_split(7, labels=(4, -1, 9))
    assert torch.equal(torch.tensor(split.labels)[split.targets], split.y)
    assert torch.equal(split.images(), split.x.float() / 255)
    assert torch.equal(split.images(torch.tensor([5, 2])), split.x[[5, 2]].float() / 255)
    assert torch.equal(split.take(3).x, split.x[:3])
    assert torch.equal(split.take(7).y, split.y)
    assert len(split.take(3)) == 3
    assert split.select(torch.arange(7)) is split
    for index in (torch.arange(6, -1, -1), torch.zeros(7, dtype=torch.long), torch.tensor([2, 5])):
        assert torch.equal(split.select(index).x, split.x[index])


@pytest.mark.parametrize("n", [0, -1, 8])
def test_take_wants_a_size_there_is(n: int) -> None:
    with pytest.raises(InputError, match=str(n)):
        random_split(7).take(n)


@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 2**31))
def test_batches_hold_each_example_once(n: int, size: int, seed: int) -> None:
    split = random_split(n)
    assert torch.cat(list(split.batches(size))).tolist() == list(range(n))
    shuffled = list(split.batches(size, torch.Generator().manual_seed(seed)))
    assert sorted(torch.cat(shuffled).tolist()) == list(range(n))
    assert all(len(batch) == size for batch in shuffled[:-1])
    again = list(split.batches(size, torch.Generator().manual_seed(seed)))
    assert torch.equal(torch.cat(shuffled), torch.cat(again))


def test_batches_are_shuffled_by_an_rng() -> None:
    order = torch.cat(list(random_split(40).batches(8, torch.Generator().manual_seed(0))))
    assert order.tolist() != list(range(40))


X, Y = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0])
BAD_SPLITS = {
    "float images": (X.float(), Y, (0, 1), "uint8"),
    "no channel": (X[:, 0], Y, (0, 1), r"\(n, c, h, w\)"),
    "int32 labels": (X, Y.int(), (0, 1), "int64"),
    "one-hot": (X, torch.eye(3).long(), (0, 1), r"\(n,\)"),
    "lengths": (X, Y[:2], (0, 1), "3 images cannot have 2 labels"),
    "no pixels": (X[:, :, :0], Y, (0, 1), "at least one pixel"),
    "label too large": (X, Y + 1, (0, 1), "label 2 belongs to no class; the labels are 0, 1"),
    "ignored label": (X, Y * -100, tuple(range(10)), "label -100 belongs to no class; the labels are 0 .. 9"),
}


@pytest.mark.parametrize("case", BAD_SPLITS)
def test_a_bad_split_is_refused(case: str) -> None:
    x, y, labels, message = BAD_SPLITS[case]
    with pytest.raises(InputError, match=message):
        Split(x, y, labels)


def test_a_data_set_must_fit_together() -> None:
    train, test = random_split(5), random_split(4)
    names = ("a", "b", "c")
    assert Dataset("d", names, (0.5,), (0.1,), train, test).notes == ()
    with pytest.raises(InputError, match="3 labels"):
        Dataset("d", ("a", "b"), (0.5,), (0.1,), train, test)
    with pytest.raises(InputError, match="different names"):
        Dataset("d", ("a", "a", "b"), (0.5,), (0.1,), train, test)
    with pytest.raises(InputError, match="one shape"):
        Dataset("d", names, (0.5,), (0.1,), train, random_split(4, (1, 4, 5)))
    with pytest.raises(InputError, match="per channel"):
        Dataset("d", names, (0.5, 0.5), (0.1, 0.1), train, test)
    with pytest.raises(InputError, match="at least one image to test on"):
        Dataset("d", names, (0.5,), (0.1,), train, without_images(test))


def without_images(split: Split) -> Split:
    return Split(split.x[:0], split.y[:0], split.labels)


def test_of_test_images_alone_the_statistics_are_theirs() -> None:
    test = random_split(7)
    data = with_statistics("d", ("a", "b", "c"), without_images(test), test)
    assert (data.mean, data.std) == pixel_statistics(test.x)
    assert data.notes == ()
    assert data.digest != with_statistics("d", ("a", "b", "c"), test, test).digest
    assert len(data.pair("a", "b").train) == 0
    assert list(data.train.batches(3)) == []
    assert data.train.images().shape == (0, *test.x.shape[1:])
    with pytest.raises(InputError, match="d has test images only: it can be evaluated and explained, not trained on"):
        data.for_training()


def test_statistics_are_numpys() -> None:
    split = random_split(2500, (3, 2, 5))
    x = split.x.numpy() / 255
    mean, std = pixel_statistics(split.x)
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, x.std((0, 2, 3)), rtol=1e-12)


def test_digest_sees_every_change() -> None:
    def digest(train: Split, test: Split) -> str:
        return with_statistics("d", ("a", "b", "c"), train, test).digest

    train, test = random_split(5), random_split(4)
    other_x, other_y = train.x.clone(), train.y.clone()
    other_x[4, 0, 3, 3] ^= 1
    other_y[0] = (other_y[0] + 1) % 3
    digests = {
        digest(train, test),
        digest(test, train),
        digest(Split(other_x, train.y, train.labels), test),
        digest(Split(train.x, other_y, train.labels), test),
        digest(
            Split(train.x.view(5, 1, 2, 8), train.y, train.labels), Split(test.x.view(4, 1, 2, 8), test.y, test.labels)
        ),
    }
    assert len(digests) == 5
    assert digest(random_split(5), random_split(4)) in digests


def test_other_splits_have_another_digest(digits: Dataset) -> None:
    assert digits.digest == mnist.DIGEST  # known, from the file
    part = dataclasses.replace(digits, train=digits.train.take(10), test=digits.test.take(10))
    assert part.digest == content_digest(part.train, part.test)


def test_any_two_classes_make_a_pair(digits: Dataset) -> None:
    pair = digits.pair("8", "3")
    assert pair.classes == ("8", "3")
    assert torch.equal(pair.test.x[pair.test.y == -1], digits.test.x[digits.test.y == 8])
    assert torch.equal(pair.test.x[pair.test.y == 1], digits.test.x[digits.test.y == 3])
    assert torch.equal(pair.pair("3", "8").test.y, -pair.test.y)
    with pytest.raises(InputError, match='unknown class of mnist "eight"'):
        digits.pair("eight", "3")
    with pytest.raises(InputError, match="two different"):
        digits.pair("3", "3")


def test_a_pair_needs_images() -> None:
    lonely = Split(X, torch.zeros(3, dtype=torch.int64), (0, 1, 2))
    with pytest.raises(InputError, match="has an image"):
        with_statistics("d", ("a", "b", "c"), lonely, lonely).pair("b", "c")


# Names


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(InputError, match='unknown data set "mnits"; did you mean "mnist"'):
        load_data("mnits")
    with pytest.raises(InputError, match="unknown data set"):
        load_data("npz:")
    with pytest.raises(InputError, match="size=32"):
        load_data("mnist", size=32)
    with pytest.raises(InputError, match="does not exist"):
        load_data("mnist", root="/nowhere/at/all")


def test_the_catalogue_tells_the_truth(tmp_path: Path) -> None:
    table = catalogue.table(tmp_path)
    for name, row in DATASETS.items():
        assert name in table
        if row.where == "in the package":
            data = load_data(name)
            assert row.images == f"{len(data.train):,} + {len(data.test):,}"
            assert row.classes == len(data.classes)
            assert row.shape == " x ".join(map(str, data.train.x.shape[1:]))
    assert set(DATASETS) - set(present(tmp_path)) == {"cifar10", "restricted-imagenet", "restricted-imagenet:release"}
    (tmp_path / "cifar10.npz").touch()
    (tmp_path / "imagenet" / "val" / "n02123045").mkdir(parents=True)
    assert set(present(tmp_path)) == set(DATASETS)


def test_fetch_says_what_there_is() -> None:
    said = catalogue.fetch("mnist-5v7")
    assert "11,686 + 1,920 images of 1 x 28 x 28, 2 classes" in said
    assert "  7: 6,265 + 1,028" in said


# CIFAR-10


def test_the_cifar10_sample_has_twenty_of_each_class() -> None:
    data = load_data("cifar10-sample")
    for split in (data.train, data.test):
        assert split.targets.bincount().tolist() == [20] * 10
    assert data.train.y[:6].tolist() == [6, 9, 9, 4, 1, 1]  # CIFAR-10's order
    assert data.test.y[:4].tolist() == [3, 8, 8, 0]
    text = Path(cifar10.__file__).with_name("cifar10_sample.txt").read_text()
    assert "Krizhevsky" in text


def test_cifar10_statistics_are_the_known_ones() -> None:
    assert pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5) == cifar10.MEAN
    assert pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5) == cifar10.STD


@pytest.mark.skipif(cifar10.place(Path(REAL_DATA)) is None, reason="no CIFAR-10 in NOFREELUNCH_DATA")
def test_cifar10_is_whole() -> None:
    data = load_data("cifar10", REAL_DATA)
    sample = load_data("cifar10-sample")
    assert data.train.targets.bincount().tolist() == [5000] * 10
    assert data.test.targets.bincount().tolist() == [1000] * 10
    np.testing.assert_allclose(pixel_statistics(data.train.x), (cifar10.MEAN, cifar10.STD), rtol=1e-12)
    first = torch.cat([torch.where(data.test.y == label)[0][:20] for label in range(10)]).sort().values
    assert torch.equal(data.test.x[first], sample.test.x)


def fake_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, list[int]]:
    """A tree in torchvision's layout, two images a batch, and torchvision told of its MD5 sums."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (12, 3072), dtype=np.uint8), rng.integers(0, 10, 12).tolist()
    sums = {}
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        content = pickle.dumps({"data": x[2 * k : 2 * k + 2], "labels": y[2 * k : 2 * k + 2]})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"label_names": list(cifar10.CLASSES)})
    (folder / "batches.meta").write_bytes(meta)
    md5 = {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(meta).hexdigest()}
    monkeypatch.setattr(CIFAR10, "meta", md5)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5] for name, md5 in sums.items() if name != "test_batch"])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    return x.reshape(12, 3, 32, 32), y


def test_torchvisions_layout_is_read(tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = fake_cifar10(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="does not hold CIFAR-10 in its official order") as error:
        load_data("cifar10", tmp_path)
    found = str(error.value).split("digest ")[1].split(",")[0]
    monkeypatch.setattr(cifar10, "DIGEST", found)
    data = load_data("cifar10", tmp_path)
    np.testing.assert_array_equal(torch.cat([data.train.x, data.test.x]), x)
    assert data.train.y.tolist() + data.test.y.tolist() == y
    assert cifar10.is_here(None)
    assert load_data("cifar10").digest == found  # from the cache, without the folder


def test_a_damaged_torchvision_layout_is_refused(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(InputError, match="damaged or incomplete"):
        load_data("cifar10", tmp_path)


def test_other_images_under_cifar10s_name_are_refused(tmp_path: Path, empty_cache: Path) -> None:
    x = np.zeros((10, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=np.arange(10), x_test=x, y_test=np.arange(10))
    with pytest.raises(InputError, match=r"cifar10.npz does not hold CIFAR-10 .* digest [0-9a-f]{64}, not 0cf52e74"):
        load_data("cifar10", tmp_path)


@pytest.mark.parametrize("server", ["nobody listens", "nobody answers"])
def test_without_a_network_one_sentence_says_what_to_do(
    server: str, tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "_SECONDS_OF_SILENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if server == "nobody listens":
            listener.close()
        hang_up = threading.Timer(20, listener.close)  # were we patient, the test would end all the same
        hang_up.start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{port}/cifar")
        with pytest.raises(InputError, match=r"cannot be downloaded .* put cifar10.npz.*NOFREELUNCH_DATA"):
            load_data("cifar10", tmp_path)
        assert hang_up.is_alive()
        hang_up.cancel()
    assert socket.getdefaulttimeout() is None
