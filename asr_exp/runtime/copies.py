"""Several copies of one training command, as srun or mpirun start them where torchrun was meant."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from asr_exp.core.exit_status import say
from asr_exp.core.files import write_text
from asr_exp.runtime.distributed import under_torchrun

PATIENCE = 10.0  # seconds by which tasks that were started together may differ when they get here
WAITS = "waits"  # the text of a mark


@dataclass(frozen=True)
class Task:
    """This process among the `count` tasks that `program` has started. step: what they have in common."""

    program: str
    number: int
    count: int
    step: str


def this_task() -> Task | None:
    """This process as one of several tasks; None for a single one, and for a rank that torchrun has started.

    A shell or a script in a SLURM allocation of several tasks is none of them: only what srun starts is.
    """
    if under_torchrun():
        return None
    # mpirun itself may use srun to start a process on each machine, so its variables come first
    for program, size, number, step in (
        ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", ("PMIX_NAMESPACE",)),
        ("mpirun", "PMI_SIZE", "PMI_RANK", ("PMI_JOBID",)),
        (
            "srun",
            "SLURM_STEP_NUM_TASKS",
            "SLURM_PROCID",
            ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
        ),
    ):
        count, own = os.environ.get(size, ""), os.environ.get(number, "")
        if count.isdigit() and int(count) > 1 and own.isdigit():
            if "SLURM_STEP_ID" in os.environ and size == "PMI_SIZE":
                continue  # srun sets these too
            common = [os.environ.get(name, "") for name in step]
            return Task(program, int(own), int(count), "-".join(common) if any(common) else f"{os.getppid()}")
    return None


@contextmanager
def no_copies(folder: Path, task: Task | None, patience: float = PATIENCE) -> Iterator[None]:
    """Make sure that no other task that was started together with this one comes to the same run folder.

    Each of several tasks leaves a mark in its run folder and looks for the others' for `patience` seconds.
    Tasks with settings of their own (another seed each) have folders of their own and go on. A copy that
    comes later than that is refused alone.

    Args:
        folder: of the run.
        task: this process; None where it is the only task: nothing is done.
        patience: seconds.

    Raises:
        SystemExit: with status 2, where there are copies; the first of those that leave says what was meant.
    """
    if task is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f".copy.{hashlib.sha256(task.step.encode()).hexdigest()[:10]}."
    own = folder / f"{prefix}{task.number}"
    try:
        deadline = time.monotonic() + patience
        while True:
            write_text(own, WAITS)  # anew each time: a client of NFS then reads the folder anew
            if len(_marks(folder, prefix)) > 1:
                _refuse(task, folder, prefix)
            if time.monotonic() >= deadline:
                break
            time.sleep(0.2)
        write_text(own, "at work")
        yield
    finally:
        own.unlink(missing_ok=True)
        with suppress(OSError):  # there is more in it
            folder.rmdir()


def _marks(folder: Path, prefix: str) -> dict[int, str]:
    """The marks in a run folder: their text by the number of the task."""
    marks = {}
    for path in folder.glob(f"{prefix}*"):
        number = path.name.removeprefix(prefix)
        with suppress(OSError):  # that task has left
            if number.isdigit():  # not one that is being written
                marks[int(number)] = path.read_text(encoding="utf-8")
    return marks


def _refuse(task: Task, folder: Path, prefix: str) -> NoReturn:
    """Leave, together with the copies that are waiting too; the first of them says why."""
    time.sleep(0.5)  # until all who wait have seen each other
    if task.number == min(number for number, text in _marks(folder, prefix).items() if text == WAITS):
        say("error: ", _advice(task))
    time.sleep(1)
    raise SystemExit(2)


def _advice(task: Task) -> str:
    """What was meant by several copies."""
    return (
        f"{task.program} started {task.count} copies of this command, which would all train the same run. For"
        f" a run of {task.count} processes start one command: {task.program} -n 1 python -m asr_exp ..."
        f" trainer.devices={task.count} on one machine; on several, one torchrun on each (docs/cluster.md)."
    )
