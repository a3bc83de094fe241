"""Which GPU a process takes, by trainer.device, its rank, and what other cells of sweeps have taken."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from harness import FORKS, wait_for

from asr_exp.core.errors import UserError
from asr_exp.runtime import gpus
from asr_exp.runtime.gpus import choose_device, lock_gpus
from asr_exp.sweeps.gpus import take_gpus


@pytest.fixture
def with_gpus(monkeypatch):
    """with_gpus(count): that many are seen."""
    monkeypatch.delenv("ASR_EXP_GPUS", raising=False)
    return lambda count: monkeypatch.setattr(gpus, "gpu_count", lambda: count)


@pytest.mark.parametrize(
    ("device", "rank", "world", "seen", "chosen"),
    [
        ("auto", 0, 1, 0, "cpu"),
        ("auto", 0, 1, 2, "cuda:0"),
        ("cpu", 1, 2, 2, "cpu"),
        ("cuda", 1, 2, 2, "cuda:1"),
        ("cuda:3", 0, 1, 4, "cuda:3"),
    ],
)
def test_a_rank_has_a_device(with_gpus, device, rank, world, seen, chosen):
    with_gpus(seen)
    assert choose_device(device, rank, rank, world) == torch.device(chosen)


@pytest.mark.parametrize(
    ("device", "rank", "world", "seen", "words"),
    [
        ("cuda", 0, 1, 0, ["trainer.device=cuda,", "trainer.device=cpu"]),
        ("cuda:1", 0, 1, 0, ["trainer.device=cuda:1,", "trainer.device=cpu"]),
        ("cuda:2", 0, 1, 2, ["trainer.device=cuda:2", "2 CUDA devices"]),
        ("cuda:1", 0, 1, 1, ["trainer.device=cuda:1", "1 CUDA device,"]),
        ("cuda", 2, 3, 2, ["Rank 2", "trainer.devices"]),
        ("cuda:0", 1, 2, 2, ["trainer.device=cuda:0", "2 ranks", "CUDA_VISIBLE_DEVICES"]),
    ],
)
def test_a_device_that_is_not_there_is_named(with_gpus, device, rank, world, seen, words):
    with_gpus(seen)
    with pytest.raises(UserError) as found:
        choose_device(device, rank, rank, world)
    assert all(word in str(found.value) for word in words)


def test_ranks_of_a_cell_take_the_gpus_of_the_cell(with_gpus, monkeypatch):
    with_gpus(4)
    monkeypatch.setenv("ASR_EXP_GPUS", "2,3")
    assert [choose_device("cuda", rank, rank, 2).index for rank in (0, 1)] == [2, 3]
    assert choose_device("cuda:1", 0, 0, 1).index == 1


def cell(folder: Path, number: int, seen: int, counts: list[int]) -> None:
    """A process that runs a cell for each of `counts` GPUs, writes down what each took, and stays."""
    tempfile.tempdir = str(folder)
    gpus.gpu_count = lambda: seen
    gpus._names = lambda count: [f"GPU-{i}" for i in range(count)]
    sys.stdout = (folder / f"stdout{number}").open("w", buffering=1)
    for turn, count in enumerate(counts):
        lock_gpus(count)
        (folder / f"took{number}.{turn}").write_text(os.environ["ASR_EXP_GPUS"])
    wait_for((folder / "end").exists)


@pytest.fixture
def cells(tmp_path):
    """cells(seen, counts, ...) -> what processes that hold GPUs at the same time took, cell for cell."""
    begun = []

    def begin(seen, *each):
        own = []
        for counts in each:
            number = len(begun)
            begun.append(FORKS.Process(target=cell, args=(tmp_path, number, seen, counts)))
            begun[-1].start()
            own.append([tmp_path / f"took{number}.{turn}" for turn in range(len(counts))])
        wait_for(lambda: all(path.exists() and path.read_text() for paths in own for path in paths))
        return [[path.read_text() for path in paths] for paths in own]

    yield begin, begun
    (tmp_path / "end").touch()
    for one in begun:
        one.join()


def test_cells_at_once_take_gpus_of_their_own_and_keep_them(cells):
    begin, _ = cells
    taken = begin(5, [1, 1], [2, 1, 2], [1])
    # at the end, when each holds what its last cell took
    last = ",".join(one[-1] for one in taken).split(",")
    assert len(last) == len(set(last)) == 4
    assert taken[0][0] == taken[0][1]
    assert taken[1][1] == taken[1][0].split(",")[0]  # where CUDA has started


def test_cells_share_gpus_evenly_where_there_are_too_few(cells, tmp_path):
    begin, begun = cells
    taken = [begin(2, [1])[0][0] for _ in range(5)]
    assert sorted(taken[:2]) == sorted(taken[2:4]) == ["0", "1"]
    said = "".join((tmp_path / f"stdout{i}").read_text() for i in range(5))
    assert said.count("More cells at once than GPUs (2)") == 1
    begun[1].kill()  # however it ends, its GPU is free
    begun[1].join()
    assert begin(2, [1]) == [[taken[1]]]


@pytest.mark.parametrize(
    ("executor", "made", "expected"), [("local", "4,5", "4,5"), ("local", None, None), ("slurm", "4,5", "0")]
)
def test_a_job_of_submitit_local_sees_what_its_sweep_saw(monkeypatch, executor, made, expected):
    """submitit sets it to the first gpus_per_node GPUs; a scheduler's own choice is left alone."""
    seen = []
    monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(
        "asr_exp.sweeps.gpus.lock_gpus",
        lambda count: seen.append((count, os.environ.get("CUDA_VISIBLE_DEVICES"))),
    )
    take_gpus("cuda:0", 1, made)
    assert not seen and os.environ.get("CUDA_VISIBLE_DEVICES") == expected
    take_gpus("cpu", 1, made)
    assert not seen
    take_gpus("auto", 3, made)
    assert seen == [(3, expected)]
