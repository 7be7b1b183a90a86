"""The numbers of Figure 2, as they are saved."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

PerPixel = Float64[np.ndarray, " d"]


@dataclass(frozen=True)
class Result:
    """Per pixel (flat) and per curve; accuracies are pairs (clean, robust) on the test images.

    Attributes:
        title: data set and classes.
        eps: of the adversary, in the pixel box.
        n_test: number of test images.
        shape: channels, height and width of an image.
        correlation: of each pixel with the label, on the training images.
        activity: share of training images in which a pixel is not at its median.
        standard: weights of standard training by descent.
        descent: weights of adversarial training by descent.
        optimum: weights of adversarial training at its optimum; all zero if there is none.
        share: covariance / room of each pixel at that optimum: 1 or -1 wherever the weight is not zero.
        counts: numbers of most-correlated pixels that are used; the last is all.
        top: standard training by descent on so many pixels.
        top_optimum: standard training at its optimum, for the first counts: those at which there is one.
        adversarial: adversarial training on all pixels, by "descent" and at the "optimum" (if there is one).
        path: values of eps at which adversarial training has an optimum, ascending.
        path_accuracy: of these optima, each against its own eps.
        path_pixels: number of pixels that they use.
        separable: values of eps at which there is no optimum, the training examples being separable.
        vanishing_eps: from this eps on the optimum uses no pixel.
    """

    title: str
    eps: float
    n_test: int
    shape: tuple[int, ...]
    correlation: PerPixel
    activity: PerPixel
    standard: PerPixel
    descent: PerPixel
    optimum: PerPixel
    share: PerPixel
    counts: tuple[int, ...]
    top: Float64[np.ndarray, "k 2"]
    top_optimum: Float64[np.ndarray, "j 2"]
    adversarial: dict[str, tuple[float, ...]]
    path: tuple[float, ...]
    path_accuracy: Float64[np.ndarray, "p 2"]
    path_pixels: tuple[int, ...]
    separable: tuple[float, ...]
    vanishing_eps: float

    @property
    def used(self) -> Int64[np.ndarray, " u"]:
        """Pixels with a weight at the optimum of adversarial training."""
        return np.flatnonzero(self.optimum)

    @property
    def reference(self) -> tuple[float, ...]:
        """Clean and robust accuracy of adversarial training: at its optimum, or by descent where there is none."""
        return self.adversarial.get("optimum", self.adversarial["descent"])
