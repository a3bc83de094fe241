"""A pass that does not fit into memory is made in parts, and nothing else changes."""

import torch
import torch.distributed as dist
from functools import partial

import pytest
from harness import FORKS, QUIET, SMALL, call, intercept, latest, lines, losses, result, run, two_forks

from asr_exp.training import loop as training

RATE = 16_000
STEPS = [
    "trainer.max_steps=6",
    "trainer.eval_every=3",
    "trainer.log_every=1",
    "trainer.batch_seconds=8",
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
    print(capsys.readouterr().out)
