"""Tells an error of a device that is out of memory from others."""

import torch

# What torch's libraries say where their own allocations fail.
ALLOCATION_FAILED = (
    "STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the host, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATION_FAILED)


def free_cached(device: torch.device) -> None:
    """Give back the memory that torch's allocator keeps for later, so that it can be cut anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
