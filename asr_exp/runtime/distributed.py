"""The place of a process in a run: its rank among `world` ranks, its device and precision; sums over ranks,
and seeds.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout
from torch.distributed.rendezvous import rendezvous

from asr_exp.core.errors import RankLost
from asr_exp.core.exit_status import say
from asr_exp.runtime.gpus import choose_device
from asr_exp.runtime.heartbeat import Heartbeat
from asr_exp.runtime.precision import choose_precision, fp32_products, has_tf32, is_true_fp32, use_onednn
from asr_exp.runtime.signals import Signals

# Ranks wait for each other while one decodes audio or evaluates, which may take hours. A rank that dies
# closes its socket, which the others notice at once; of a lost machine the heartbeat tells.
PATIENCE = timedelta(hours=4)
# Seconds that a rank has to save once the process that has started it is gone.
PARTING = 300.0
HAND_ON = (
    "torchrun hands it on to the ranks, and waits for them, with --signals-to-handle"
    " SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout 300."
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Runtime:
    """This process among the ranks of a run.

    rank: of all machines; local_rank: of this machine. group: carries messages between hosts (gloo), whatever
    the device. tf32: whether the GPU computes what is in fp32 in TF32.
    """

    rank: int
    local_rank: int
    world: int
    device: torch.device
    precision: str
    group: Any = field(default=None, repr=False)
    tf32: bool = False

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def gather_dtype(self) -> torch.dtype | None:
        """The type in which FSDP gathers the weights of a block, None for their own; see `shard`. On a CPU,
        whose layer norm takes no weights of another type than its input, it is their own.
        """
        return torch.bfloat16 if self.device.type == "cuda" and self.precision == "bf16" else None

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor, of any shape, over ranks; in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, value: int) -> int:
        """The largest of the ranks' values, so that all ranks learn what one knows: that a signal came, that
        it is time to save. It does not wait for the device.
        """
        if self.world == 1:
            return value
        largest = torch.tensor([value])
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.group)
        return int(largest)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def autocast(self) -> contextlib.AbstractContextManager:
        """torch's autocast to the run's precision; nothing for fp32."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])


@contextlib.contextmanager
def started(device: str, precision: str, tf32: bool = False) -> Iterator[Runtime]:
    """Join the ranks that torchrun or `launch` has started, choose device and precision, and leave the ranks
    at the end.

    Raises UserError for a device or a precision that this machine does not have, RankLost where another rank
    has ended.
    """
    rank, world, local = (
        int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    place = choose_device(device, rank, local, world)
    on_cuda = place.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(place)
    runtime = Runtime(rank, local, world, place, choose_precision(precision, place))
    runtime.tf32 = tf32 and has_tf32(place)
    if world > 1:
        _join_ranks("nccl" if on_cuda else "gloo", rank, world)
        runtime.group = dist.new_group(backend="gloo", timeout=PATIENCE) if on_cuda else None
        _end_with_parent()
    try:
        use_onednn(place.type == "cpu")
        if runtime.all_reduce_max(not is_true_fp32()):
            use_onednn(False)
        beating = Heartbeat(_store, rank, world) if world > 1 else contextlib.nullcontext()
        products = fp32_products(tf32) if on_cuda else contextlib.nullcontext()
        with beating, Signals(at_once=True), products:
            yield runtime
    except RuntimeError as why:
        if world > 1 and peer_lost(why):
            raise RankLost(
                "Another process of this run has ended, so this one must too; the same command goes on."
            ) from why
        raise
    finally:
        use_onednn(False)
        if dist.is_initialized():
            dist.destroy_process_group()


def _join_ranks(backend: str, rank: int, world: int) -> None:
    """Join the group of all ranks."""
    dist.init_process_group(backend, store=_store(), rank=rank, world_size=world, timeout=PATIENCE)


def _store(patience: timedelta = default_pg_timeout) -> dist.Store:
    """A connection to the store in which the ranks meet."""
    store, _, _ = next(rendezvous("env://", timeout=patience))
    if os.environ.get("TORCHELASTIC_RUN_ID") == "none":
        # torchrun's static rendezvous keeps one store over all its restarts: the addresses in it of ranks
        # that died must not be read
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
    return store


def peer_lost(error: BaseException) -> bool:
    """Whether an error comes from the end of another rank, which closed its socket during a message."""
    return isinstance(error, dist.DistError) or isinstance(error, RuntimeError) and "gloo" in str(error)


def _end_with_parent() -> None:
    """Have this rank save and leave, as upon SIGTERM, when the process that has started it, `launch` or
    torchrun, is gone; after PARTING seconds at the latest it ends. Otherwise it would keep the run folder
    locked.
    """
    parent, torchrun = os.getppid(), "TORCHELASTIC_RUN_ID" in os.environ
    handled = os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGUSR1")
    if torchrun and is_main() and "SLURM_JOB_ID" in os.environ and "SIGUSR1" not in handled:
        say(
            "warning: ",
            f"A SIGUSR1 of SLURM's would end torchrun at once, and nothing would be saved. {HAND_ON}",
        )

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        if is_main():
            advice = f" {HAND_ON}" if torchrun else ""
            say("warning: ", f"The process that has started the ranks is gone; they save and leave.{advice}")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PARTING)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def seed_everything(*parts: int) -> None:
    """Seed torch's generators from integers, such as (seed, step, rank), so that what is drawn at a step does
    not depend on the steps before.
    """
    mixed = 0
    for part in parts:
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**63
    torch.manual_seed(mixed)


# ------------------------------------------------------------------------------------------------------------
# processes


def under_torchrun() -> bool:
    """Whether torchrun or `launch` has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_main() -> bool:
    """Whether this process is rank 0, known before the ranks have met."""
    return os.environ.get("RANK", "0") == "0"
