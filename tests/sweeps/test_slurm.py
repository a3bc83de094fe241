"""Sweeps on a real SLURM: asked to leave in every way that SLURM has, killed, out of time. What goes on has
the curve of a run that nothing has disturbed.
"""

import os
import signal
from pathlib import Path

import harness
import pytest
from sweeping import EXTRAS, cells, study

pytestmark = pytest.mark.slow
STEPS = 300


@pytest.fixture
def words(corpus, backbone):
    """The overrides of a run that takes some ten seconds."""
    pytest.importorskip(EXTRAS["submitit_local"])
    return [
        *corpus,
        "model=hf",
        f"model.checkpoint={backbone('wav2vec2-group')}",
        "trainer.batch_seconds=8",
        f"trainer.max_steps={STEPS}",
        f"trainer.eval_every={STEPS}",
        "trainer.max_epochs=null",
        *harness.QUIET,
    ]


class Sweep:
    """A sweep whose cells are jobs. They differ in trainer.patience, which counts evaluations and so changes
    nothing in runs that have one: the curve of all is the same.
    """

    def __init__(self, slurm, cwd: Path, *overrides: str):
        self.slurm, self.cwd = slurm, cwd
        launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=cpu"]
        more = ["hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=20"]
        asked = harness.latest([*launcher, *more, *overrides])
        self.process = harness.start("-m", "sweep.name=s", *asked, cwd=cwd, **slurm.environment)

    def curve(self, patience: int) -> list[float]:
        """The losses that the cell has written so far."""
        for path in self.cwd.glob("outputs/**/metrics.jsonl"):
            if f"patience: {patience}\n" in (path.parent / "config.yaml").read_text():
                return harness.losses(path.parent)
        return []

    def job(self, place: int = 0) -> str:
        """The id of the job of a cell: 13_0 in an array, by which alone scancel knows it, or 13."""
        ids = sorted(path.name for path in self.cwd.glob("sweeps/s/.submitit/[0-9]*"))
        array = [name for name in ids if "_" in name]
        return array[place] if array else ids[0]

    def end(self, status: int = 0) -> str:
        """What the terminal says in the end, once no traceback is in it."""
        out, err = self.process.communicate(timeout=400)
        assert self.process.returncode == status and "Traceback" not in out + err, out + err + self.logs()
        return out

    def logs(self) -> str:
        """What all jobs have printed."""
        return "".join(
            f"--- {path.name}\n{path.read_text()}"
            for path in sorted(self.cwd.glob("sweeps/s/.submitit/*/*_log.*"))
        )


@pytest.fixture
def sweep(slurm, tmp_path):
    """sweep(overrides...) -> a Sweep, of which nothing is left at the end."""
    started = []

    def start(*overrides: str) -> Sweep:
        started.append(Sweep(slurm, tmp_path, *overrides))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
    slurm.clear()


def kill(slurm, job: str) -> None:
    """kill -9 of the process that a job of submitit's is at."""
    for line in slurm.ask("scontrol", "listpids", slurm.job(job)["JobId"]).splitlines()[1:]:
        if b"_submit" in Path(f"/proc/{line.split()[0]}/cmdline").read_bytes():
            os.kill(int(line.split()[0]), signal.SIGKILL)


def test_every_way_to_be_asked_to_leave_and_a_job_that_is_killed(slurm, tmp_path, sweep, words, alone):
    """A grid of four: SIGUSR1, scontrol requeue, scancel, kill -9."""
    grid = sweep(*words, "trainer.patience=11,12,13,14")
    acts = {
        11: lambda job: slurm.ask("scancel", "--signal=USR1", job),
        12: lambda job: slurm.ask("scontrol", "requeue", job),
        13: lambda job: slurm.ask("scancel", job),
        14: lambda job: kill(slurm, job),
    }
    jobs: dict[int, str] = {}

    def all_asked() -> bool:
        for patience in acts.keys() - jobs.keys():
            if len(grid.curve(patience)) > 20:
                jobs[patience] = grid.job(patience - 11)
                acts[patience](jobs[patience])
        return len(jobs) == len(acts)

    harness.wait_for(all_asked, 240)
    out = grid.end(1)
    assert "2 of 4 cells done, 1 lost" in out and "1 stopped; the same command goes on" in out
    assert f"(job {jobs[14]} killed)" in out and f"cell 3: job {jobs[13]}, log sweeps/s/.submitit/" in out
    rows = cells(tmp_path)
    assert [row["status"] for row in rows] == ["finished", "finished", "stopped", "lost"]
    assert (
        f"(job {jobs[13]} cancelled)" in rows[2]["reason"] and rows[3]["reason"] == f"job {jobs[14]} killed"
    )
    assert "1 lost" in (tmp_path / "sweeps/s/table.md").read_text()
    whole = harness.losses(alone([*words, "trainer.patience=11"]))
    assert grid.curve(11) == whole and grid.curve(12) == whole and len(whole) == STEPS
    stopped = grid.curve(13)
    assert 20 < len(stopped) < STEPS and f"Stopped at step {len(stopped)} of" in rows[2]["reason"]
    assert grid.logs().count("Going on from step") == 2 and f"Requeued job {jobs[11]}." in grid.logs()

    out = sweep(*words, "trainer.patience=13,14").end()  # a part of the same sweep
    assert "2 of 2 cells done" in out and grid.curve(13) == whole and grid.curve(14) == whole
    assert f"Going on from step {len(stopped)} of {STEPS}" in grid.logs()


def test_a_preempted_worker_of_a_search_uses_its_grace_and_goes_on(slurm, tmp_path, sweep, words, alone):
    search = sweep(*words, "sweeper=optuna", "trainer.patience=choice(11,12)", "sweep.trials=1")
    harness.wait_for(lambda: len(search.curve(11) or search.curve(12)) > 20, 240)
    patience, job = 11 if search.curve(11) else 12, search.job()
    urgent = slurm.submit("--partition=high", "--exclusive", script="#!/bin/bash\nsleep 1\n", cwd=tmp_path)
    out = search.end()
    assert slurm.state(urgent) == "COMPLETED" and slurm.job(job)["Restarts"] == "1"
    assert "worker 1: job" in out and "best of 1 finished trials" in out and "1 of 1 cells done" in out
    assert "Stopped at step" in search.logs() and "Going on from step" in search.logs()
    assert search.curve(patience) == harness.losses(alone([*words, "trainer.patience=11"]))
    assert [trial.state.name for trial in study(tmp_path).trials] == ["COMPLETE"]


def test_a_job_whose_time_is_over_is_requeued_and_goes_on(slurm, sweep, words):
    """SLURM counts time in minutes, and looks at it once in half a minute."""
    endless = [word.replace(f"={STEPS}", "=100000") for word in words]
    limits = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10"]
    grid = sweep(*endless, *limits, "trainer.patience=11", "hydra.launcher.max_num_timeout=1")
    harness.wait_for(lambda: "(0 remaining timeouts)" in grid.logs(), 240)
    first = len(grid.curve(11))
    assert f"Stopped at step {first} of 100000 and saved" in grid.logs() and first > 0
    harness.wait_for(lambda: len(grid.curve(11)) > first)
    slurm.ask("scancel", grid.job())
    out = grid.end(1)
    assert f"Going on from step {first} of 100000" in grid.logs()
    assert "0 of 1 cells done, 1 stopped; the same command goes on" in out
