"""Folders of images: what is listed, how it is decoded, what becomes of bad files; Restricted ImageNet."""

import fcntl
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet50_Weights
from torchvision.transforms import v2

from nofreelunch.data import Dataset, catalogue, imagenet, images, load_data, open_source, store, tree
from nofreelunch.data.images import BadImage, Fit, decode
from nofreelunch.errors import InputError, RunError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NOFREELUNCH_CACHE", str(folder))
    monkeypatch.delenv("NOFREELUNCH_DATA", raising=False)


def pixels_of(name: str, size: tuple[int, int] = (8, 6), channels: int = 3) -> np.ndarray:
    """An image (h, w, c) that depends on its name only; `size` is (width, height), as Pillow has it."""
    rng = np.random.default_rng(list(name.encode()))
    return rng.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)


def put(path: Path, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels_of(path.name, size, 1 if mode == "L" else 3)
    Image.fromarray(array[..., 0] if mode == "L" else array).save(path, lossless=True)


def plant(root: Path, counts: dict[str, int], mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> Path:
    """A folder with `counts` images of each "PART/CLASS"."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            put(root / folder / f"{folder.replace('/', '-')}-{k}.png", size, mode)
    return root


USUAL = {"train/cat": 3, "train/ant": 4, "test/cat": 2, "test/ant": 1}


def shown(split_images: torch.Tensor) -> set[bytes]:
    """The images of a split, whatever their order."""
    return {image.permute(1, 2, 0).numpy().tobytes() for image in split_images}


# Folders


def test_a_folder_is_read(tmp_path: Path) -> None:
    data = load_data(f"folder:{plant(tmp_path / 'pets', USUAL)}")
    assert (data.name, data.classes) == ("pets", ("ant", "cat"))
    assert data.train.x.shape == (7, 3, 6, 8)
    for split, part in ((data.train, "train"), (data.test, "test")):
        for label, name in enumerate(data.classes):
            expected = {pixels_of(f"{part}-{name}-{k}.png").tobytes() for k in range(USUAL[f"{part}/{name}"])}
            assert shown(split.x[split.y == label]) == expected
    assert data.notes == (
        "unbalanced train files per class: 3 (cat) to 4 (ant)",
        "unbalanced test files per class: 1 (ant) to 2 (cat)",
    )


def test_order_is_mixed_and_depends_on_names_alone(tmp_path: Path) -> None:
    counts = {"train/a": 60, "train/b": 60, "val/a": 1, "val/b": 1}
    forwards = load_data(f"folder:{plant(tmp_path / 'one', counts)}")
    backwards = load_data(f"folder:{plant(tmp_path / 'two', dict(reversed(counts.items())))}")
    assert forwards.digest == backwards.digest
    assert 15 <= int(forwards.train.take(60).y.sum()) <= 45  # the first half is no single class


def test_greyscale_images_with_alpha_are_grey(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.new("LA", (8, 8), (7, 128)).save(path)
    assert images.header(path) == ((8, 8), "L")
    assert (images.decode(path, "L", None) == 7).all()


def test_greyscale_images_have_one_channel_unless_one_is_coloured(tmp_path: Path) -> None:
    plant(tmp_path, USUAL, mode="L")
    assert load_data(f"folder:{tmp_path}").train.x.shape == (7, 1, 6, 8)
    put(tmp_path / "train" / "cat" / "coloured.png")
    data = load_data(f"folder:{tmp_path}")
    assert data.train.x.shape == (8, 3, 6, 8)
    assert torch.equal(data.test.x[:, 0], data.test.x[:, 2])


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    plant(tmp_path, USUAL)
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("not an image")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "list.csv").touch()
    assert len(load_data(f"folder:{tmp_path}", strict=True).train) == 7


BAD_FOLDERS = {
    "missing": ({}, "No such file or directory"),
    "folders without images": ({"a": 0, "b": 0}, "train is missing"),
    "one class to test": ({"val/a": 1}, "val must hold one folder of images for each of two classes or more, found 1"),
    "no test": ({"train/a": 1, "train/b": 1}, "test is missing"),
    "one class": ({"train/a": 1, "test/a": 1}, "two classes or more, found 1"),
    "class in test only": ({"train/a": 1, "train/b": 1, "test/c": 1}, "test/c has no counterpart"),
    "empty class": ({"train/a": 1, "train/b": 0, "test/a": 1}, "train/b holds no images"),
    "empty test": ({"train/a": 1, "train/b": 1, "test/a": 0}, "test holds no images"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_is_refused(case: str, tmp_path: Path) -> None:
    counts, message = BAD_FOLDERS[case]
    with pytest.raises(InputError, match=message):
        load_data(f"folder:{plant(tmp_path / 'x', counts)}")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("part", ["test/", "val/", ""])
def test_test_images_alone_are_a_data_set(part: str, tmp_path: Path) -> None:
    data = load_data(f"folder:{plant(tmp_path / 'pets', {f'{part}cat': 3, f'{part}dog': 2, f'{part}emu': 0})}")
    assert (data.name, data.classes, len(data.train), len(data.test)) == ("pets", ("cat", "dog", "emu"), 0, 5)
    assert torch.bincount(data.test.targets).tolist() == [3, 2]
    assert data.notes[0] == "no test images of emu"
    with pytest.raises(InputError, match="pets has test images only"):
        data.for_training()


def test_names_that_are_no_text_are_spelt_out(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    root = plant(tmp_path / name, {"train/ant": 2, "train/bee": 2, "test/ant": 1, "test/bee": 1})
    for part in ("train", "test"):
        (root / part / "bee").rename(root / part / name)
    data = load_data(f"folder:{root}")
    assert (data.name, data.classes) == ("caf\\xe9", ("ant", "caf\\xe9"))
    assert data.train.y.bincount().tolist() == [2, 2]


def test_a_class_without_test_images_is_noted(tmp_path: Path) -> None:
    data = load_data(f"folder:{plant(tmp_path, {'train/a': 2, 'train/b': 2, 'test/a': 1})}")
    assert data.notes == ("no test images of b",)


def test_sizes_must_agree_or_be_given(tmp_path: Path) -> None:
    plant(tmp_path, USUAL)
    put(tmp_path / "train" / "cat" / "odd.png", (10, 20))
    with pytest.raises(
        InputError,
        match=r"images differ in size: .*has \d+ x \d+ pixels and .*; bring them .* data pack DIR",
    ):
        load_data(f"folder:{tmp_path}")
    assert load_data(f"folder:{tmp_path}", size=5).train.x.shape == (8, 3, 5, 5)
    with pytest.raises(InputError, match="size must be a whole number"):
        load_data(f"folder:{tmp_path}", size=0)
    (tmp_path / "train" / "cat" / "odd.png").unlink()
    put(tmp_path / "test" / "cat" / "test-cat-0.png", (10, 20))
    put(tmp_path / "test" / "cat" / "test-cat-1.png", (10, 20))
    put(tmp_path / "test" / "ant" / "test-ant-0.png", (10, 20))
    with pytest.raises(InputError, match="train and test must have one shape"):
        load_data(f"folder:{tmp_path}")


# Files that are no images, or odd ones


def make_truncated(path: Path) -> None:
    put(path, (50, 50))
    path.write_bytes(path.read_bytes()[:-2000])


def make_animated(path: Path) -> None:
    frames = [Image.fromarray(pixels_of(str(k))) for k in range(3)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


BAD_IMAGES = {
    "text.png": (lambda path: path.write_text("words"), "is no image"),
    "empty.jpg": (lambda path: path.touch(), "is no image"),
    "endless.png": (os.mkfifo, "is no file"),
    "folder.png": (Path.mkdir, "is no file"),
    "truncated.png": (make_truncated, "cannot be decoded"),
    "animated.gif": (make_animated, "is animated: 3 frames"),
    "deep.png": (
        lambda path: Image.fromarray(np.zeros((6, 8), np.uint16)).save(path),
        "has I;16 pixels, 8 bits are needed",
    ),
    "large.png": (lambda path: Image.new("1", (10_000, 10_000)).save(path), "is too large: 10000 x 10000 pixels"),
    "huge.png": (lambda path: Image.new("1", (20_000, 10_000)).save(path), "is too large: more than"),
}


def test_an_image_that_would_be_enlarged_beyond_measure_is_not(tmp_path: Path) -> None:
    path = tmp_path / "narrow.png"
    Image.new("L", (1, 60_000)).save(path)
    with pytest.raises(BadImage, match="is too narrow: 1 x 60000 pixels"):
        decode(path, "RGB", Fit(256, 224))


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_skipped_and_named_or_stops_a_strict_run(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, reason = BAD_IMAGES[name]
    plant(tmp_path, USUAL | {"train/ant": 3})
    bad = tmp_path / "train" / "cat" / name
    make(bad)
    with caplog.at_level(logging.WARNING):
        data = load_data(f"folder:{tmp_path}")
    (note,) = (note for note in data.notes if note.startswith("skipped"))
    assert note.startswith(f"skipped 1 of 7 images: {bad} {reason}")
    assert note in caplog.text
    assert len(data.train) == 6
    assert load_data(f"folder:{tmp_path}").notes == data.notes  # from the cache too
    with pytest.raises(InputError, match=re.escape(f"{bad} {reason}")):
        load_data(f"folder:{tmp_path}", strict=True)


def test_a_class_without_a_readable_image_is_named(tmp_path: Path) -> None:
    plant(tmp_path, {"train/a": 2, "train/b": 0, "test/a": 1, "test/b": 1})
    (tmp_path / "train" / "b" / "x.png").write_text("words")
    assert "no image of b can be read" in load_data(f"folder:{tmp_path}").notes


def test_where_no_image_can_be_read_the_data_set_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, {"train/a": 0, "train/b": 0, "test/a": 1})
    for name in ("a", "b"):
        (tmp_path / "train" / name / "x.png").write_text("words")
    with pytest.raises(InputError, match="none of 2 images can be read"):
        load_data(f"folder:{tmp_path}")


def test_colour_modes_are_converted(tmp_path: Path) -> None:
    colours = pixels_of("some")
    image = Image.fromarray(colours)
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.convert("P").save(tmp_path / "palette.png")
    image.convert("L").save(tmp_path / "grey.png")
    decoded = {path.name: images.decode(path, "RGB", None) for path in tmp_path.iterdir()}
    assert all(array.shape == (3, 6, 8) and array.dtype == np.uint8 for array in decoded.values())
    for name in ("cmyk.tif", "alpha.png"):
        np.testing.assert_array_equal(decoded[name].transpose(1, 2, 0), colours)
    palette = np.asarray(image.convert("P").convert("RGB"))
    np.testing.assert_array_equal(decoded["palette.png"].transpose(1, 2, 0), palette)
    np.testing.assert_array_equal(decoded["grey.png"], np.asarray(image.convert("L"))[None].repeat(3, 0))


def test_damaged_images_of_every_format_give_a_reason(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg", "bmp", "gif", "webp", "tif", "ppm"):
        good = tmp_path / f"good.{suffix}"
        Image.fromarray(pixels_of("x", (30, 20))).save(good)
        content = good.read_bytes()
        for _ in range(40):
            damaged = bytearray(content[: rng.integers(len(content))])
            for place in rng.integers(0, max(len(damaged), 1), min(4, len(damaged))):
                damaged[place] = rng.integers(256)
            path = tmp_path / f"bad.{suffix}"
            path.write_bytes(damaged)
            with images.quiet():
                try:
                    assert images.decode(path, "RGB", None).dtype == np.uint8
                except BadImage as reason:
                    assert str(reason)  # noqa: PT017


@pytest.mark.parametrize(
    "size", [(300, 400), (500, 375), (257, 1000), (224, 300), (100, 90), (1, 7), (256, 259), (259, 256)]
)
def test_fit_is_torchvisions_resize_and_crop(size: tuple[int, int]) -> None:
    image = Image.fromarray(pixels_of("x", size))
    expected = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(image)
    np.testing.assert_array_equal(np.asarray(Fit(256, 224)(image)), np.asarray(expected))


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    image = Image.fromarray(pixels_of("x", (64, 64)))
    assert Fit(73, 64)(image) is image


# The cache of decoded images


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, USUAL)
    first = load_data(f"folder:{tmp_path}")
    monkeypatch.setattr(images, "decode", lambda *_, **__: pytest.fail("decoded again"))
    assert load_data(f"folder:{tmp_path}").digest == first.digest
    put(tmp_path / "train" / "cat" / "train-cat-0.png", (8, 6), "L")
    with pytest.raises(pytest.fail.Exception):
        load_data(f"folder:{tmp_path}")
    monkeypatch.undo()


def test_of_many_processes_one_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait, and find what it has made; what a killed one left is removed."""
    plant(tmp_path, USUAL)
    exclusive = store.exclusive

    def leftover(path: Path) -> Path:
        return path.with_name(f".{path.name}.x7_abc12")

    @contextmanager
    def made_meanwhile(path: Path) -> Iterator[None]:
        path.parent.mkdir(exist_ok=True)
        leftover(path).write_bytes(b"half")
        with exclusive(path):
            with open(path.parent / f".{path.name}.lock") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert not leftover(path).exists()
            tree.pack_tree(open_source(f"folder:{tmp_path}"), path)
            monkeypatch.setattr(images, "decode", lambda *_, **__: pytest.fail("decoded again"))
            yield

    monkeypatch.setattr(store, "exclusive", made_meanwhile)
    assert len(load_data(f"folder:{tmp_path}").train) == 7


def test_odd_files_are_skipped_or_read(tmp_path: Path) -> None:
    """A link to nowhere; a name that is no text, of an image and of none."""
    plant(tmp_path, USUAL)
    cats = tmp_path / "train" / "cat"
    (cats / "link.png").symlink_to("nowhere.png")
    (cats / "train-cat-0.png").rename(cats / os.fsdecode(b"caf\xe9.png"))
    (cats / os.fsdecode(b"th\xe9.png")).write_text("no image")
    data = load_data(f"folder:{tmp_path}")
    assert len(data.train) == 7
    (skipped,) = (note for note in data.notes if note.startswith("skipped 2 of 9 images: "))
    assert "th\\xe9.png is no image" in skipped
    assert "link.png cannot be opened" in skipped
    assert skipped.isascii()
    with pytest.raises(InputError, match="leave out --strict"):
        load_data(f"folder:{tmp_path}", strict=True)


def test_packing_a_folder_gives_the_same_images(tmp_path: Path) -> None:
    plant(tmp_path / "x", USUAL)
    out = tmp_path / "x.safetensors"
    said = catalogue.pack(str(tmp_path / "x"), out, size=5)
    assert "7 + 3 images of 3 x 5 x 5" in said
    assert load_data(str(out)).digest == load_data(f"folder:{tmp_path / 'x'}", size=5).digest


def test_an_unwritable_cache_is_a_failure_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path / "x", USUAL)
    (tmp_path / "file").touch()
    monkeypatch.setenv("NOFREELUNCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"cannot write .*NOFREELUNCH_CACHE"):
        load_data(f"folder:{tmp_path / 'x'}")


def test_a_full_disk_is_noticed_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path / "x", USUAL)
    monkeypatch.setattr(images, "decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(RunError, match=r"need 3000000\.0 GB"):
        load_data(f"folder:{tmp_path / 'x'}", size=10**7)  # 10 images of 3 x 10^7 x 10^7
    assert not list(store.cache_folder().glob("*.safetensors"))


def test_many_images_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, {"train/a": 20, "train/b": 17, "test/a": 2, "test/b": 2})
    whole = load_data(f"folder:{tmp_path}").digest
    monkeypatch.setattr(tree, "_CHUNK", 5)
    for path in store.cache_folder().glob("tree-*"):
        path.unlink()
    assert load_data(f"folder:{tmp_path}").digest == whole


# Restricted ImageNet


def test_the_203_wnids_stand_at_their_imagenet_indices() -> None:
    wnids = imagenet.wnids()
    assert sorted(wnids.values()) == [wnids[index] for index in sorted(wnids)]  # indices follow the sorted wnids
    assert sorted(wnids) == sorted(index for indices in imagenet.TABLE_1.values() for index in indices)
    categories = ResNet50_Weights.DEFAULT.meta["categories"]  # an independent list of all 1,000, in order
    table = Path(imagenet.__file__).with_name("imagenet_wnids.txt").read_text().splitlines()[1:]
    for index, _, name in (line.split() for line in table):
        assert name.replace("_", " ") == categories[int(index)]


def test_presets_are_table_1_and_the_release() -> None:
    sizes = {name: len(indices) for name, indices in imagenet.PRESETS["paper"].items()}
    nine = ("Dog", "Cat", "Frog", "Turtle", "Bird", "Primate", "Fish", "Crab", "Insect")
    assert sizes == dict(zip(nine, (118, 5, 3, 5, 21, 18, 9, 4, 20), strict=True))
    assert sum(sizes.values()) == 203
    assert imagenet.PRESETS["paper"]["Dog"][0] == 151
    assert imagenet.PRESETS["paper"]["Dog"][-1] == 268  # inclusive
    release = imagenet.PRESETS["release"]
    assert release["Dog"] == (156, 184, 200, 202, 204, 213, 216, 248, 259, 264, 268)
    assert {**release, "Dog": ()} == {**imagenet.PRESETS["paper"], "Dog": ()}


BULLFROG, CHIHUAHUA, BLENHEIM, TABBY, GOLDFISH = "n01641577", "n02085620", "n02086646", "n02123045", "n01443537"
SLICE = {
    **{
        f"train/{wnid}": count
        for wnid, count in ((BULLFROG, 2), (CHIHUAHUA, 4), (BLENHEIM, 3), (TABBY, 0), (GOLDFISH, 2))
    },
    **{f"val/{wnid}": 1 for wnid in (BULLFROG, CHIHUAHUA, TABBY)},
    "train/n99999999": 1,
}


def counts(data: Dataset) -> list[dict[str, int]]:
    return [
        {name: n for name, n in zip(data.classes, torch.bincount(split.y, minlength=9).tolist(), strict=True) if n}
        for split in (data.train, data.test)
    ]


def test_a_slice_of_imagenet_is_viewed_in_nine_classes(tmp_path: Path) -> None:
    plant(tmp_path / "imagenet", SLICE, size=(64, 64))
    data = load_data("restricted-imagenet", root=tmp_path)
    assert data.name == "restricted-imagenet"
    assert data.classes == tuple(imagenet.TABLE_1)
    assert data.train.x.shape == (9, 3, 64, 64)  # small images stay as they are
    assert counts(data) == [{"Dog": 7, "Frog": 2}, {"Dog": 1, "Cat": 1, "Frog": 1}]
    assert shown(data.test.x[data.test.y == 2]) == {pixels_of(f"val-{BULLFROG}-0.png", (64, 64)).tobytes()}
    notes = " | ".join(data.notes)
    assert "200 of 203 wnids have no images in train: n01644373" in notes
    assert "2 folders of train belong to no class and are left out" in notes
    assert "no train images of Cat, Turtle, Bird" in notes
    assert "unbalanced train files per class: 2 (Frog) to 7 (Dog)" in notes


def test_the_release_preset_takes_its_eleven_dogs(tmp_path: Path) -> None:
    data = load_data("restricted-imagenet:release", root=plant(tmp_path, SLICE, size=(64, 64)))
    assert counts(data) == [{"Dog": 3, "Frog": 2}, {"Cat": 1, "Frog": 1}]
    assert data.name == "restricted-imagenet:release"


def test_full_size_images_are_brought_to_224(tmp_path: Path) -> None:
    plant(tmp_path, {f"val/{BULLFROG}": 2, f"val/{TABBY}": 1}, size=(300, 260))
    (tmp_path / "val" / BULLFROG / "0.JPEG").write_text("broken, and the first of all")
    data = load_data("restricted-imagenet", root=tmp_path)
    image = Image.fromarray(pixels_of(f"val-{TABBY}-0.png", (300, 260)))
    expected = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])(image)
    assert torch.equal(data.test.x[data.test.y == 1][0], expected)
    assert "no train images in the tree: the train split repeats the val images" in data.notes
    assert torch.equal(data.train.x, data.test.x)
    assert load_data("restricted-imagenet", root=tmp_path, size=32).test.x.shape == (3, 3, 32, 32)


