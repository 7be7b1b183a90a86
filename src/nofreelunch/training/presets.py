"""Settings by data set and scale.

`laptop` is minutes on 2 cores and `gpu` minutes on one GPU; for CIFAR-10 an hour of one core; for Restricted
ImageNet an hour (a slice of 64 x 64 pixels) and hours. `paper` is Appendix A of Tsipras et al. 2018 to the letter; what
it leaves open is as in the released code that it refers to: the MNIST and CIFAR-10 challenges of Madry et al. 2018, and
the authors' own for Restricted ImageNet.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from nofreelunch.errors import check_known
from nofreelunch.threats import Threat
from nofreelunch.training.config import TrainConfig

Preset: TypeAlias = Callable[[Threat | None], TrainConfig]


def mnist_laptop(threat: Threat | None) -> TrainConfig:
    """PGD-5 with long steps on the images that are hardest, while eps rises over the first 30 %.

    Without a threat, shifted images and a lower rate.
    """
    if threat is None:
        return TrainConfig(arch="mnist-cnn", epochs=4, lr=2e-3, augment="crop")
    return TrainConfig(
        arch="mnist-cnn",
        threat=threat,
        recipe="bullet-train",
        attack="pgd-5",
        step_size=threat.eps / 3 or None,
        epochs=6,
        eps_warmup=0.3,
    )


def mnist_gpu(threat: Threat | None) -> TrainConfig:
    """By `pgd-at`, for 20 epochs at a lower rate, in bfloat16."""
    return replace(mnist_laptop(threat), recipe="pgd-at", epochs=20, lr=1e-3, precision="bfloat16")


def mnist_paper(threat: Threat | None) -> TrainConfig:
    """100,000 steps of 50 images, Adam at 1e-4, against PGD-40, for l_inf with steps of 0.01 at eps 0.3."""
    return TrainConfig(
        arch="mnist-cnn",
        threat=threat,
        attack="pgd-40" if threat else None,
        epochs=100_000 * 50 / 60_000,
        batch_size=50,
        lr=1e-4,
        schedule="constant",
        attack_precision="float32",
        holdout=0.0,
    )


def cifar10_laptop(threat: Threat | None) -> TrainConfig:
    """The paper's network, in one step from noise: about as cheap as robustness gets."""
    return TrainConfig(
        arch="cifar-resnet",
        threat=threat,
        recipe="n-fgsm" if threat else "pgd-at",
        epochs=15,
        optimiser="sgd",
        lr=0.1,
        weight_decay=5e-4,
        augment="crop-flip",
        precision="bfloat16",
    )


def cifar10_gpu(threat: Threat | None) -> TrainConfig:
    """The paper's network against PGD-3, one cycle of the rate, averaged weights."""
    return TrainConfig(
        arch="cifar-resnet",
        threat=threat,
        attack="pgd-3" if threat else None,
        epochs=16,
        batch_size=256,
        optimiser="sgd",
        lr=0.2,
        weight_decay=5e-4,
        ema=0.995,
        augment="crop-flip",
        precision="bfloat16",
    )


def cifar10_paper(threat: Threat | None) -> TrainConfig:
    """80,000 steps of 128 images, SGD at 0.1, 0.01, 0.001, against PGD-7 with steps of eps / 4."""
    return TrainConfig(
        arch="cifar-resnet",
        threat=threat,
        attack="pgd-7" if threat else None,
        step_size=(threat.eps / 4 or None) if threat else None,
        epochs=80_000 * 128 / 50_000,
        optimiser="sgd",
        lr=0.1,
        schedule="step",
        weight_decay=2e-4,
        augment="crop-flip",
        attack_precision="float32",
        holdout=0.0,
    )


def restricted_imagenet_gpu(threat: Threat | None) -> TrainConfig:
    """ResNet-50 against PGD-5, one cycle of the rate over 15 epochs, averaged weights."""
    return TrainConfig(
        arch="resnet50",
        threat=threat,
        attack="pgd-5" if threat else None,
        epochs=15,
        batch_size=256,
        optimiser="nesterov",
        lr=0.1,
        weight_decay=1e-4,
        ema=0.995,
        augment="resized-crop-flip",
        precision="bfloat16",
    )


def restricted_imagenet_paper(threat: Threat | None) -> TrainConfig:
    """33,000 steps of 256 images: ResNet-50, SGD with Nesterov's momentum, against PGD-8 with steps of eps / 4.

    The paper's 110 epochs of 76,800 images are 32 passes over the 260,000 training images of Table 1's classes, about
    1,300 of each. Colours are left alone, which the released code changes too.
    """
    return TrainConfig(
        arch="resnet50",
        threat=threat,
        attack="pgd-8" if threat else None,
        step_size=(threat.eps / 4 or None) if threat else None,
        epochs=110 * 76_800 / 260_000,
        batch_size=256,
        optimiser="nesterov",
        lr=0.1,
        schedule="imagenet-step",
        weight_decay=1e-4,
        augment="resized-crop-flip",
        attack_precision="float32",
        holdout=0.0,
    )


PRESETS: Mapping[str, Mapping[str, Preset]] = {
    "mnist": {"laptop": mnist_laptop, "gpu": mnist_gpu, "paper": mnist_paper},
    "cifar10": {"laptop": cifar10_laptop, "gpu": cifar10_gpu, "paper": cifar10_paper},
    "restricted-imagenet": {
        "laptop": cifar10_laptop,  # for a slice of 64 x 64 pixels: its network takes any size
        "gpu": restricted_imagenet_gpu,
        "paper": restricted_imagenet_paper,
    },
}
"""By the name of the data set, then by scale."""


def preset(scale: str, data: str, threat: Threat | None = None, seed: int = 0) -> TrainConfig:
    """The settings of a scale for a data set, against a threat or, with None, without one.

    Raises:
        InputError: if there are none.
    """
    check_known("data set with presets", data, PRESETS)
    check_known("preset", scale, PRESETS[data])
    return replace(PRESETS[data][scale](threat), seed=seed)
