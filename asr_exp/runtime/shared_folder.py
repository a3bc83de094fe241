"""Whether the ranks of a run, which may be on several machines, all see the run's folder."""

import contextlib
import secrets
import socket
import time
from pathlib import Path

import torch.distributed as dist

from asr_exp.core.errors import RankLost, UserError
from asr_exp.core.exit_status import say
from asr_exp.runtime.distributed import Runtime

PATIENCE = 5.0  # seconds that a file may take to be seen on another machine
HEAD_START = 2.0  # seconds that rank 0 has to say what is wrong before the end of another rank ends it


def check_shared(folder: Path, runtime: Runtime, patience: float = PATIENCE) -> None:
    """Check that what rank 0 writes into a folder is seen by every rank. Every rank takes part.

    Args:
        folder: of the run; rank 0 makes it where it does not exist.
        runtime: of this rank.
        patience: seconds that a rank looks for the file.

    Raises:
        UserError: on rank 0, where a rank does not see the file; it names their machines. The first rank of
            every other machine prints the same.
        RankLost: on the other ranks, at the same time.
    """
    if runtime.world == 1:
        return
    probe = folder / runtime.broadcast(f".shared.{secrets.token_hex(8)}")
    if runtime.main:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
        except OSError as why:
            raise UserError(f"The run folder {folder} cannot be written ({why.strerror or why}).") from None
    try:
        host = socket.gethostname()
        first, place = runtime.broadcast((host, str(folder.absolute())))  # by then the file is written
        sees: list[tuple[str, bool]] = [(host, True)] * runtime.world
        dist.all_gather_object(sees, (host, _sees(probe, patience)), group=runtime.group)
    finally:
        if runtime.main:
            probe.unlink(missing_ok=True)
    if all(seen for _, seen in sees):
        return
    blind: dict[str, list[str]] = {}
    for rank, (host, seen) in enumerate(sees):
        if not seen:
            blind.setdefault(host, []).append(str(rank))
    hosts = ", ".join(f"{host} (rank {', '.join(ranks)})" for host, ranks in blind.items())
    sentence = (
        f"The run folder {place} of {first} (rank 0) is not seen on {hosts}: every machine of a run has to"
        " see the same folder. Give an output_root=FOLDER that all of them mount, or start the command in one"
        " shared folder on each."
    )
    if runtime.main:
        raise UserError(sentence)
    if runtime.local_rank == 0:  # another machine, perhaps with a terminal of its own
        say(f"error (rank {runtime.rank}): ", sentence)
    time.sleep(HEAD_START)
    raise RankLost(sentence)


def _sees(path: Path, patience: float) -> bool:
    """Whether a file is seen within so many seconds.

    A client of NFS remembers for up to a minute that a folder did not exist. Making it is a question that
    goes to the server, which answers that it is there. What was made in vain is deleted again.
    """
    missing = [one for one in path.parents if not one.exists()]
    deadline = time.monotonic() + patience
    while not path.exists():
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        if time.monotonic() >= deadline:
            for folder in missing:
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
            return False
        time.sleep(0.1)
    return True
