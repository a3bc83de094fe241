"""Where a run runs: rank and world, device and precision, seeds, sums across ranks."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from asr_exp.errors import RankLost, Stopped, UserError
from asr_exp.matmul import is_true_fp32, use_onednn

# Ranks wait for each other while one decodes audio or evaluates: hours are normal, a lost rank closes its socket at once.
PATIENCE = timedelta(hours=4)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Runtime:
    """This process's place among the ranks of a run. `group` carries host-side messages (gloo), whatever the device."""

    rank: int
    local_rank: int
    world: int
    device: torch.device
    precision: str
    group: Any = field(default=None, repr=False)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor summed over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def most(self, value: int) -> int:
        """The largest of the ranks' values: what one rank knows (a signal, the time to save), all learn. Host side only."""
        if self.world == 1:
            return value
        word = torch.tensor([value])
        dist.all_reduce(word, op=dist.ReduceOp.MAX, group=self.group)
        return int(word)

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])


@contextlib.contextmanager
def started(device: str, precision: str) -> Iterator[Runtime]:
    """Join the ranks torchrun (or `launch`) started, choose device and precision; leave them on the way out.

    Raises UserError for a device or a precision this machine does not have.
    """
    rank, world, local = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("trainer.device=cuda, but torch sees no CUDA device here; use trainer.device=cpu or auto.")
    on_cuda = torch.cuda.is_available() and device != "cpu"
    if on_cuda and local >= torch.cuda.device_count():
        raise UserError(f"Rank {rank} has no GPU of its own: {torch.cuda.device_count()} here; lower trainer.devices or --nproc-per-node.")
    place = torch.device("cuda", local) if on_cuda else torch.device("cpu")
    runtime = Runtime(rank, local, world, place, choose_precision(precision, place))
    if on_cuda:
        torch.cuda.set_device(place)
    if world > 1:
        _meet("nccl" if on_cuda else "gloo")
        runtime.group = dist.new_group(backend="gloo", timeout=PATIENCE) if on_cuda else None
        _end_with_parent()
    try:
        use_onednn(place.type == "cpu")
        if runtime.most(not is_true_fp32()):
            use_onednn(False)
        with Signals(at_once=True):
            yield runtime
    except RuntimeError as why:
        if world > 1 and peer_lost(why):
            raise RankLost("Another process of this run has ended, so this one must too; the same command goes on.") from why
        raise
    finally:
        use_onednn(False)
        if dist.is_initialized():
            dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Join the group of all ranks."""
    store, rank, world = next(rendezvous("env://"))
    if os.environ.get("TORCHELASTIC_RUN_ID") == "none":
        # torchrun's static rendezvous keeps one store over all its restarts: addresses of ranks that died must not be read.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)


def peer_lost(error: BaseException) -> bool:
    """Whether an error says that another rank is gone: its socket closed in the middle of a message between ranks."""
    return isinstance(error, dist.DistError) or isinstance(error, RuntimeError) and "gloo" in str(error)


def _end_with_parent() -> None:
    """End this rank when the process that started it (`launch`, torchrun) is killed: an orphan would hold the run folder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def choose_precision(asked: str, device: torch.device) -> str:
    """`auto` is bf16 where the device computes it natively, else fp32. Raises UserError for what the device cannot do."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if asked == "fp16":
            raise UserError("trainer.precision=fp16 needs a GPU; use trainer.precision=auto, bf16 or fp32 on a CPU.")
    if asked == "bf16" and not has_bf16 and device.type == "cuda":
        raise UserError("trainer.precision=bf16, but this GPU does not compute in bf16; use trainer.precision=fp16 or fp32.")
    return ("bf16" if has_bf16 else "fp32") if asked == "auto" else asked


def seed_everything(*parts: int) -> None:
    """Seed torch's generators from integers, such as (seed, step, rank): what is drawn at a step does not depend on the past."""
    mixed = 0
    for part in parts:
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**63
    torch.manual_seed(mixed)


# ---------------------------------------------------------------------------------------------------------------------
# processes


def under_torchrun() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_main() -> bool:
    """Whether this process is rank 0, known before the ranks have met."""
    return os.environ.get("RANK", "0") == "0"


def task_overrides() -> list[str]:
    """What the user gave on the command line for this run (of a sweep: for this cell), to hand to another process."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    users = [s.path for s in hydra.runtime.config_sources if s.provider == "user" and Path(s.path) != Path.cwd() / "conf"]
    return [*hydra.overrides.task, *(word for path in users for word in ("--config-dir", path))]


def launch(devices: int, command: str, overrides: Sequence[str]) -> int:
    """Run `asr_exp COMMAND OVERRIDES` as `devices` ranks on this machine -> the exit status.

    When one rank dies the others are ended; SIGINT and the signals of LEAVE sent to this process are handed on to the ranks.
    Raises Stopped where they left because of one.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = str(max(1, (os.cpu_count() or 1) // devices))
    shared = {**os.environ, "WORLD_SIZE": str(devices), "LOCAL_WORLD_SIZE": str(devices), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    ranks = [
        subprocess.Popen([sys.executable, "-m", "asr_exp", command, *overrides], env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(devices)
    ]

    handed_on: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        handed_on.append(number)
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (*LEAVE, signal.SIGINT)}
    try:
        while (ended := [p for p in ranks if p.poll() is not None]) != ranks:
            if any(p.returncode for p in ended):
                _end(ranks)
            time.sleep(0.05)
    finally:
        _end(ranks)
        for number, handler in before.items():
            signal.signal(number, handler)
    # A rank that was ended because another failed (1, or by a signal) tells less than one that knows why.
    codes = [p.returncode for p in ranks if p.returncode]
    for asked in handed_on:
        if 128 + asked in codes:
            raise Stopped("The ranks have saved and left; the same command goes on from there.", asked)
    return max((c for c in codes if c > 0), default=1 if codes else 0)


def _end(ranks: Sequence[subprocess.Popen]) -> None:
    """Give running ranks a moment to leave by themselves, then ask them to, then make them."""
    for patience, last_word in ((2.0, subprocess.Popen.terminate), (15.0, subprocess.Popen.kill)):
        deadline = time.monotonic() + patience
        while any(p.poll() is None for p in ranks) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in ranks:
            if process.poll() is None:
                last_word(process)
    for process in ranks:
        process.wait()


# What asks a run to save and leave. submitit has SIGUSR2 for it and keeps SIGTERM, which comes beside it, to itself.
LEAVE = (signal.SIGUSR1, signal.SIGUSR2) if "SUBMITIT_EXECUTOR" in os.environ else (signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """Remembers that a signal of LEAVE came, for the training loop to save and leave at its next step.

    at_once: where there is nothing to save (data is prepared, a split is scored), raise Stopped then and there.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.at_once, self.received = at_once, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in LEAVE:
            with contextlib.suppress(ValueError):  # not the main thread: the signals are someone else's business
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: Any) -> None:
        self.received = number
        if self.at_once:
            raise Stopped("Stopped between steps; the same command goes on from there.", number)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
