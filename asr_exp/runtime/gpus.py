"""Which GPU a process works on: the one that `trainer.device` names, that of its rank, or in a sweep one that
no other cell works on.
"""

import getpass
import itertools
import os
import tempfile
from pathlib import Path

import torch

from asr_exp.core.errors import UserError
from asr_exp.core.locks import FileLock, Timeout

# The GPUs of a cell, for the process that runs it and for the ranks that this process starts: "2,3".
OF_CELL = "ASR_EXP_GPUS"
# The locks that this process holds, by the number of the GPU. They end with the process.
_held: dict[int, FileLock] = {}


def gpu_count() -> int:
    """How many GPUs torch sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_device(device: str, rank: int, local_rank: int, world: int) -> torch.device:
    """The device of a rank, for a value of `trainer.device`: auto, cpu, cuda or cuda:N.

    Raises UserError where there is no such device, and where each rank needs another but one is named.
    """
    count = gpu_count()
    if device == "cpu" or device == "auto" and not count:
        return torch.device("cpu")
    if not count:
        raise UserError(
            f"trainer.device={device}, but torch sees no CUDA device here; use trainer.device=cpu or auto."
        )
    if ":" in device:
        if world > 1:
            raise UserError(
                f"trainer.device={device} is one GPU, and each of the {world} ranks needs its own; give"
                " trainer.device=cuda, and choose them by CUDA_VISIBLE_DEVICES."
            )
        if int(device.partition(":")[2]) >= count:
            raise UserError(
                f"There is no trainer.device={device} here: torch sees {count} CUDA"
                f" device{'s' * (count > 1)}, from cuda:0 on."
            )
        return torch.device(device)
    numbers = [int(number) for number in os.environ.get(OF_CELL, "").split(",") if number] or range(count)
    if local_rank >= len(numbers):
        raise UserError(
            f"Rank {rank} has no GPU of its own: {count} here; lower trainer.devices or --nproc-per-node."
        )
    return torch.device("cuda", numbers[local_rank])


def lock_gpus(count: int) -> None:
    """Choose `count` GPUs for a cell of a sweep, such that no other cell of this user on this machine has
    them, and keep them until this process ends.

    A process that runs one cell after another keeps its GPUs. Where all are taken, cells share them evenly,
    and one of the cells prints it.
    """
    here = gpu_count()
    if not here:
        return
    count = min(count, here)
    for number in list(_held)[count:]:
        _held.pop(number).release()
    names = _names(here)
    folder = Path(tempfile.gettempdir()) / f"asr_exp-{getattr(os, 'getuid', getpass.getuser)()}" / "gpus"
    folder.mkdir(parents=True, exist_ok=True)
    # a GPU's lock of the second round is that of the second cell on it
    for turn, number in ((turn, number) for turn in itertools.count() for number in range(here)):
        if len(_held) == count:
            break
        if number in _held:
            continue
        lock = FileLock(folder / f"{names[number]}.{turn}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _held[number] = lock
        if (turn, number) == (1, 0):
            print(f"More cells at once than GPUs ({here}): some cells share one.", flush=True)
    os.environ[OF_CELL] = ",".join(map(str, _held))


def _names(count: int) -> list[str]:
    """What each GPU is called on this machine, whatever CUDA_VISIBLE_DEVICES says: its UUID."""
    names = [str(torch.cuda.get_device_properties(number).uuid) for number in range(count)]
    return names if len(set(names)) == count else [str(number) for number in range(count)]