def test_a_folder_of_other_images_is_no_tree(tmp_path: Path) -> None:
    """A data folder may hold the user's own images as well."""
    plant(tmp_path, {"train/cat": 1, "val/cat": 1})
    assert not imagenet.has_tree(tmp_path)
    plant(tmp_path / "imagenet", {f"val/{BULLFROG}": 1}, size=(64, 64))
    assert imagenet.has_tree(tmp_path)
    assert counts(load_data("restricted-imagenet", root=tmp_path))[1] == {"Frog": 1}


def test_some_small_images_make_no_small_image_version(tmp_path: Path) -> None:
    """ImageNet has photographs of fewer than 224 pixels: they are enlarged, wherever they come in the order."""
    plant(tmp_path, {f"val/{BULLFROG}": 4}, size=(100, 90))
    plant(tmp_path, {f"val/{TABBY}": 1}, size=(300, 260))
    data = load_data("restricted-imagenet", root=tmp_path)
    assert data.test.x.shape == (5, 3, 224, 224)
    image = Image.fromarray(pixels_of(f"val-{BULLFROG}-0.png", (100, 90)))
    expected = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])(image)
    assert any(torch.equal(one, expected) for one in data.test.x)


def test_odd_images_of_a_tree_are_told(tmp_path: Path) -> None:
    """Greyscale and CMYK photographs are converted; what is no picture is named, from the cache too."""
    plant(tmp_path, {f"val/{BULLFROG}": 1, f"val/{TABBY}": 1, "val/n99999999": 2}, size=(300, 260))
    (tmp_path / "val" / GOLDFISH).mkdir()
    folder, colours = tmp_path / "val" / TABBY, Image.fromarray(pixels_of("some", (300, 260)))
    colours.convert("L").save(folder / "grey.JPEG")
    colours.convert("CMYK").save(folder / "cmyk.JPEG")
    (folder / "text.JPEG").write_text("words")
    (folder.parent / "list.txt").write_text("words")
    make_animated(folder / "moving.JPEG")
    for _ in range(2):
        data = load_data("restricted-imagenet", root=tmp_path)
        assert counts(data)[1] == {"Cat": 3, "Frog": 1}
        notes = " | ".join(data.notes)
        for words in (
            "is no image",
            "is animated: 3 frames",
            "2 folders of val belong to no class",
            "201 of 203 wnids",
        ):
            assert words in notes
        assert notes.count("skipped 2 of 6 images") == 1
    with pytest.raises(InputError, match="leave out --strict"):
        load_data("restricted-imagenet", root=tmp_path, strict=True)


def test_without_a_tree_one_sentence_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"train/WNID.*no folder is given; .*NOFREELUNCH_DATA"):
        load_data("restricted-imagenet")
    monkeypatch.setenv("NOFREELUNCH_DATA", str(tmp_path))
    with pytest.raises(InputError, match=re.escape(f"{tmp_path} has none")):
        load_data("restricted-imagenet")
    plant(tmp_path, {f"val/{GOLDFISH}": 1})
    with pytest.raises(InputError, match="must have a folder of images for wnids of Restricted ImageNet"):
        load_data("restricted-imagenet")
