"""Checkpoints that are whole or not there: written beside, then renamed; and the lock that keeps a run folder to one run."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from asr_exp.errors import UserError
from asr_exp.sharding import shard_like

STATE = "training_state.pt"


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0) -> Iterator[None]:
    """Hold a run folder; the lock goes with the process, however it ends.

    patience: seconds to wait for another process that holds it (-1: as long as it takes). Raises UserError where it holds it longer,
    and where nothing can be written.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience)
    except Timeout:  # an OSError too
        raise UserError(f"Another process is at work in {folder}; wait for it, or end it, before you start the same run again.") from None
    except OSError as why:
        raise UserError(f"The run folder {folder} cannot be written ({why.strerror or why}); give another output_root=FOLDER.") from None
    try:
        yield
    finally:
        lock.release()


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replace a folder by a new one that `fill` writes; whenever the process dies, `recover` finds the old or the new one, whole.

    Raises UserError where it cannot be written (a full disk); what stood before still stands.
    """
    beside, before = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        fill(beside)
        _flush(beside)
    except (OSError, RuntimeError, SafetensorError, MemoryError) as why:  # RuntimeError is torch's way of saying that a disk is full
        shutil.rmtree(beside, ignore_errors=True)
        raise _unwritten(folder, why) from why
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    beside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def recover(folder: Path) -> bool:
    """Undo what a kill in the middle of `write_folder` left -> whether the folder is there."""
    beside, before = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    if not folder.exists():
        # The old one is moved away only once the new one is complete, so with an old one the new one is whole.
        if before.exists() and beside.exists():
            beside.rename(folder)
        elif before.exists():
            before.rename(folder)
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)
    return folder.exists()


def _unwritten(folder: Path, why: Exception) -> UserError:
    free = shutil.disk_usage(next(p for p in folder.parents if p.exists())).free / 2**20
    before = "The one before it is whole: make" if folder.exists() else "Make"
    return UserError(
        f"The checkpoint {folder} could not be written ({_in_short(why)}; {free:.0f} MiB free on that disk). "
        f"{before} room and give the same command again to go on."
    )


def _in_short(why: Exception) -> str:
    """The first line of an error's message; its name where it has none (EOFError, MemoryError)."""
    return str(why).strip().split("\n")[0] or type(why).__name__


def _flush(folder: Path) -> None:
    """Have every file of a folder on the disk before the folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def save_state(folder: Path, state: dict[str, Any]) -> None:
    torch.save(state, folder / STATE)


def load_state(folder: Path, device: torch.device, mapped: bool = False) -> dict[str, Any]:
    """The training state of a checkpoint; mapped: on the CPU, read as it is used. Raises UserError where the file does not read as one."""
    try:
        return torch.load(folder / STATE, map_location="cpu" if mapped else device, weights_only=True, mmap=mapped)
    except Exception as why:
        reason = _in_short(why)
        raise UserError(f"{folder / STATE} cannot be read ({reason}); delete {folder} to start this run afresh.") from None


def load_weights(folder: Path, network: torch.nn.Module) -> None:
    """Read a checkpoint folder's weights into a network. Raises UserError where the file is missing or of another shape."""
    try:
        _load(folder / "model.safetensors", network)
    except Exception as why:
        reason = _in_short(why)
        raise UserError(f"{folder}/model.safetensors cannot be loaded ({reason}); the folder is not this run's checkpoint.") from None


def _load(path: Path, network: torch.nn.Module) -> None:
    """Set a network's weights to those of a file, each rank its part where they are cut."""
    own = network.state_dict()
    with safe_open(path, framework="pt") as file:
        network.load_state_dict({name: shard_like(file.get_tensor(name), own.get(name)) for name in file.keys()})  # noqa: SIM118


def keep_recent(folder: Path, weights: dict[str, torch.Tensor], step: int, count: int) -> None:
    """Keep the weights of an evaluation for `average_recent`, and no more than `count` of them. Raises UserError on a full disk."""
    from safetensors.torch import save_file

    beside = folder / "new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, beside)
    except Exception as why:  # safetensors has its own for a full disk
        beside.unlink(missing_ok=True)
        raise _unwritten(folder, why) from why
    beside.rename(folder / f"{step:09d}.safetensors")
    for old in sorted(folder.glob("*.safetensors"))[:-count]:
        old.unlink()


@torch.no_grad()
def average_recent(folder: Path, network: torch.nn.Module) -> None:
    """Set a network's weights to the mean of those kept (checkpoint averaging, as in Vaswani et al. 2017, section 6.1)."""
    kept = sorted(folder.glob("*.safetensors"))
    total = [torch.zeros_like(p) for p in network.parameters()]
    for path in kept:
        _load(path, network)
        torch._foreach_add_(total, list(network.parameters()))
    for parameter, summed in zip(network.parameters(), total, strict=True):
        parameter.copy_(summed / len(kept))
