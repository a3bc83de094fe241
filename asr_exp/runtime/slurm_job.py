"""How a run that was asked to leave ends the SLURM job that it runs in: for good, or back into the queue."""

import os
import re
import signal
import subprocess
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NoReturn

from asr_exp.core.errors import Stopped
from asr_exp.core.exit_status import rank, say, status_of
from asr_exp.runtime.signals import handler_outside

# SLURM looks at its jobs once in a while: a signal may come a minute before it is due.
EARLY = timedelta(seconds=90)


def leave(error: Stopped) -> NoReturn:
    """Print why the run stopped, have its job queued again where SLURM means that, and end the process.

    - A job that is preempted is requeued, where it may be (`--requeue`, JobRequeue): SLURM itself requeues
      only those that use up their grace time, and counts one that leaves in time as failed.
    - In a job of submitit's, SIGUSR1 and SIGUSR2 requeue. Where the time of the job is nearly over, submitit
      counts it (`hydra.launcher.max_num_timeout`).
    - What was cancelled (`scancel`) or requeued (`scontrol requeue`) is SLURM's own affair, and a SIGTERM of
      anyone else's ends the job.
    """
    status = status_of(error)
    if _speaks_for_the_job():
        _queue_again(error.signal)
    raise SystemExit(status) from error


def _speaks_for_the_job() -> bool:
    """Whether this process, of all that run in the job, decides about it: the first of a torchrun, or the one
    that has started the ranks.
    """
    if "RANK" in os.environ:
        return rank() == 0 and "TORCHELASTIC_RUN_ID" in os.environ
    return os.environ.get("SLURM_PROCID", "0") == "0"


def _queue_again(number: int) -> None:
    """Requeue the job after a signal, or leave it alone, as after a Ctrl-C."""
    if number == signal.SIGINT:
        return
    handler = _submitit_handler()
    asked_by_submitit = callable(handler) and number != signal.SIGTERM
    if job := _job():
        if job.get("JobState") != "RUNNING" or job.get("BatchFlag") != "1":
            return
        preempted = job.get("PreemptTime", "None") != "None" and job.get("Requeue") == "1"
        if preempted or asked_by_submitit and not _nearly_over(job):
            _requeue(
                "_".join(job[key] for key in ("ArrayJobId", "ArrayTaskId") if key in job) or job["JobId"]
            )
            return
    if asked_by_submitit:
        try:
            handler(number, None)  # it ends the process, unless
        except Exception as why:
            reason = str(why).partition("\n")[0]
            say("", f"{reason} The same command goes on; hydra.launcher.max_num_timeout=N requeues N times.")


def _submitit_handler() -> Any:
    """What submitit does when the time of its job is over: count it, requeue the job, end the process. It is
    the handler of its signal, where this process runs a job of submitit's.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    return handler_outside(getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")))


def _job() -> dict[str, str]:
    """The fields of this process's SLURM job as `scontrol show job` has them; {} outside of SLURM."""
    number = os.environ.get("SLURM_JOB_ID")
    if not number:
        return {}
    with suppress(OSError, subprocess.SubprocessError):
        shown = subprocess.run(
            ["scontrol", "show", "job", "--oneliner", number], capture_output=True, text=True, timeout=30
        )
        # the last job of an array has the array's number, so that every job of it is shown
        own = [line for line in shown.stdout.splitlines() if line.startswith(f"JobId={number} ")]
        return dict(re.findall(r"(\w+)=(\S*)", own[0])) if own else {}
    return {}


def _nearly_over(job: dict[str, str]) -> bool:
    """Whether the time limit of the job is so near that SLURM has sent its signal because of it."""
    delay = 120.0  # submitit's own
    with suppress(Exception):
        from hydra.core.hydra_config import HydraConfig

        delay = float(HydraConfig.get().launcher.signal_delay_s)
    with suppress(KeyError, ValueError):
        return datetime.fromisoformat(job["EndTime"]) - datetime.now() < timedelta(seconds=delay) + EARLY
    return False


def _requeue(number: str) -> None:
    """Put this process's job back into the queue, and say so; SLURM then ends all of its processes."""
    try:
        done = subprocess.run(["scontrol", "requeue", number], capture_output=True, text=True, timeout=60)
        reason = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as why:
        reason = str(why)
    if reason:
        say("warning: ", f"SLURM did not requeue job {number}: {reason}")
    else:
        print(f"Requeued job {number}.", flush=True)
