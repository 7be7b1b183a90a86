"""One image file as raw pixels of a given size and colour mode, or the reason why not."""

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Mode: TypeAlias = Literal["L", "RGB"]
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

_PIXELS_AT_MOST = Image.MAX_IMAGE_PIXELS or 2**26
_GREY = ("1", "L", "LA")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # more than 8 bits per pixel; Pillow would clip them to white


class BadImage(Exception):
    """This file gives no image; the message says why."""


@dataclass(frozen=True)
class Fit:
    """How images are brought to one size: the shorter side to `resize` pixels, then the central square of `crop`.

    The pixels are those of torchvision's `Resize(resize)` and `CenterCrop(crop)` on a PIL image. An image that has the
    size already stays as it is.
    """

    resize: int
    crop: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image at `crop` x `crop`."""
        if image.size == (self.crop, self.crop):
            return image
        width, height = self.whole(*image.size)
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return resized.crop((left, top, left + self.crop, top + self.crop))

    def whole(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop."""
        shorter = min(width, height)
        return width * self.resize // shorter, height * self.resize // shorter


def decode(path: Path, mode: Mode, fit: Fit | None) -> NDArray[np.uint8]:
    """The image of a file, (c, h, w); colours are converted (greyscale, palette, CMYK), transparency is dropped.

    Args:
        mode: "L" for one channel, "RGB" for three.
        fit: how it is brought to size; None leaves it as it is.

    Raises:
        BadImage: if the file is unreadable, truncated, animated, deeper than 8 bits or larger, as it is or brought to
            size, than Pillow's limit of 89 million pixels.
    """
    with _opened(path) as image:
        if fit and (across := math.prod(fit.whole(*image.size))) > _PIXELS_AT_MOST:
            raise BadImage(f"is too narrow: {image.width} x {image.height} pixels would become {across}")
        try:
            converted = image.convert(mode)
            array = np.array(fit(converted) if fit else converted)
        except Exception as error:  # on damaged bytes a decoder may raise anything
            raise BadImage(f"cannot be decoded: {error}") from None
    return np.ascontiguousarray(array.reshape(*array.shape[:2], -1).transpose(2, 0, 1))


def header(path: Path) -> tuple[tuple[int, int], Mode]:
    """Width and height of an image, and the smaller colour mode that holds it, without decoding.

    Raises:
        BadImage: as in `decode`, as far as the file's first bytes tell.
    """
    with _opened(path) as image:
        return image.size, "L" if image.mode in _GREY else "RGB"


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings; what matters of them is a `BadImage`. For the main thread: filters are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file's image, checked as far as that needs no decoding."""
    if path.exists() and not path.is_file():
        raise BadImage("is no file")
    with ExitStack() as stack:  # also what is no image is closed again
        try:
            image = Image.open(stack.enter_context(path.open("rb")))
            frames = getattr(image, "n_frames", 1)
        except Image.DecompressionBombError:
            raise BadImage(f"is too large: more than {2 * _PIXELS_AT_MOST} pixels") from None
        except UnidentifiedImageError:
            raise BadImage("is no image") from None
        except Exception as error:  # on damaged bytes a decoder may raise anything
            raise BadImage(f"cannot be opened: {error}") from None
        width, height = image.size
        if width * height > _PIXELS_AT_MOST:
            raise BadImage(f"is too large: {width} x {height} pixels")
        if frames > 1 and image.format != "MPO":  # MPO: a photograph with a preview
            raise BadImage(f"is animated: {frames} frames")
        if image.mode in _DEEP:
            raise BadImage(f"has {image.mode} pixels, 8 bits are needed")
        yield image
