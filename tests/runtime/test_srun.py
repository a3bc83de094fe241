"""What srun starts without torchrun, on a SLURM of one node. The batch script of the documentation is tried
in test_signals_slurm.py.
"""

import subprocess

import harness
import pytest
from harness import QUIET, SMALL

pytestmark = pytest.mark.slow
STEPS = [*SMALL, "trainer.max_steps=60", "trainer.eval_every=30", "trainer.batch_seconds=3", *QUIET]


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
