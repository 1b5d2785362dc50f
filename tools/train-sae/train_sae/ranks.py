"""Several processes that train together (`torchrun`): each on its own shards, with averaged gradients."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from saetools.errors import UsageError
from saetools.scorers.start import Normalization


@dataclass(frozen=True)
class Ranks:
    """This process's number, and how many there are."""

    rank: int = 0
    world: int = 1

    @staticmethod
    def join() -> Ranks:
        """From the environment variables that torchrun sets; a single process without them."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return Ranks()
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend)
        return Ranks(dist.get_rank(), world)

    def leave(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()

    def device(self, chosen: torch.device) -> torch.device:
        """The GPU of this process where GPUs are used."""
        if self.world == 1 or chosen.type != "cuda":
            return chosen
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        return device

    def check_batch(self, batch_size: int) -> None:
        """Raise UsageError unless a batch can be split evenly over the processes."""
        if batch_size % self.world:
            raise UsageError(f"`batch_size` {batch_size}: it is no multiple of the {self.world} processes")

    def share(self, *tensors: torch.Tensor) -> None:
        """Overwrite the tensors of all processes with those of process 0."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def share_normalization(self, normalization: Normalization) -> Normalization:
        scale = torch.tensor([normalization.scale], dtype=torch.float64)
        self.share(normalization.mean, scale)
        return Normalization(normalization.mean, scale.item())

    def mean_(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its mean over the processes."""
        if self.world > 1:
            dist.all_reduce(tensor)
            tensor /= self.world

    def minimum_(self, tensor: torch.Tensor) -> None:
        if self.world > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MIN)

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.world == 1:
            return number
        tensor = torch.tensor([number])
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor.item())
