"""Several copies of a command, started by srun or mpirun without torchrun. The variables are those that a
SLURM 22.05 was seen to set.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from asr_exp.runtime.copies import Task, no_copies, this_task

TASK = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
}


@pytest.fixture
def variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "PMI", "OMPI_", "RANK", "WORLD"))]:
        monkeypatch.delenv(name)
    return lambda found: [monkeypatch.setenv(*pair) for pair in found.items()]


@pytest.mark.parametrize(
    ("found", "program"),
    [
        (TASK, "srun"),
        ({**TASK, "PMI_SIZE": "2", "PMI_RANK": "1"}, "srun"),  # srun --mpi=pmi2
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMIX_NAMESPACE": "ab"}, "mpirun"),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, "mpirun"),
        # mpirun in a job has srun start itself, once a machine
        (
            {**TASK, "SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
            "mpirun",
        ),
    ],
)
def test_one_of_two_tasks(found, program, variables):
    variables(found)
    task = this_task()
    assert task and (task.program, task.number, task.count) == (program, 1, 2)


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},  # a shell of salloc -n 4
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # the script of sbatch -n 4
        {**TASK, "SLURM_STEP_NUM_TASKS": "1"},  # srun -n 1 in a job of two tasks
        {**TASK, "RANK": "1", "WORLD_SIZE": "2"},  # under torchrun, one a machine
    ],
)
def test_a_single_task_or_a_rank(found, variables):
    variables(found)
    assert this_task() is None


def tasks(*numbers, count=2, step="7-0-"):
    return [Task("srun", number, count, step) for number in numbers]


def enter(folder, task, patience):
    try:
        with no_copies(folder, task, patience):
            return "goes on"
    except SystemExit as end:
        return end.code


def test_copies_leave_and_the_first_says_why(tmp_path, capsys):
    with ThreadPoolExecutor(3) as pool:
        left = list(pool.map(lambda task: enter(tmp_path / "run", task, 30), tasks(1, 0, 2, count=3)))
    assert left == [2, 2, 2] and not (tmp_path / "run").exists()
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "srun started 3 copies" in said
    assert "trainer.devices=3" in said and "torchrun" in said


def test_tasks_with_runs_of_their_own_go_on(tmp_path, capsys):
    with ThreadPoolExecutor(2) as pool:
        left = list(pool.map(lambda task: enter(tmp_path / f"run{task.number}", task, 0.5), tasks(0, 1)))
    assert left == ["goes on"] * 2 and capsys.readouterr().err == ""
    assert not list(tmp_path.rglob(".copy*"))


def test_a_late_copy_is_refused_alone(tmp_path, capsys):
    early, late = tasks(0, 1)
    with no_copies(tmp_path, early, 0):
        assert enter(tmp_path, late, 30) == 2
        assert "srun started 2 copies" in capsys.readouterr().err
        # another step of the same job is no copy: the lock of the folder tells of it
        assert enter(tmp_path, tasks(1, step="7-1-")[0], 0.1) == "goes on"
    assert capsys.readouterr().err == ""
