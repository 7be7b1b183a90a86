"""Float32 means float32, on GPUs too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """GPUs multiply float32 numbers in full within the block.

    Otherwise they round the factors of convolutions to 11 bits (TF32): by a thousandth, which moves points at a
    boundary across it, and drowns the small differences by which a gradient is checked. Whoever has set this for
    single operations keeps what was set.
    """
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
