"""Which job goes back into the queue, by what SLURM says of it. A stand-in of scontrol answers, and notes
what it is asked; the real one is asked in tests/sweeps/test_slurm.py.
"""

import signal
from datetime import datetime, timedelta

import pytest

from asr_exp.core.errors import Stopped
from asr_exp.runtime.signals import Signals
from asr_exp.runtime.slurm_job import leave

RUNNING = {
    "JobId": "7",
    "JobState": "RUNNING",
    "BatchFlag": "1",
    "Requeue": "1",
    "PreemptTime": "None",
    "EndTime": "2099-01-01T00:00:00",
}
PREEMPTED = {**RUNNING, "PreemptTime": "2026-01-01T00:00:00"}
TERM, USR1, USR2 = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2


@pytest.fixture
def left(tmp_path, monkeypatch):
    """left(signal, job, variables...) -> what was asked of SLURM by a run that left upon the signal."""

    def run(number: int, job: dict[str, str], **variables: str) -> list[str]:
        asked = tmp_path / "asked.txt"
        asked.write_text("")
        shown = " ".join(f"{key}={value}" for key, value in job.items())
        # of the last job of an array, SLURM shows the others too
        other = (
            "JobId=70 ArrayJobId=7 ArrayTaskId=0 JobState=COMPLETED BatchFlag=0 PreemptTime=None Requeue=0"
        )
        answer = f'[ "$1" = show ] && echo "{shown}\n{other}" || echo "$@" >> {asked}\n'
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{answer}")
        (tmp_path / "scontrol").chmod(0o755)
        for name in ("RANK", "SLURM_PROCID", "SUBMITIT_EXECUTOR", "TORCHELASTIC_RUN_ID"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        for name, value in {"SLURM_JOB_ID": "7", **variables}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            leave(Stopped("Stopped at step 3 and saved.", number))
        assert end.value.code == 128 + number
        return asked.read_text().splitlines()

    return run


def test_a_preempted_job_is_requeued_where_it_may_be(left):
    assert left(TERM, PREEMPTED) == ["requeue 7"]
    assert left(TERM, {**PREEMPTED, "ArrayJobId": "5", "ArrayTaskId": "2"}) == ["requeue 5_2"]
    assert left(TERM, {**PREEMPTED, "Requeue": "0"}) == []
    assert left(TERM, {**PREEMPTED, "BatchFlag": "0"}) == []  # salloc


@pytest.mark.parametrize("number", [TERM, USR1, USR2])
def test_what_slurm_ends_or_requeues_by_itself_is_left_to_it(left, number):
    for state in ("COMPLETING", "CANCELLED", "PENDING"):
        assert left(number, {**PREEMPTED, "JobState": state}, SUBMITIT_EXECUTOR="slurm") == []


def test_one_process_of_a_job_decides(left):
    torchrun = {"TORCHELASTIC_RUN_ID": "x"}
    assert left(TERM, PREEMPTED, RANK="0", SLURM_PROCID="1", **torchrun) == ["requeue 7"]
    assert left(TERM, PREEMPTED, RANK="1", SLURM_PROCID="0", **torchrun) == []
    assert left(TERM, PREEMPTED, RANK="0", SLURM_PROCID="0") == []  # whoever started the ranks does
    assert left(TERM, PREEMPTED, SLURM_PROCID="1") == []


def test_signals_of_a_script_requeue_nothing_but_jobs_of_submitit(left, monkeypatch):
    counted = []
    before = signal.signal(USR2, lambda number, _: counted.append(number))
    try:
        for number in (USR1, USR2):
            assert left(number, RUNNING) == []
            assert left(number, RUNNING, SUBMITIT_EXECUTOR="slurm") == ["requeue 7"] and not counted
        assert left(TERM, RUNNING, SUBMITIT_EXECUTOR="slurm") == []
        # a minute before the end, where 120 + 90 s are near, submitit counts
        end = (datetime.now() + timedelta(seconds=60)).isoformat(timespec="seconds")
        for number in (USR1, USR2):
            assert left(number, {**RUNNING, "EndTime": end}, SUBMITIT_EXECUTOR="slurm") == []
        assert counted == [USR1, USR2]
        assert left(USR2, {}, SUBMITIT_EXECUTOR="local", SLURM_JOB_ID="") == [] and counted[2:] == [USR2]
        with Signals(at_once=True), Signals():  # a worker of a search leaves while its own lasts
            assert left(USR1, {}, SUBMITIT_EXECUTOR="local", SLURM_JOB_ID="") == []
        assert counted[3:] == [USR1]
    finally:
        signal.signal(USR2, before)


def test_why_submitit_does_not_requeue_is_said(left, capfd):
    def refuse(number, _):
        raise RuntimeError("Job not requeued because: timed-out too many times.\nmore")

    before = signal.signal(USR2, refuse)
    try:
        assert left(USR2, {**RUNNING, "EndTime": "2000-01-01T00:00:00"}, SUBMITIT_EXECUTOR="slurm") == []
    finally:
        signal.signal(USR2, before)
    err = capfd.readouterr().err
    assert "timed-out too many times. The same command goes on" in err and "more" not in err
