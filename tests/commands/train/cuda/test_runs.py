"""Runs by the command line on a CUDA device, which the stand-in counts: stopped, resumed, out of memory."""

import signal
from pathlib import Path

import pytest
import torch
from fake_cuda import needs_fake_cuda, on_fake_cuda
from harness import lines, result, run_folder

pytestmark = needs_fake_cuda

MODEL = ["model=tiny-random", "model.config.hidden_size=128"]
RUN = [
    *MODEL,
    "trainer.device=cuda",
    "trainer.device_seconds=auto",
    "trainer.max_steps=5",
    "trainer.eval_every=5",
    "trainer.batch_seconds=8",
    "trainer.log_every=1",
    "tracking=none",
]
LEAVE = f"""
from harness import signalled_at
signalled_at('asr_exp.training.loop.train_step', {signal.SIGUSR1}, 2)
"""
MAIN = "from asr_exp.cli.main import main; import sys; sys.exit(main({}))"


def state_of(folder: Path) -> dict:
    return torch.load(folder / "checkpoints/last/training_state.pt", weights_only=True, map_location="cpu")[
        "state"
    ]


def test_asked_to_leave_it_saves_and_goes_on(corpus, tmp_path):
    asked = [*corpus, *RUN]
    stopped = on_fake_cuda("-c", LEAVE + MAIN.format(asked), cwd=tmp_path, check=False)
    assert stopped.returncode == 128 + signal.SIGUSR1, stopped.stderr[-2000:]
    assert "Stopped at step 2 of 5 and saved" in stopped.stderr and "Traceback" not in stopped.stderr
    folder = tmp_path / run_folder(tmp_path)
    sizes = state_of(folder)["sizes"]
    assert len(sizes) == 1 and sizes[0][1] > 100  # what the card holds
    done = on_fake_cuda("-c", MAIN.format(asked), cwd=tmp_path)
    assert "Going on from step 2 of 5" in done.stdout and "trainer.device_seconds=auto" in done.stdout
    steps = [line["step"] for line in lines(folder / "metrics.jsonl") if "train/lr" in line]
    assert steps == [1, 2, 3, 4, 5] and result(folder)["status"] == "finished"
    assert state_of(folder)["sizes"][0] == sizes[0]
    assert result(folder)["train"]["device_seconds"] == sizes[0][1]


@pytest.mark.slow
@pytest.mark.parametrize("key", [[], ["trainer.gradient_checkpointing=true"]])
def test_a_run_on_a_card_that_is_too_small(corpus, tmp_path, key):
    """A sentence, whatever it is that does not fit: here the weights' gradients or moments."""
    large = ["model.config.hidden_size=2048", "model.config.intermediate_size=8192", *key]
    asked = [*corpus, *(word for word in RUN if "hidden_size" not in word), *large]
    done = on_fake_cuda("-c", MAIN.format(asked), cwd=tmp_path, gigabytes=0.9, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr + done.stdout, done.stderr[-2000:]
    assert "memory" in done.stderr and "trainer." in done.stderr
