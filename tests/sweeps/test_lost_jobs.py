"""Sweeps whose jobs are killed: a line, a row that says so, and the others go on."""

import os
import signal
from pathlib import Path

import harness
import pytest
from sweeping import EXTRAS, cells, study

from asr_exp.sweeps import record
from asr_exp.sweeps.record import SweepCell


@pytest.fixture
def words(corpus, backbone):
    """The words of a sweep whose cells train for some seconds."""
    steps = ["trainer.max_steps=150", "trainer.eval_every=150", "trainer.max_epochs=null"]
    model = ["model=hf", f"model.checkpoint={backbone('wav2vec2-group')}", "trainer.batch_seconds=8"]
    return ["-m", "sweep.name=s", *corpus, *model, *steps, *harness.QUIET]


def at_work(cwd: Path, patience: int) -> bool:
    """Whether the cell is in the midst of its training."""
    for path in cwd.glob("outputs/**/metrics.jsonl"):
        if f"patience: {patience}\n" in (path.parent / "config.yaml").read_text():
            return path.read_text().count("train/loss") > 10
    return False


def holder(cwd: Path, patience: int) -> int:
    """The process that holds the lock of the cell's run folder."""
    (folder,) = (
        path.parent
        for path in cwd.glob("outputs/**/config.yaml")
        if f"patience: {patience}\n" in path.read_text()
    )
    inode = (folder / ".lock").stat().st_ino
    (found,) = (
        int(line.split()[4])
        for line in Path("/proc/locks").read_text().splitlines()
        if line.split()[5].endswith(f":{inode}")
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "joblib"])
def test_a_cell_that_is_killed_is_a_line_and_a_row(tmp_path, words, launcher):
    pytest.importorskip(EXTRAS[launcher])
    jobs = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    command = [*words, f"hydra/launcher={launcher}", *jobs]
    process = harness.start(*command, "trainer.patience=11,12", cwd=tmp_path)
    harness.wait_for(lambda: at_work(tmp_path, 11), 240)
    os.kill(holder(tmp_path, 11), signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in out + err, out + err
    rows = cells(tmp_path)
    assert rows[0]["status"] == "lost" and "the same command goes on" in out
    if launcher == "joblib":  # which ends all of its workers when one dies
        assert "2 lost (a worker process was killed)" in out and rows[1]["status"] == "lost"
    else:
        job = rows[0]["reason"].split()[1]
        assert f"cell 1: job {job}, log sweeps/s/.submitit/{job}/{job}_0_log.out" in out
        assert f"cell 1: lost (job {job} killed)" in out and "cell 2: finished test WER" in out
        assert f"1 of 2 cells done, 1 lost (job {job} killed); the same command goes on" in out
        assert rows[1]["status"] == "finished"
    out = harness.cli(*command, "trainer.patience=11,12", cwd=tmp_path).stdout
    assert "2 of 2 cells done" in out and [row["status"] for row in cells(tmp_path)] == ["finished"] * 2


@pytest.mark.slow
def test_a_search_tells_its_best_when_a_worker_is_killed(tmp_path, words):
    pytest.importorskip(EXTRAS["submitit_local"])
    command = [
        *words,
        "sweeper=optuna",
        "trainer.patience=choice(11,12,13)",
        "sweep.trials=2",
        "sweep.workers=2",
    ]
    process = harness.start(*command, "hydra/launcher=submitit_local", cwd=tmp_path)
    harness.wait_for(lambda: sum(at_work(tmp_path, patience) for patience in (11, 12, 13)) == 2, 240)
    patience = next(patience for patience in (11, 12, 13) if at_work(tmp_path, patience))
    os.kill(holder(tmp_path, patience), signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in out + err and ": lost (job " in out, out + err
    # the other worker takes the trial up
    assert process.returncode == 0 and "best of 2 finished trials" in out and "2 of 2 cells done" in out
    assert {trial.state.name for trial in study(tmp_path).trials} == {"COMPLETE"}


def test_a_row_says_how_its_cell_ended_rather_than_its_job(tmp_path):
    killed = record.lost(1, ["seed=1", "hydra/launcher=joblib", "sweep.name=s"], "job 13_0 killed")
    assert record.note_lost(tmp_path, killed) == killed and killed.overrides == "seed=1"
    for status, then in (("running", "lost"), ("finished", "finished"), ("pruned", "pruned")):
        record.note(tmp_path, SweepCell(1, status, "seed=1"))
        assert record.note_lost(tmp_path, killed).status == then
    record.note(tmp_path, SweepCell(1, "stopped", "seed=1", reason="Stopped at step 3."))
    for _ in range(2):
        row = record.note_lost(tmp_path, killed)
        assert (row.status, row.reason) == ("stopped", "Stopped at step 3. (job 13_0 killed)")
    assert record.read(tmp_path) == [row]
