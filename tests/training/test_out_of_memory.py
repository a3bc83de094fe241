"""A pass that does not fit into memory is made in parts, and nothing else changes."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import QUIET, SMALL, cli, lines, result, run, run_folder, two_forks

from asr_exp.data.batch import Batch
from asr_exp.training import loop as training

RATE = 16_000
STEPS = [
    "trainer.max_steps=6",
    "trainer.eval_every=3",
    "trainer.log_every=1",
    "trainer.batch_seconds=10",
    "optimizer.lr=3e-3",
]
ROOM = 3 * RATE  # samples that fit


def no_room(samples: int, when: str = "forward", times: float = float("inf")) -> None:
    """Passes of more than so many samples are out of memory, before the forward pass or in the middle of the
    backward pass.
    """
    original, left = training.backward, [times]

    def raise_(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def wrapped(setup, batch, count):
        if batch.samples <= samples or left[0] <= 0:
            return original(setup, batch, count)
        left[0] -= 1
        if when == "forward":
            raise_()
        middle = setup.trained[len(setup.trained) // 2]
        hook = middle.register_post_accumulate_grad_hook(raise_)
        try:
            return original(setup, batch, count)
        finally:
            hook.remove()

    training.backward = wrapped


@pytest.fixture
def restored(monkeypatch):
    monkeypatch.setattr(training, "backward", training.backward)


def same_curve(one, two):
    first, second = lines(one / "metrics.jsonl"), lines(two / "metrics.jsonl")
    assert len(first) == len(second) > 6
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, rel=1e-5), a["step"]
    assert result(one)["splits"] == result(two)["splits"]


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_the_curve_stays_the_same(corpus, tmp_path, restored, capsys, when):
    """With dropout, masks, layerdrop and speeds."""
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = run(*corpus, *SMALL, *STEPS, *QUIET, cwd=tmp_path / "whole")
    capsys.readouterr()
    no_room(ROOM, when)
    parts = run(*corpus, *SMALL, *STEPS, *QUIET, cwd=tmp_path / "parts")
    same_curve(whole, parts)
    told = capsys.readouterr().out
    assert "step 1: A forward and backward pass over" in told and "does not fit into memory" in told
    state = torch.load(parts / "checkpoints/last/training_state.pt", weights_only=True)["state"]
    assert 0 < state["pass_seconds"] <= 3


def test_an_utterance_that_does_not_fit_alone(corpus, tmp_path, restored, capsys):
    no_room(RATE // 2)
    run(*corpus, *SMALL, *STEPS, *QUIET, cwd=tmp_path, status=2)
    told = capsys.readouterr().err
    assert told.startswith("error: Utterance train") and "does not fit into the memory of cpu alone" in told
    assert "dataset.max_seconds=" in told and "trainer.gradient_checkpointing=true" in told
    assert "Traceback" not in told


def test_a_passing_shortage_ends_nothing(corpus, tmp_path, restored):
    """An utterance alone gets a second attempt."""
    no_room(RATE // 2, times=1)
    alone = ["trainer.max_steps=2", "trainer.device_seconds=0.1"]
    folder = run(*corpus, *SMALL, *STEPS, *QUIET, *alone, cwd=tmp_path)
    assert result(folder)["status"] == "finished"


def test_out_of_memory_elsewhere(corpus, tmp_path, monkeypatch, capsys):
    def no_room_for_moments(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(training, "step_if_finite", no_room_for_moments)
    folder = run(*corpus, *SMALL, *STEPS, *QUIET, cwd=tmp_path, status=2)
    told = capsys.readouterr().err
    assert told.startswith("error: The device is out of memory (it was asked for 2.00 GiB more)")
    assert "Traceback" not in told + next(folder.rglob("train.log")).read_text()


def test_rows_of_a_batch():
    lengths = [9000, 8000, 7000, 3000, 1000]
    audio = torch.arange(5 * 9000, dtype=torch.int16).view(5, 9000)
    batch = Batch(np.arange(5), audio, lengths, torch.arange(10), [1, 2, 3, 4, 0])
    part = batch.rows(1, 4).rows(1, 3)
    assert part.lengths == [7000, 3000] and part.labels.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert part.indices.tolist() == [2, 3] and torch.equal(part.audio, batch.audio[2:4])
    assert part.part.first == 2 and part.part.lengths == batch.lengths
    assert batch.rows(0, 5) is batch


# ------------------------------------------------------------------------------------------------------------
# two ranks


def no_room_on_rank_1(samples: int, when: str) -> None:
    from asr_exp.training import gradients

    gradients.BUCKET = 2000  # bytes: some buckets are on their way when the backward pass fails
    if os.environ["RANK"] == "1":
        no_room(samples, when)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["forward", "backward"])
def test_on_one_of_two_ranks(corpus, tmp_path, when):
    folders = []
    for name, room in (("whole", 1000 * RATE), ("parts", 2 * RATE)):
        (tmp_path / name).mkdir()
        asked = [*corpus, *SMALL, *STEPS, *QUIET]
        ranks = two_forks(*asked, cwd=tmp_path / name, patch=(no_room_on_rank_1, room, when))
        told = [rank.wait() for rank in ranks]
        folders.append(run_folder(tmp_path / name))
    same_curve(*folders)
    assert "On another rank a pass did not fit" in told[0] and "does not fit" in told[1]
    state = torch.load(folders[1] / "checkpoints/last/training_state.pt", weights_only=True)["state"]
    assert 0 < state["pass_seconds"] < 3


def no_room_in_the_network(samples: int) -> None:
    """In the backward pass of rank 1, while rank 0 waits for it: in every process that starts."""
    if os.environ["RANK"] == "1":
        no_room(samples, "backward")


@pytest.mark.slow
def test_ranks_with_sharded_weights_start_again(corpus, tmp_path):
    """The launcher starts them again, each time with passes of half the size, until they fit."""
    asked = [*corpus, *SMALL, *STEPS, *QUIET, "augment.dropout=0"]
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = run(*asked, cwd=tmp_path / "whole")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK'):\n"
        f"    import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "    import asr_exp.cli.main as cli\n"
        "    before = cli.main_and_exit\n"
        "    def patched():\n"
        "        import test_out_of_memory as ours\n"
        f"        ours.no_room_in_the_network({2 * RATE})\n"
        "        before()\n"
        "    cli.main_and_exit = patched\n"
    )
    sharded = ["trainer.devices=2", "trainer.strategy=fsdp"]
    path = os.pathsep.join([str(site), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = cli(*asked, *sharded, cwd=tmp_path / "parts", PYTHONPATH=path)
    assert done.stderr.count("Starting all ranks again.") >= 1 and "Traceback" not in done.stderr
    same_curve(whole, run_folder(tmp_path / "parts"))
