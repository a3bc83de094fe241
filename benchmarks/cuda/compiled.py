"""torch.compile of the encoder's blocks: what the first steps cost, and what the others gain."""

import time
from collections.abc import Iterator

from asr_exp.config.schema import key_field
from asr_exp.runtime.distributed import started
from benchmarks.cuda.networks import (
    build,
    clip_seconds,
    configure,
    free,
    networks,
    noise_split,
    peak,
    reset_peak,
    rounded,
    setup_of,
    timed_steps,
)
from benchmarks.cuda.parts import Attempt, Bench, Row


def run(bench: Bench) -> Iterator[Row]:
    """Two rows a network: trainer.compile=false and true."""
    if key_field("trainer.compile") is None:
        yield {"what": "trainer.compile", "found": "this version has no such key"}
        return
    seconds = 20.0 if bench.quick else 1000.0
    split = noise_split(clip_seconds(4 * seconds))
    with started(bench.device, "bf16") as runtime:
        for network in networks(bench)[:2]:
            for compiled in (False, True):
                attempt = Attempt(network=network.name, compile=compiled)
                with attempt:
                    config = configure(
                        network,
                        bench,
                        f"trainer.batch_seconds={seconds}",
                        f"trainer.device_seconds={seconds}",
                        "trainer.precision=bf16",
                        f"trainer.compile={str(compiled).lower()}",
                    )
                    began = time.perf_counter()
                    setup = setup_of(config, split, build(config, split, runtime), runtime)
                    reset_peak(bench.device)
                    steps = timed_steps(setup, bench, 0.1 if bench.quick else 2.0)
                    attempt.row |= {
                        "rate": round(steps.rate, 1),
                        "first_step_s": round(steps.first, 2),
                        "all_s": round(time.perf_counter() - began, 1),
                        "peak_gib": rounded(peak(bench.device))[0],
                    }
                    del setup
                yield attempt.row
                free(bench.device)
