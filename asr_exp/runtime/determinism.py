"""Deterministic algorithms on CUDA: the same numbers in every run, where torch takes faster ones else."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from asr_exp.core.errors import UserError


@contextlib.contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """While it lasts, torch uses deterministic algorithms alone; not enabled: it changes nothing.

    It comes before the first product on CUDA: cuBLAS reads its environment then, and keeps it.

    Raises UserError where an operator has no deterministic algorithm.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it products may differ
    memory: Any = torch.utils.deterministic
    fill, cudnn = memory.fill_uninitialized_memory, torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark)
    torch.use_deterministic_algorithms(True)
    # Writing NaN into every new tensor finds those that are read before they are written, and takes long.
    memory.fill_uninitialized_memory = False
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as why:
        lines = str(why).splitlines()
        if lines and "deterministic" in lines[0]:
            raise UserError(
                f"trainer.deterministic=true: {lines[0].partition('. ')[0].partition(', but')[0]}."
                " Type trainer.deterministic=false."
            ) from why
        raise
    finally:
        torch.use_deterministic_algorithms(False)
        memory.fill_uninitialized_memory = fill
        cudnn.deterministic, cudnn.benchmark = before
