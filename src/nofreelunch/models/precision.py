"""In which precision a device multiplies."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for it; elsewhere it is emulated, and slow."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def there_is_a_gpu() -> bool:
    """Whether anything could be rounded to less than float32 here."""
    return torch.cuda.is_available()


@contextmanager
def full_float32() -> Iterator[None]:
    """GPUs multiply float32 numbers in full within the block; where there is none, nothing is set.

    Otherwise they round the factors of convolutions to 11 bits (TF32): by a thousandth, which moves points at a
    boundary across it, and drowns the small differences by which a gradient is checked. Whoever has set this for
    single operations keeps what was set.
    """
    if not there_is_a_gpu():
        yield
        return
    convolutions = torch.backends.cudnn
    try:
        before = convolutions.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # torch's word for settings by operation
        yield
        return
    convolutions.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        convolutions.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
