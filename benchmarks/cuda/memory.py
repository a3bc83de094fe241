"""A step that does not fit in what the card has free: it must be made all the same, with the same result."""

from collections.abc import Iterator
from typing import Any

import torch

from asr_exp.builders.session import run_session
from asr_exp.training import loop
from benchmarks.cuda.networks import (
    BASE,
    TINY,
    batches_of,
    build,
    clip_seconds,
    configure,
    free,
    noise_split,
    peak,
    reset_peak,
    rounded,
    settle,
    setup_of,
)
from benchmarks.cuda.parts import Attempt, Bench, Row, check

LEFT = 8.0  # GiB that the hog leaves besides the weights
CLOSE = {"loss": 1e-5, "norm": 1e-4}  # relative: sums in another order


def run(bench: Bench) -> Iterator[Row]:
    """The same step with the card to itself and beside a hog, from the same weights."""
    seconds = 20.0 if bench.quick else 4000.0
    split = noise_split(clip_seconds(2 * seconds))
    words = (f"trainer.batch_seconds={seconds}", f"trainer.device_seconds={seconds}", "augment=none")
    found: dict[str, dict[str, Any]] = {}
    config = configure(TINY if bench.quick else BASE, bench, *words, "trainer.precision=fp32")
    with run_session(config) as runtime:
        for what in ("to itself", "beside a hog"):
            free(bench.device)
            attempt = Attempt(what=f"a step of {seconds:g} s in one pass, {what}")
            hog: list[torch.Tensor] = []
            with attempt:
                setup = setup_of(config, split, build(config, split, runtime), runtime)
                batches = batches_of(setup, 1)
                if what == "beside a hog":
                    hog = take_all_but(0.2 if bench.quick else LEFT, bench.device)
                reset_peak(bench.device)
                figures = loop.train_step(setup, 1, batches)
                settle(bench.device)
                found[what] = {"loss": float(figures.sums[0]), "norm": float(figures.norm)}
                taken = sum(one.nbytes for one in hog) / 2**30
                attempt.row |= {
                    "hog_gib": round(taken, 1),
                    "peak_gib": rounded([peak(bench.device)[0] - taken])[0],
                }
                attempt.row |= {"passes": len(figures.losses), **found[what]}
                del setup
            del hog
            yield attempt.row
        if len(found) == 2:
            for name, bound in CLOSE.items():
                one, other = found["to itself"][name], found["beside a hog"][name]
                yield check(f"{name}, relative difference", abs(one - other) / max(abs(one), 1e-12), bound)


def take_all_but(gib: float, device: str) -> list[torch.Tensor]:
    """Tensors that leave so much of the card. Nothing is taken on a CPU."""
    if device != "cuda":
        return []
    free(device)
    available, _ = torch.cuda.mem_get_info()
    hog, chunk = [], 2**28
    for _ in range(int((available - gib * 2**30) // chunk)):
        hog.append(torch.empty(chunk, dtype=torch.uint8, device=device))
    return hog
