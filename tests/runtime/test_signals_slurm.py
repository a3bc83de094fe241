"""The batch script of the documents on a real SLURM: two ranks under torchrun whose time is over, and who are
then preempted.
"""

from pathlib import Path

import harness
import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "docs" / "train.sbatch"
SETTINGS = [*harness.SMALL, "trainer.batch_seconds=8", "trainer.max_epochs=null", *harness.QUIET]


def test_a_torchrun_in_a_batch_script_saves_is_requeued_and_goes_on(slurm, tmp_path, corpus, alone):
    if not SCRIPT.exists():
        pytest.skip(f"{SCRIPT} is not there")
    words = [*corpus, *SETTINGS, "trainer.max_steps=60", "trainer.eval_every=60"]
    script = "".join(
        line for line in SCRIPT.read_text().splitlines(keepends=True) if "SBATCH --gpus" not in line
    )
    options = ["--partition=cpu", "--cpus-per-task=2", "--time=20", "--output=job.log", "--open-mode=append"]
    job = slurm.submit(*options, script=script, cwd=tmp_path, arguments=words, PROCESSES="2")
    log = tmp_path / "job.log"

    def written() -> int:
        return sum(len(harness.losses(path.parent)) for path in tmp_path.rglob("metrics.jsonl"))

    def told() -> str:
        return f"{slurm.told(job)}\n{log.read_text(errors='replace')[-3000:]}"

    harness.wait_for(lambda: written() > 5, 180, told)
    slurm.ask("scancel", "--signal=USR1", "--batch", job)  # what SLURM does when the time is nearly over
    slurm.wait_for_requeue(job, 1)
    first = written()
    assert f"Stopped at step {first} of 60 and saved" in log.read_text()
    harness.wait_for(lambda: written() > first + 5, 180, told)
    urgent = slurm.submit("--partition=high", "--exclusive", script="#!/bin/bash\nsleep 1\n", cwd=tmp_path)
    slurm.wait_for_requeue(job, 2)
    second = written()
    assert f"Stopped at step {second} of 60 and saved" in log.read_text()
    harness.wait_for(lambda: slurm.state(job) == "COMPLETED", 180, told)
    assert slurm.state(urgent) == "COMPLETED" and slurm.job(job)["Restarts"] == "2"
    assert f"Going on from step {second} of 60" in log.read_text() and second < 60
    whole = alone([*words, "trainer.devices=2"])
    assert harness.losses(harness.run_folder(tmp_path)) == harness.losses(whole)
