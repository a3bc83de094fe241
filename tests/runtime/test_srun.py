"""What srun starts, and the batch script of the documentation, on a SLURM of one node."""

import re
import subprocess
import time
from pathlib import Path

import harness
import pytest
from harness import QUIET, SMALL, losses, result, run_folder, two_forks

slurm_of_tests = pytest.importorskip("slurm")
why = slurm_of_tests.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why), reason=why or "it can be started")]

SCRIPT = Path(__file__).parents[2] / "docs/train.sbatch"
STEPS = [*SMALL, "trainer.max_steps=60", "trainer.eval_every=30", "trainer.batch_seconds=3", *QUIET]
SLOW = """
import time
from asr_exp.training import loop

train_step = loop.train_step

def slowly(*args):
    time.sleep(0.25)
    return train_step(*args)

loop.train_step = slowly
"""


@pytest.fixture(scope="module")
def slurm():
    with slurm_of_tests.started() as running:
        yield running


def test_copies_of_a_run_are_told_what_was_meant(slurm, corpus, tmp_path):
    done = subprocess.run(
        ["srun", "-n", "2", "python", "-m", "asr_exp", *corpus, *STEPS],
        cwd=tmp_path,
        env=harness.environment(**slurm.environment),
        capture_output=True,
        text=True,
        timeout=200,
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(said) == 1 and "srun started 2 copies" in said[0], done.stderr
    assert not any(path.is_file() for path in tmp_path.rglob("*")) and "Traceback" not in done.stderr


def began_again(slurm, job):
    """Whether a requeued job runs; it is asked to, and SLURM may not hear while it still cleans up."""
    slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
    time.sleep(2)
    return slurm.state(job) in ("RUNNING", "COMPLETED")


def test_the_batch_script_saves_and_requeues_itself(slurm, corpus, tmp_path, monkeypatch):
    """Told that the time is nearly over, which SLURM does by this very signal."""
    (tmp_path / "slow.py").write_text(SLOW)
    for name, value in harness.environment(PROCESSES="2").items():
        monkeypatch.setenv(name, value)
    text = re.sub(r"#SBATCH --(gpus|cpus)-per-\w+=.*\n", "", SCRIPT.read_text())
    text = text.replace('"$@"', " ".join(f"'{word}'" for word in [*corpus, *STEPS, "plugins=[slow]"]))
    job = slurm.submit("--cpus-per-task=2", "--time=10", "--output=log", script=text, cwd=tmp_path)
    harness.wait_for(lambda: any(path.stat().st_size for path in tmp_path.rglob("metrics.jsonl")), 200)
    slurm.ask("scancel", "--batch", "--signal=USR1", job)
    harness.wait_for(lambda: slurm.state(job) == "PENDING", 100)
    harness.wait_for(lambda: began_again(slurm, job), 180)
    harness.wait_for(lambda: slurm.state(job) == "COMPLETED", 200)
    log, folder = (tmp_path / "log").read_text(), run_folder(tmp_path / "outputs")
    steps = re.findall(r"Stopped at step (\d+) of 60 and saved", log)
    assert len(steps) == 1 and f"Going on from step {steps[0]} of 60" in log, log
    (tmp_path / "whole").mkdir()
    for rank in two_forks(*corpus, *STEPS, cwd=tmp_path / "whole"):
        rank.wait()
    whole = run_folder(tmp_path / "whole")
    assert losses(folder) == losses(whole) and result(folder)["splits"] == result(whole)["splits"]
