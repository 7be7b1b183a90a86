"""`nofreelunch data`: which data sets there are, fetching one, packing a folder of images into one file."""

from dataclasses import dataclass
from typing import Literal

import tyro

from nofreelunch.cli.values import DataRoot, OptionalInt, OptionalPath
from nofreelunch.errors import InputError


@dataclass(frozen=True)
class Data:
    """List the data sets, fetch one, or pack a folder of images into one memory-mapped file.

    nofreelunch data list | nofreelunch data fetch cifar10 | nofreelunch data pack DIR --out FILE --size 224
    """

    action: tyro.conf.Positional[Literal["list", "fetch", "pack"]]
    """What to do."""
    name: tyro.conf.Positional[str | None] = None
    """fetch: the data set's name; pack: the same, or a folder with train/CLASS/*.png and test/CLASS/*.png (or val/)."""
    data_root: DataRoot = None
    out: OptionalPath = None
    """pack: the file to write."""
    size: OptionalInt = None
    """pack: side of the square that image files are resized and cropped to, in pixels; default: files must agree
    (ImageNet: 224)."""
    strict: bool = False
    """pack: stop at the first unreadable image instead of naming and skipping it."""

    def run(self) -> int:
        """Do it; 0."""
        from nofreelunch.data import catalogue

        meant = {"list": (), "fetch": ("name",), "pack": ("name", "out", "size", "strict")}[self.action]
        for option in ("name", "out", "size", "strict"):
            if option not in meant and getattr(self, option) not in (None, False):
                what = self.name if option == "name" else f"--{option}"
                raise InputError(f"{what} means nothing to data {self.action}; leave it out")
        if self.action == "list":
            print(catalogue.table(self.data_root))
            return 0
        if self.name is None:
            raise InputError(f"data {self.action} needs a name; see `nofreelunch data list`")
        if self.action == "fetch":
            print(catalogue.fetch(self.name, self.data_root))
            return 0
        if self.out is None:
            raise InputError("data pack needs --out FILE, the file to write")
        print(catalogue.pack(self.name, self.out, self.data_root, self.size, self.strict))
        return 0
