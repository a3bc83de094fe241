"""How often a training step waits for the device, which the stand-in counts."""

import pytest
from fake_cuda import figures, needs_fake_cuda
from harness import FAMILIES, NAMES

pytestmark = needs_fake_cuda

PROGRAM = """
from types import SimpleNamespace
from asr_exp.training.loop import _batches, train_step
from asr_exp.training.state import State
from asr_exp.training.step_metrics import StepMetrics

words = ["trainer.batch_seconds=60", "trainer.device_seconds=30", "trainer.max_steps=10"]
with started("cuda", "fp32") as runtime:
    setup = build(runtime, "wav2vec2", "group", "tiny", words)
    written = []
    hooks = SimpleNamespace(
        metrics=None, losses=SimpleNamespace(write=written.extend), tracker=SimpleNamespace(log=print)
    )
    metrics = StepMetrics(setup, State(), hooks, SimpleNamespace(rate=1.0, loss=print))
    for step in (1, 2, 3):
        metrics.add(train_step(setup, step, _batches(setup, step)))
    with Counts() as counts:
        metrics.flush()
steps = [measure(*one, size="tiny", batch_seconds=60, device_seconds=30) for one in FAMILIES]
result = {"flush": counts.summary() | {"written": len(written)}, "steps": steps}
"""


@pytest.fixture(scope="module")
def found():
    return figures(f"FAMILIES = {FAMILIES}\n{PROGRAM}")


def test_a_step_waits_for_nothing(found):
    """Every family makes a step of several passes without a wait and without a copy from pageable memory."""
    for name, step in zip(NAMES, found["steps"], strict=True):
        assert step["passes"] > 1, name
        assert step["syncs"] == {}, name
        assert "COPY H2D pageable" not in step["copies"], name


def test_a_flush_waits_once(found):
    """The figures of several steps come from the device in one copy."""
    flush = found["flush"]
    assert flush["written"] == 3
    assert [count for name, (count, _) in flush["copies"].items() if "D2H" in name] == [1]
    assert "COPY H2D pageable" not in flush["copies"]
    assert sum(flush["syncs"].values()) <= 2  # the copy, and the wait for it
