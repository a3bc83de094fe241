"""Sweeps on a real SLURM: asked to leave in every way that SLURM has, killed, out of time. What goes on has the
curve of a run that nothing has disturbed.
"""

import re
import signal
import subprocess
import time
from pathlib import Path

import harness
import pytest
from sweeping import EXTRAS, LR, cells, study

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
        *harness.QUIET,
    ]


class Sweep:
    """A sweep of one cell a seed, whose cells are jobs."""

    def __init__(self, slurm, cwd: Path, *overrides: str):
        self.slurm, self.cwd = slurm, cwd
        launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=cpu"]
        more = ["hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=20"]
        asked = harness.latest([*launcher, *more, *overrides])
        self.process = harness.start("-m", "sweep.name=s", *asked, cwd=cwd, **slurm.environment)

    def steps(self, seed: int) -> int:
        """How many steps the run of a seed has written of."""
        texts = [
            path.read_text()
            for path in self.cwd.glob("outputs/**/metrics.jsonl")
            if f"\nseed: {seed}\n" in (path.parent / "config.yaml").read_text()
        ]
        return sum(text.count("train/loss") for text in texts)

    def job(self, place: int = 0) -> str:
        """The number of the job of a cell."""
        ids = {path.name for path in self.cwd.glob("sweeps/s/.submitit/[0-9]*")}
        (found,) = [name for name in ids if "_" not in name or name.endswith(f"_{place}")]
        return self.slurm.job(found)["JobId"]

    def end(self, status: int | None = 0) -> str:
        """What the terminal says in the end, without what is on stderr."""
        out, err = self.process.communicate(timeout=300)
        assert self.process.returncode == status and "Traceback" not in out + err, out + err + self.logs()
        return out

    def logs(self) -> str:
        return "".join(
            f"--- {path.name}\n{path.read_text()}" for path in self.cwd.glob("sweeps/s/.submitit/*/*_log.*")
        )

    def rows(self) -> list[dict[str, str]]:
        return cells(self.cwd)


def test_every_way_to_be_asked_to_leave_and_a_job_that_is_killed(slurm, tmp_path, words, alone):
    """A grid of five: SIGUSR1, SIGTERM of no one in particular, scontrol requeue, scancel, kill -9."""
    sweep = Sweep(slurm, tmp_path, *words, "seed=1,2,3,4")
    try:
        for seed in (1, 2, 3, 4):
            harness.wait_for(lambda seed=seed: sweep.steps(seed) > 20)
            job = sweep.job(seed - 1)
            if seed == 1:
                slurm.ask("scancel", "--signal=USR1", job)
            elif seed == 2:
                slurm.ask("scontrol", "requeue", job)
            elif seed == 3:
                slurm.ask("scancel", job)
            else:
                slurm.ask("scancel", "--signal=KILL", job)
            if seed < 3:
                slurm.start_again(job)
        out = sweep.end(1)
    finally:
        sweep.process.kill()
        slurm.clear()
    print(out, sweep.logs())
    assert 0
