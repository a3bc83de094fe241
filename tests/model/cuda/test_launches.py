"""What a forward and backward pass launches on a CUDA device, counted on the stand-in of fake_cuda.py."""

import pytest
from fake_cuda import figures, needs_fake_cuda

pytestmark = needs_fake_cuda


def test_launches_do_not_grow_with_the_utterances_nor_wait_for_the_device():
    """With a frozen front end whose first layer has a group norm, in which each utterance has its own."""
    few, many = figures(
        """
one_pass = dict(size="tiny", batch_seconds=60, device_seconds=1e6)
result = [measure("wav2vec2", **one_pass, seconds=np.full(200, long)) for long in (19.0, 2.0)]
"""
    )
    assert few["passes"] == many["passes"] == 1
    assert few["audio_seconds"] == 57 and many["audio_seconds"] >= 54  # of 3 and of 27 or more
    assert abs(few["launches"] - many["launches"]) <= 10
    assert many["launches"] <= 560
    for counts in (few, many):
        assert not [
            place for place in counts["syncs"] if "@ model/" in place and "model/loss.py" not in place
        ]


@pytest.mark.slow
def test_compiled_layers_train_with_the_flash_kernel():
    """All of trainer.compile but the code that Inductor would write for a card."""
    plain, compiled = figures(
        """
import functools
from asr_exp.builders import training
training.compile_blocks = functools.partial(training.compile_blocks, backend="aot_eager")
one_pass = dict(size="tiny", batch_seconds=60, device_seconds=1e6)
result = [measure("wav2vec2", **one_pass, overrides=more) for more in ((), ("trainer.compile=true",))]
"""
    )
    assert plain["attention"] == compiled["attention"] and len(plain["attention"]) >= 3
    assert plain["gemm_tflop"] == compiled["gemm_tflop"]
    assert compiled["syncs"].keys() <= plain["syncs"].keys()
