"""The forecast of memory against the peak of torch's allocator, the size of passes that follows from it, and
runs that do not fit.
"""

import json

import pytest
from fake_cuda import figures, needs_fake_cuda

pytestmark = needs_fake_cuda

# (family, norm, size, settings): a step of about 100 s of audio
MEASURE = """
import gc
import torch.distributed as dist
from asr_exp.training.pass_size import expected_memory

LENGTHS = {
    "short": np.random.default_rng(0).uniform(2, 4, 2000),
    "long": np.random.default_rng(0).uniform(25, 30, 300),
    None: None,
}

def compared(
    family, norm, size, precision="bf16", device=1000, batch=100, over=(), seconds=None, ranks=None, **more
):
    # ranks: ddp or fsdp, for one of two; nothing is sent, so that the other need not be there
    words = [
        f"trainer.batch_seconds={2 * batch if ranks else batch}",
        f"trainer.device_seconds={device}",
        f"trainer.precision={precision}",
        "trainer.max_steps=10",
        "trainer.max_epochs=null",
        "trainer.device=cuda",
        "augment.layerdrop=0",
        *over,
    ]
    with started("cuda", precision) as runtime:
        gc.collect()
        torch.cuda.empty_cache()
        torch.set_autocast_cache_enabled(True)  # an earlier case's weights were sharded
        before = torch.cuda.memory_allocated()  # what torch.distributed holds of an earlier case
        if ranks:
            words.append(f"trainer.strategy={ranks}")
            dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=2)
            runtime.world = 2
        setup = build(runtime, family, norm, size, words, seconds=LENGTHS[seconds], **more)
        peaks = []
        for step in (1, 2):
            batches = _batches(setup, step)
            torch.cuda.reset_peak_memory_stats()
            train_step(setup, step, batches)
            peaks.append(torch.cuda.max_memory_allocated())
        expected = expected_memory(setup)
        runtime.world = 1
        return [len(batches), expected / 2**30, (max(peaks) - before) / 2**30]

from asr_exp.training.loop import _batches, train_step
result = [compared(*one, **more) for *one, more in CASES]
"""
CHECKPOINTING = {"over": ["trainer.gradient_checkpointing=true"]}
BASE = {"num_hidden_layers": 6}
SMALL = [
    ("wav2vec2", "group", "base", BASE),
    ("wav2vec2", "group", "base", BASE | {"freeze_front_end": False}),
    ("wav2vec2", "group", "base", BASE | {"precision": "fp32"}),
    ("wav2vec2", "group", "base", BASE | {"device": 30}),
    ("wav2vec2", "layer", "base", BASE),
    ("hubert", "layer", "base", BASE | {"freeze_front_end": False}),
    ("wav2vec2", "layer", "base", BASE | CHECKPOINTING),
    ("wavlm", "group", "base", BASE | {"device": 30}),
    ("wavlm", "group", "base", BASE | {"freeze_front_end": False, "precision": "fp32"}),
    ("data2vec-audio", "layer", "base", BASE),
    ("data2vec-audio", "layer", "base", BASE | CHECKPOINTING),
    ("sew", "group", "base", BASE | {"freeze_front_end": False, "precision": "fp32"}),
    ("sew-d", "group", "base", BASE),
    ("wavlm", "group", "base", BASE | {"seconds": "short"}),
]
# of two ranks
SHARED = [
    ("wav2vec2", "group", "base", BASE | {"ranks": "ddp"}),
    ("wav2vec2", "layer", "base", BASE | {"ranks": "ddp", "device": 30, "freeze_front_end": False}),
    ("wav2vec2", "layer", "base", BASE | {"ranks": "fsdp", "device": 30}),
    ("wav2vec2", "group", "base", CHECKPOINTING | {"ranks": "fsdp"}),
    ("wavlm", "group", "base", BASE | {"ranks": "fsdp", "precision": "fp32"}),
]
FULL = {"batch": 400, "device": 100}
LARGE = [
    ("wav2vec2", "layer", "large", FULL | {"ranks": "ddp", "batch": 200}),
    ("wav2vec2", "layer", "large", FULL | CHECKPOINTING | {"ranks": "fsdp", "batch": 200}),
    ("wav2vec2", "group", "base", FULL),
    ("wav2vec2", "group", "base", FULL | {"device": 1000}),
    ("wav2vec2", "layer", "large", FULL),
    ("hubert", "layer", "large", FULL | {"freeze_front_end": False}),
    ("wavlm", "layer", "large", FULL),
    ("wavlm", "layer", "large", FULL | CHECKPOINTING),
    ("wav2vec2", "layer", "1b", FULL),
    ("wav2vec2", "layer", "1b", FULL | CHECKPOINTING),
    ("wavlm", "layer", "large", CHECKPOINTING | {"batch": 1000}),
    ("wavlm", "layer", "large", {"batch": 390, "seconds": "long"}),
    ("data2vec-audio", "layer", "large", CHECKPOINTING | {"batch": 1000}),
    ("wav2vec2", "group", "base", {"batch": 390, "vocabulary": 3000, "precision": "fp32"}),
    ("sew", "group", "base", {"batch": 390, "seconds": "short"}),
    ("sew-d", "group", "base", {"batch": 390, "seconds": "long"}),
    ("sew-d", "group", "base", CHECKPOINTING | {"batch": 390}),
    ("unispeech", "layer", "large", {"batch": 390, "precision": "fp16"}),
]


def check(cases: list, within: float = 0.15) -> None:
    found = figures(f"CASES = {cases}\n{MEASURE}", timeout=1200)
    for case, (passes, expected, peak) in zip(cases, found, strict=True):
        assert expected == pytest.approx(peak, rel=within), (case, passes, expected, peak)


def test_the_forecast_is_the_allocators_peak():
    """Front end frozen and not, fp32 and bf16, one pass and several, with checkpointing and without."""
    check(SMALL)


def test_the_forecast_for_one_of_several_ranks():
    """Checkpointing included, which transformers leaves out where a layer's forward is not that of the class
    that FSDP2 gives it.
    """
    check(SHARED, within=0.2)  # half a base: what is rounded up in a layer weighs more


@pytest.mark.slow
def test_the_forecast_for_the_sizes_of_published_checkpoints():
    check(LARGE)


def test_auto_is_what_the_card_holds():
    """All of a step in one pass on a large card; on a small one passes that fit, and no more of them than it
    takes.
    """
    one = "result = measure('wav2vec2', size='tiny', batch_seconds=390, device_seconds='auto')"
    assert figures(one)["passes"] == 1
    some = "result = measure('wav2vec2', batch_seconds=400, device_seconds='auto')"
    step = figures(some, gigabytes=6)
    assert 2 <= step["passes"] <= 5 and 0.6 * 6 < step["peak_gib"] < 0.95 * 6, json.dumps(step)


def test_a_step_that_does_not_fit_is_made_in_parts():
    """In earnest: the allocator refuses, in a forward or a backward pass."""
    program = (
        "import logging; logging.basicConfig()\n"
        "result = measure('wav2vec2', batch_seconds=400, device_seconds=1000, steps=3)"
    )
    step = figures(program, gigabytes=6)
    assert step["passes"] == 1 and 2 < step["peak_gib"] < 6 and step["launches"] > 2000
