"""What keys cost or gain at one size: torch.compile of the encoder's blocks, deterministic algorithms."""

import time
from collections.abc import Iterator

from asr_exp.builders.session import run_session
from asr_exp.config.schema import key_field
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

KEYS = ("trainer.compile", "trainer.deterministic")


def run(bench: Bench) -> Iterator[Row]:
    """A row for each network without the keys, and one with each of them that this version has."""
    for missing in (name for name in KEYS if key_field(name) is None):
        yield {"key": missing, "note": "this version has no such key"}
    seconds = 20.0 if bench.quick else 1000.0
    split = noise_split(clip_seconds(4 * seconds))
    words = (
        f"trainer.batch_seconds={seconds}",
        f"trainer.device_seconds={seconds}",
        "trainer.precision=bf16",
    )
    keys = [name for name in KEYS if key_field(name) is not None]
    if bench.device == "cpu" and "trainer.compile" in keys:
        keys.remove("trainer.compile")  # it is for a GPU
    for network in networks(bench)[:2]:
        for name in (None, *keys):
            attempt = Attempt(network=network.name, key=f"{name}=true" if name else "neither")
            with attempt:
                config = configure(network, bench, *words, *([f"{name}=true"] if name else []))
                with run_session(config) as runtime:
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
