"""How jobs of submitit's are launched and waited for: one that is lost is a line, and the others go on."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from submitit import AutoExecutor, Job
from submitit.core.utils import FailedJobError, UncompletedJobError

from asr_exp.config.hydra_internals import returned
from asr_exp.sweeps.record import SweepCell, lost, note_lost
from asr_exp.sweeps.search import Worker

POLL_SECONDS = 1.0
QUEUE_SECONDS = 30.0  # between two looks into the queue, where there is no accounting

# How a job ended that has left no result, by the state that SLURM gives it; "killed" for any other.
ENDS = {
    "CANCELLED": "cancelled",
    "TIMEOUT": "out of time",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "lost its node",
}
OVER = (*ENDS, "BOOT_FAIL", "DEADLINE", "FAILED")  # states of a job that will not write a result


def launch(
    launcher: BaseSubmititLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Submit a job for each list of overrides, tell where its log is once it begins and how it has ended, and
    return, when all have, what they returned: in the place of a job that is lost, a cell that is.
    """
    assert launcher.config is not None
    folder = Path(str(launcher.config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    cells = [list(words) for words in job_overrides]
    numbers = range(initial_job_idx, initial_job_idx + len(cells))
    states, folders = [Singleton.get_state()] * len(cells), ["hydra.sweep.dir"] * len(cells)
    jobs = _executor(launcher).map_array(
        launcher, cells, folders, numbers, [f"job_id_for_{number}" for number in numbers], states
    )
    unfinished = [lost(number + 1, words, "") for number, words in zip(numbers, cells, strict=True)]
    try:
        if isinstance(launcher.task_function, Worker):
            return _wait(jobs, unfinished, "worker", None)
        return _wait(jobs, unfinished, "cell", folder)
    except KeyboardInterrupt:
        if launcher._EXECUTOR != "slurm":  # they are processes of this terminal, which are interrupted too
            raise
        ids = " ".join(dict.fromkeys(job.job_id.partition("_")[0] for job in jobs))
        raise KeyboardInterrupt(
            f"Interrupted. The jobs go on; scancel {ids} has them save and leave."
        ) from None


def _wait(
    jobs: "Sequence[Job[Any]]", unfinished: Sequence[SweepCell], noun: str, record: Path | None
) -> Sequence[JobReturn]:
    """Wait for all jobs, tell of each when it begins and when it has ended, and return what they returned.

    unfinished: what each counts as if it is lost. noun: what a job is called. record: see `_outcome`.
    """
    outcomes: dict[int, JobReturn] = {}
    begun: set[int] = set()
    looks: dict[str, float] = {}
    while len(outcomes) < len(jobs):
        for place, job in enumerate(jobs):
            if place in outcomes:
                continue
            state, name = _final_state(job, looks), f"{noun} {unfinished[place].cell}"
            if place not in begun and (state or job.paths.stdout.exists()):
                begun.add(place)
                print(f"{name}: job {job.job_id}, log {os.path.relpath(job.paths.stdout)}", flush=True)
            if state:
                outcomes[place] = done = _outcome(job, state, unfinished[place], record)
                if isinstance(cell := done.return_value, SweepCell):
                    told = cell.as_message() or f"({cell.reason})" * bool(cell.reason)
                    print(f"{name}: {cell.status} {told}".rstrip(), flush=True)
        time.sleep(POLL_SECONDS)
    return [outcomes[place] for place in range(len(jobs))]


def _executor(launcher: BaseSubmititLauncher) -> AutoExecutor:
    """submitit's executor with the settings of hydra.launcher. Those that only one kind of cluster has go by
    its name: slurm_partition.
    """
    cluster, common = launcher._EXECUTOR, {one.name for one in fields(BaseQueueConf)}
    settings = {
        name if name in common else f"{cluster}_{name}": value for name, value in launcher.params.items()
    }
    folder, timeouts = settings.pop("submitit_folder"), f"{cluster}_max_num_timeout"
    at_first = {timeouts: settings.pop(timeouts)} if timeouts in settings else {}
    executor = AutoExecutor(folder=folder, cluster=cluster, **at_first)
    executor.update_parameters(**settings)
    return executor


def _final_state(job: "Job[Any]", looks: dict[str, float]) -> str | None:
    """The state of a job that has ended; None while it goes on. looks: when the queue was last asked for it.

    submitit asks the accounting (sacct). Where a cluster has none it would wait for a killed job for ever, so
    the queue is asked.
    """
    if job.done():
        return job.state
    if job.state != "UNKNOWN" or time.monotonic() - looks.get(job.job_id, 0.0) < QUEUE_SECONDS:
        return None
    looks[job.job_id] = time.monotonic()
    command = ["squeue", "--noheader", "--states=all", "--format=%T", "--job", job.job_id]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    state = "FAILED" if "Invalid job id" in asked.stderr else asked.stdout.strip()
    return state if state in OVER else None


def _outcome(job: "Job[Any]", state: str, cell: SweepCell, record: Path | None) -> JobReturn:
    """What a job that has ended in this state returned; the row of a lost cell where it left nothing, or an
    error that was none of the cell's.

    record: the folder of the sweep's record, into which that row goes, where the job is a cell.
    """
    try:
        if not job.done():
            raise UncompletedJobError
        done: JobReturn = job.results()[0]
        _ = done.return_value  # which raises what the job has raised
        return done
    except FailedJobError as why:
        lines = [line for line in str(why).splitlines() if line.strip() and "-----" not in line]
        errors = [line for line in lines if line[0] not in " Yo"]  # not the trace, nor where the logs are
        reason = f"job {job.job_id} failed: {(errors or lines)[-1]}"
    except UncompletedJobError:
        # "CANCELLED by 0"
        reason = f"job {job.job_id} {ENDS.get(state.partition(' ')[0].rstrip('+'), 'killed')}"
    except Exception as why:
        reason = f"job {job.job_id} failed: {type(why).__name__}: {why}".partition("\n")[0]
    cell = replace(cell, reason=reason)
    return returned(note_lost(record, cell) if record else cell)
