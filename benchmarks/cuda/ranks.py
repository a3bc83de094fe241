"""What several GPUs need, with one: NCCL's sums of gradients, and weights sharded by FSDP."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from asr_exp.runtime.distributed import started
from asr_exp.runtime.fsdp import gathered, is_sharded, shard
from asr_exp.training import loop
from asr_exp.training.gradients import GradientSum
from benchmarks.cuda.networks import (
    BASE,
    TINY,
    batches_of,
    build,
    clip_seconds,
    configure,
    noise_split,
    setup_of,
)
from benchmarks.cuda.parts import Attempt, Bench, Row, check

CLOSE = 1e-5  # of the largest weight's change


def run(bench: Bench) -> Iterator[Row]:
    """Rows of `check`."""
    backend = "nccl" if bench.device == "cuda" else "gloo"
    split = noise_split(clip_seconds(60))
    with started(bench.device, "fp32") as runtime:
        store = dist.HashStore()
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timedelta(seconds=50))
        ones = torch.arange(1000.0, device=runtime.device)
        total = ones.clone()
        dist.all_reduce(total)
        yield _equal(f"all_reduce by {backend}", total, ones)
        config = configure(
            TINY if bench.quick else BASE,
            bench,
            "trainer.batch_seconds=30",
            "trainer.device_seconds=15",
            "trainer.precision=fp32",
            "augment=none",
            "optimizer.eps=1",  # a step in proportion to the gradient, not to its sign
            "optimizer.clip_norm=null",
            "schedule.warmup_steps=0",
        )
        model = build(config, split, runtime)
        before = {name: p.detach().cpu() for name, p in model.network.named_parameters()}
        del model
        steps: dict[str, Any] = {}
        for how in ("alone", "summed", "sharded"):
            attempt = Attempt(what=f"a step, {how}")
            with attempt:
                steps[how] = _step(how, config, split, runtime)
            if attempt.failed:
                yield attempt.row
        for how, what in (
            ("summed", f"gradients summed by {backend}"),
            ("sharded", "weights sharded by FSDP"),
        ):
            if how in steps and "alone" in steps:
                yield check(
                    f"{what}: change of the weights", _apart(before, steps["alone"], steps[how]), CLOSE
                )


def _step(how: str, config: Any, split: Any, runtime: Any) -> dict[str, torch.Tensor]:
    """The weights after one step, on the CPU."""
    model = build(config, split, runtime)  # the same weights each time: they come from the seed
    if how == "sharded":
        shard(model, model.blocks(), runtime.device, 1)
    setup = setup_of(config, split, model, runtime)
    if how == "summed":  # told of a second rank, which never comes: NCCL sums over the one that is there
        setup.gradients = GradientSum(setup.trained, 2)
    if how == "sharded":
        assert all(is_sharded(p) for p in model.parameters()), "not all weights are sharded"
    figures = loop.train_step(setup, 1, batches_of(setup, 1))
    assert torch.isfinite(figures.norm) or runtime.device.type == "cuda", "the gradient is not finite"
    whole = gathered({name: p.detach() for name, p in model.network.named_parameters()}, True)
    return {name: weight.cpu() for name, weight in whole.items()}


def _equal(what: str, found: torch.Tensor, wanted: torch.Tensor) -> Row:
    same = torch.equal(found, wanted)
    return {"what": what, "found": "equal" if same else "differs", "bound": "equal", "holds": same}


def _apart(before: dict, one: dict, other: dict) -> float:
    """How far two steps are apart: the largest difference of a weight, of the largest change of any."""
    change = max(float((one[name] - p).abs().max()) for name, p in before.items())
    apart = max(float((one[name] - other[name]).abs().max()) for name in before)
    return apart / change if change else float("nan")
