"""Where a run computes: one process, or those that torchrun or SLURM has started; all of it by lightning-fabric."""

import atexit
import logging
import os
from contextlib import AbstractContextManager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.distributed import distributed_c10d

from nofreelunch.models.precision import multiplies_bfloat16

_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed"]] = {"float32": "32-true", "bfloat16": "bf16-mixed"}


class Devices:
    """This process's device, and its connection to the others'.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        precision: of a module's forward pass, "float32" or "bfloat16"; weights stay in float32. A device without
            instructions for bfloat16 computes in float32: to emulate them takes ten times as long.
    """

    def __init__(self, device: str, precision: str) -> None:
        from lightning_fabric import Fabric  # seconds of import that only training needs
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its banners are not ours
        processes, nodes = _spread()
        accelerator, _, number = device.partition(":")
        if not multiplies_bfloat16(torch.device(device)):
            precision = "float32"
        self._fabric = Fabric(
            accelerator=accelerator,
            devices=[int(number)] if number else processes // nodes,
            num_nodes=nodes,
            strategy=DDPStrategy(broadcast_buffers=False) if processes > 1 else "auto",  # `broadcast_buffers` does that
            precision=_PRECISIONS[precision],
            plugins=[] if processes > 1 else [LightningEnvironment()],  # alone, whatever SLURM has allocated
        )
        self._fabric.launch()
        self.device: torch.device = self._fabric.device
        self.rank, self.processes = self._fabric.global_rank, self._fabric.world_size
        if processes > 1:
            atexit.register(_leave)

    @property
    def is_main(self) -> bool:
        """Whether this process tells and keeps what happens."""
        return self.rank == 0

    def setup(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module to call in training, with gradients averaged over the processes, and the optimiser to step."""
        return cast(tuple[nn.Module, torch.optim.Optimizer], self._fabric.setup(model, optimiser))

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the parameters'."""
        self._fabric.backward(loss)

    def no_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        """Within the block gradients are not averaged yet, if enabled: more is to come for this step."""
        return cast(AbstractContextManager[None], self._fabric.no_backward_sync(cast(Any, module), enabled=enabled))

    def total(self, value: Tensor) -> Tensor:
        """The sum over the processes."""
        return cast(Tensor, self._fabric.all_reduce(value, reduce_op="sum"))

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return int(cast(Tensor, self._fabric.all_reduce(torch.tensor(number, device=self.device), reduce_op="max")))

    def all_gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks."""
        return cast(Tensor, self._fabric.all_gather(rows)).view(-1, *rows.shape[1:])

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give the model's buffers, such as batch-norm's running statistics, the first process's values in all."""
        if self.processes > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def barrier(self) -> None:
        """Go on when all processes have come here."""
        self._fabric.barrier()


def is_main_process() -> bool:
    """Whether this process speaks for all that torchrun or SLURM has started; they need not have met yet."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def first_to_tell() -> bool:
    """Whether this process is to tell of a failure that befalls several: once they have met, the first that asks."""
    if not torch.distributed.is_initialized():
        return is_main_process()
    try:
        return bool(distributed_c10d._get_default_store().add("told", 1) == 1)
    except RuntimeError:  # whoever kept the count is gone
        return True


def _spread() -> tuple[int, int]:
    """How many processes were started, on how many nodes: by torchrun, else by srun, whatever SLURM has allocated."""
    processes = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", 1)))
    if "LOCAL_WORLD_SIZE" in os.environ:
        return processes, processes // int(os.environ["LOCAL_WORLD_SIZE"])
    return processes, int(os.environ.get("SLURM_STEP_NUM_NODES", 1))


def _leave() -> None:
    """End the connection before the interpreter ends: its threads would abort the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
