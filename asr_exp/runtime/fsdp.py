"""Weights, gradients and optimizer state sharded across ranks by PyTorch's FSDP2 (fully sharded data
parallelism, Zhao et al. 2023).

Each rank keeps a shard of every tensor, a `DTensor`. The weights of a block are gathered when its forward or
backward pass begins and freed when it ends, so all ranks have to make the same passes.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def shard(
    model: nn.Module,
    blocks: Iterable[nn.Module],
    device: torch.device,
    world: int,
    gathered_as: torch.dtype | None = None,
) -> None:
    """Shard a model's parameters across `world` ranks: those of a block are gathered together, the others
    with the model's forward pass.

    The parameters become other objects, so an optimizer is to be built afterwards. Gradients are summed over
    ranks in fp32, not averaged. They and the shards stay in fp32, so that the result is that of one device.

    Args:
        model: to be sharded.
        blocks: its modules with the most parameters.
        device, world: of the ranks.
        gathered_as: the type in which a block's weights travel and are used, None for their own. With
            autocast to bf16, bf16 halves the traffic, and linear layers compute what they would anyway; the
            weights of norms are rounded to it too, an error that was seen to be below that of autocast
            itself. The weights outside of blocks travel as they are: filters are derived from them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # nothing is done in place to what a block returns
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (world,))
    own = MixedPrecisionPolicy()
    # what a block is given stays as it is: autocast chooses the type of each operation
    rounded = MixedPrecisionPolicy(gathered_as, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policies = [(block, rounded if gathered_as else own) for block in blocks]
    for module, policy in (*policies, (model, own)):
        sharded = fully_shard(module, mesh=mesh, mp_policy=policy)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other
    # the cache of autocast would keep a copy of every block's weights up to the end of the forward pass
    torch.set_autocast_cache_enabled(False)


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """While it lasts all weights are gathered on every rank, in their own type, so that each rank may make
    its own number of forward passes without a gradient. Nothing happens to a model that is not sharded.
    """
    parts = _parts(model)
    shards: list[Any] = [
        (module, name, shard)
        for module in (model.modules() if parts else ())
        for name, shard in module.named_parameters(recurse=False)
    ]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    for module, name, shard in shards:
        if getattr(module, name).dtype != shard.dtype:  # it travels in another: `gathered_as`
            setattr(module, name, nn.Parameter(shard.detach().full_tensor(), shard.requires_grad))
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()  # the modules have their shards again


def is_cut(model: nn.Module) -> bool:
    """Whether a model is sharded."""
    return bool(_parts(model))


def _parts(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "unshard")]


# ------------------------------------------------------------------------------------------------------------
# tensors


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor is a DTensor. The import of that class would take most of a second."""
    return hasattr(tensor, "full_tensor")


def gathered(tree: Any, keep: bool) -> Any:
    """Dictionaries and lists in which every sharded tensor is replaced by the whole one, on the CPU, or by
    None where `keep` is false.

    All ranks have to call it. Other values stay as they are.
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
    """This rank's shard of a tensor that every rank has whole, sharded as `tensor` is; all of it where that
    is not sharded.
    """
    if not is_sharded(tensor):
        return full
    from torch.distributed.tensor import distribute_tensor

    # a clone, so that the whole tensor is freed
    return distribute_tensor(full, tensor.device_mesh, tensor.placements, src_data_rank=None).clone()


def shard_optimizer_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state dict in which each tensor of the shape of its parameter is sharded as that is.

    Which kernels make a step is left as it is in `optimizer`: those of SGD depend on whether its parameters
    are sharded.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sharded = {
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
    groups = [
        {**group, **{name: own[name] for name in ("fused", "foreach") if name in own}}
        for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**saved, "state": sharded, "param_groups": groups}
