"""Where the device's time of a training step goes: its kernels by the time they take."""

from collections.abc import Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile

from asr_exp.builders.session import run_session
from asr_exp.training import loop
from benchmarks.cuda.networks import (
    batches_of,
    build,
    clip_seconds,
    configure,
    free,
    networks,
    noise_split,
    settle,
    setup_of,
)
from benchmarks.cuda.parts import Attempt, Bench, Row

SHOWN = 25


def run(bench: Bench) -> Iterator[Row]:
    """A row for each network, whose `rows` are its kernels."""
    seconds = 20.0 if bench.quick else 1000.0
    split = noise_split(clip_seconds(4 * seconds))
    words = (
        f"trainer.batch_seconds={seconds}",
        f"trainer.device_seconds={seconds}",
        "trainer.precision=bf16",
    )
    for network in networks(bench)[:2]:
        config = configure(network, bench, *words)
        with run_session(config) as runtime:
            attempt = Attempt(network=network.name)
            with attempt:
                setup = setup_of(config, split, build(config, split, runtime), runtime)
                for step in (1, 2):
                    loop.train_step(setup, step, batches_of(setup, step))
                batches = batches_of(setup, 3)
                settle(bench.device)
                on_card = bench.device == "cuda"
                with profile(
                    activities=[ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU]
                ) as found:
                    loop.train_step(setup, 3, batches)
                    settle(bench.device)
                attempt.row |= _table(found, on_card) | {
                    "audio_s": round(float(setup.plan.seconds[setup.plan.step(3)].sum()), 1)
                }
                del setup
            yield attempt.row
            free(bench.device)


def _table(found: Any, on_card: bool) -> Row:
    def spent(one: Any) -> float:
        return one.self_device_time_total if on_card else one.self_cpu_time_total

    events = [one for one in found.key_averages() if spent(one) > 0]
    total = sum(map(spent, events))
    rows = [
        {
            "kernel": one.key[:160],
            "calls": one.count,
            "ms": round(spent(one) / 1e3, 3),
            "share": round(spent(one) / total, 4),
        }
        for one in sorted(events, key=spent, reverse=True)[:SHOWN]
    ]
    return {"device_ms": round(total / 1e3, 2), "kernels": sum(one.count for one in events), "rows": rows}
