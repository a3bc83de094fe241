"""How jobs of submitit's are launched and waited for: one that is lost is a line, and the others go on."""

import os
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from submitit import AutoExecutor, Job
from submitit.core.utils import FailedJobError, UncompletedJobError

from asr_exp.config.hydra_internals import returned
from asr_exp.sweeps.record import SweepCell, lost

POLL_SECONDS = 1.0

# How a job ended that has left no result, by the state that SLURM gives it; "killed" for any other.
ENDS = {
    "CANCELLED": "cancelled",
    "TIMEOUT": "out of time",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "lost its node",
}


def launch(
    launcher: BaseSubmititLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Submit a job for each list of overrides, tell where its log is once it begins and how it has ended, and
    return, when all have, what they returned: in the place of a job that is lost, a cell that is.
    """
    cells = [list(words) for words in job_overrides]
    numbers = range(initial_job_idx, initial_job_idx + len(cells))
    states, folders = [Singleton.get_state()] * len(cells), ["hydra.sweep.dir"] * len(cells)
    jobs = _executor(launcher).map_array(
        launcher, cells, folders, numbers, [f"job_id_for_{number}" for number in numbers], states
    )
    noun = getattr(launcher.task_function, "noun", "cell")
    waiting = {f"{noun} {number + 1}": place for place, number in enumerate(numbers)}
    outcomes: dict[int, JobReturn] = {}
    begun: set[str] = set()
    while waiting:
        for name, place in list(waiting.items()):
            job, ended = jobs[place], jobs[place].done()
            if name not in begun and (ended or job.paths.stdout.exists()):
                begun.add(name)
                print(f"{name}: job {job.job_id}, log {os.path.relpath(job.paths.stdout)}", flush=True)
            if ended:
                del waiting[name]
                outcomes[place] = _outcome(job, numbers[place] + 1, cells[place])
                if said := _as_line(outcomes[place]):
                    print(f"{name}: {said}", flush=True)
        time.sleep(POLL_SECONDS)
    return [outcomes[place] for place in range(len(cells))]


def _executor(launcher: BaseSubmititLauncher) -> AutoExecutor:
    """submitit's executor with the settings of hydra.launcher. Those that only one kind of cluster has go by
    its name: slurm_partition.
    """
    assert launcher.config is not None
    Path(str(launcher.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    cluster, common = launcher._EXECUTOR, {one.name for one in fields(BaseQueueConf)}
    settings = {
        name if name in common else f"{cluster}_{name}": value for name, value in launcher.params.items()
    }
    folder, timeouts = settings.pop("submitit_folder"), f"{cluster}_max_num_timeout"
    at_first = {timeouts: settings.pop(timeouts)} if timeouts in settings else {}
    executor = AutoExecutor(folder=folder, cluster=cluster, **at_first)
    executor.update_parameters(**settings)
    return executor


def _outcome(job: "Job[Any]", number: int, overrides: Sequence[str]) -> JobReturn:
    """What a job that has ended returned; a lost cell where it left nothing, or an error that was none of the
    cell's.
    """
    try:
        done: JobReturn = job.results()[0]
        _ = done.return_value  # which raises what the job has raised
        return done
    except FailedJobError as why:
        lines = [line for line in str(why).splitlines() if line.strip() and "-----" not in line]
        errors = [line for line in lines if line[0] not in " Yo"]  # not the trace, nor where the logs are
        reason = f"job {job.job_id} failed: {(errors or lines)[-1]}"
    except UncompletedJobError:
        state = job.state.partition(" ")[0].rstrip("+")
        reason = f"job {job.job_id} {ENDS.get(state, 'killed')}"
    except Exception as why:
        reason = f"job {job.job_id} failed: {type(why).__name__}: {why}".partition("\n")[0]
    return returned(lost(number, overrides, reason))


def _as_line(done: JobReturn) -> str:
    """How a cell has ended, in a line; '' for what is no cell."""
    cell = done.return_value
    if not isinstance(cell, SweepCell):
        return ""
    return " ".join(filter(None, [cell.status, cell.as_message() or f"({cell.reason})" * bool(cell.reason)]))
