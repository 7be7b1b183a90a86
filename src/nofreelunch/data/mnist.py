"""MNIST, whole, from the package itself: no network, no other file."""

from nofreelunch.data.bundled import unpack
from nofreelunch.data.dataset import Dataset
from nofreelunch.data.packed import through_cache

DIGITS = tuple("0123456789")
MEAN, STD = (0.1306604762738429,), (0.3081078038564627,)
DIGEST = "69bcc7e2ceb1e0dfc7b894d6aef8b544c362686934f3b2d0a857a9c7f674fc1b"


def load_mnist() -> Dataset:
    """The 70,000 handwritten digits (LeCun, Cortes, Burges 1998), decompressed once, then mapped from the cache."""
    return through_cache("mnist", DIGEST, _from_package)


def load_mnist_5v7() -> Dataset:
    """The digits "5" (y = -1) and "7" (y = +1): 11,686 and 1,920 images (Tsipras et al. 2018, Appendix A.1)."""
    return load_mnist().pair("5", "7")


def _from_package() -> Dataset:
    train, test = unpack("mnist.xz", (1, 28, 28), (60_000, 10_000), len(DIGITS))
    return Dataset("mnist", DIGITS, MEAN, STD, train, test)
