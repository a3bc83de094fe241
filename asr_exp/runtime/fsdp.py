"""Weights, gradients and optimizer state cut across ranks: PyTorch's fully sharded data parallelism (Zhao et
al. 2023), second edition.

Each rank keeps a part of every tensor, a `DTensor`. A block's weights are gathered when its forward or
backward pass begins and given back when it ends, so that all ranks have to make the same passes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def shard(model: nn.Module, blocks: Iterable[nn.Module], device: torch.device, world: int) -> None:
    """Cut a model's parameters across all ranks: those of each block are gathered together, the others with
    the model's forward pass.

    The parameters become other objects, so it comes before an optimizer's making. Gradients are summed over
    ranks, not averaged. They and the weights stay in fp32: what is computed is what one device computes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world,))
    for module in (*blocks, model):
        sharded = fully_shard(module, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other
    # it would keep a copy of every block's weights up to the end of the forward pass
    torch.set_autocast_cache_enabled(False)


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """All weights gathered on every rank, so that ranks may make forward passes as they please. Nothing for a
    model that is not cut.
    """
    parts = _parts(model)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()


def is_cut(model: nn.Module) -> bool:
    return bool(_parts(model))


def _parts(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "unshard")]


# ------------------------------------------------------------------------------------------------------------
# tensors


def is_sharded(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor, told without the import, which takes most of a second


def gathered(tree: Any, keep: bool) -> Any:
    """Dictionaries and lists with every tensor that is cut made whole, on the CPU; None in its place where it
    is not to be kept.

    All ranks take part. Other values stay as they are.
    """
    if isinstance(tree, dict):
        return {name: gathered(value, keep) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gathered(value, keep) for value in tree)
    if not is_sharded(tree):
        return tree
    full = tree.detach().full_tensor()
    return full.cpu() if keep else None


def shard_like(full: torch.Tensor, tensor: Any) -> torch.Tensor:
    """This rank's part of a tensor that every rank has whole, cut as `tensor` is; all of it where that is not
    cut.
    """
    if not is_sharded(tensor):
        return full
    from torch.distributed.tensor import distribute_tensor

    # lets the whole go
    return distribute_tensor(full, tensor.device_mesh, tensor.placements, src_data_rank=None).clone()


def shard_optimizer_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state dict with what has the shape of its parameter cut as that is."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    cut = {
        index: {
            name: (
                shard_like(v, parameters[index])
                if torch.is_tensor(v) and v.shape == parameters[index].shape
                else v
            )
            for name, v in one.items()
        }
        for index, one in saved["state"].items()
    }
    return {**saved, "state": cut}
