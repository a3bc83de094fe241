"""A run's own training step, really run: the pass of middling size and the worst, for memory and time; and
the disk it will take.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr_exp.data.audio import decode
from asr_exp.data.batch import Batch, collate
from asr_exp.data.batch_plan import cost
from asr_exp.data.corpora.base import Utterance
from asr_exp.data.prepare import Split
from asr_exp.evaluation.emission_cache import plan_passes
from asr_exp.training.loop import train_step
from asr_exp.training.setup import TrainingSetup

TIMED, ENOUGH_SECONDS = 12, 10.0  # passes of all sizes that are timed, whichever comes first
SPARE = 0.95  # share of the memory there is that a pass may be expected to take, before it is run


class OnDemand:
    """Audio decoded as it is asked for, in the place of an `AudioStore`: a trial needs a few clips of a
    corpus.
    """

    def __init__(self, utterances: Sequence[Utterance], seconds: np.ndarray, rate: int):
        self.utterances = utterances
        self.seconds = seconds
        self.rate = rate

    def __getitem__(self, index: int) -> np.ndarray:
        """Samples of one utterance, int16; silence of its length where it cannot be decoded."""
        clip = decode(self.utterances[index].audio, self.rate)
        return (
            np.zeros(round(self.seconds[index] * self.rate), dtype=np.int16)
            if clip.samples is None
            else clip.samples
        )

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        return [self[int(i)] for i in indices]


@dataclass(frozen=True)
class Pass:
    """A forward and backward pass. indices: its utterances; cost: its padded seconds, attention's square
    included.
    """

    indices: np.ndarray
    cost: float


@dataclass(frozen=True)
class Trial:
    """What was measured. Bytes are the device's (on a CPU, of this process); None for what was not run."""

    median: Pass
    worst: Pass
    there: int  # bytes that this run can have
    idle: int  # bytes before the first pass: weights, libraries
    median_bytes: int = 0
    pace: float = 0.0  # seconds of training for each second of cost
    worst_bytes: int | None = None
    scoring_bytes: int | None = None
    scoring_seconds: float | None = None  # for each second of cost
    out_of_memory: str = ""  # which pass did not fit, or would not

    @property
    def expected_bytes(self) -> float:
        """Of the worst pass, from the median one: what is beyond the weights grows with the cost."""
        return self.idle + (self.median_bytes - self.idle) * max(1.0, self.worst.cost / self.median.cost)


def micro_batches(job: TrainingSetup, world: int) -> list[list[Pass]]:
    """The passes of rank 0 in each step of the first epoch."""
    costs = job.plan.costs
    steps = range(1, min(job.total, job.plan.steps_per_epoch) + 1)
    return [
        [Pass(p, len(p) * float(costs[p].max())) for p in job.plan.micro_batches(step, 0, world)]
        for step in steps
    ]


def try_out(
    job: TrainingSetup, made: Sequence[Sequence[Pass]], scored: Split | None, device_seconds: float
) -> Trial:
    """Run the median pass, the worst where it can be expected to fit, a few of all sizes for the time they
    take, the worst of scoring.

    The job's weights are of no use afterwards. scored: the split whose largest forward pass is run too.
    """
    ordered = sorted((one for step in made for one in step), key=lambda one: one.cost)
    median, worst = ordered[len(ordered) // 2], ordered[-1]
    there, idle = memory_there(job.runtime.device), memory_used(job.runtime.device)
    seen = Trial(median, worst, there, idle)
    try:
        _step(job, median)
        with peak_of(job.runtime.device) as peak:
            took = _step(job, median)
        seen = Trial(median, worst, there, idle, peak.bytes, took / median.cost)
        # a CPU has no error to catch: the kernel kills
        if job.runtime.device.type == "cpu" and seen.expected_bytes > SPARE * there:
            return replace(seen, out_of_memory="the worst pass")
        with peak_of(job.runtime.device) as peak:
            _step(job, worst)
        seen = replace(seen, worst_bytes=peak.bytes, pace=_pace(job, ordered))
        return replace(seen, **_scoring(job, scored, device_seconds)) if scored else seen
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return replace(
            seen,
            out_of_memory=(
                "scoring" if seen.worst_bytes else "the worst pass" if seen.median_bytes else "a median pass"
            ),
        )


def _pace(job: TrainingSetup, ordered: Sequence[Pass]) -> float:
    """Seconds for each second of cost, over passes of all sizes.

    No pass is run twice: libraries prepare anew for every shape they have not met, and a run meets new ones
    at every step.
    """
    some = [ordered[i] for i in dict.fromkeys(np.linspace(0, len(ordered) - 1, TIMED + 2).astype(int)[1:-1])]
    took, costs = 0.0, 0.0
    for number in np.random.default_rng(job.seed).permutation(len(some)):
        if took < ENOUGH_SECONDS:
            took, costs = took + _step(job, some[number]), costs + some[number].cost
    return took / costs


def _step(job: TrainingSetup, one: Pass) -> float:
    """One optimiser step on a single pass, everything trained that ever will be -> its seconds."""
    step = job.freeze_encoder_steps + 1
    batch = collate(job.split, one.indices, job.masks, step, job.speed)
    _settle(job.runtime.device)
    began = time.monotonic()
    train_step(job, step, [batch])
    _settle(job.runtime.device)
    return time.monotonic() - began


def _scoring(job: TrainingSetup, split: Split, device_seconds: float) -> dict[str, Any]:
    """The largest forward pass of `evaluate`, in fp32."""
    costs = cost(split.seconds)
    largest = max(
        plan_passes(split, device_seconds, job.runtime.device), key=lambda p: len(p) * costs[p].max()
    )
    batch: Batch = collate(split, largest)
    job.model.eval()
    with peak_of(job.runtime.device) as peak, torch.inference_mode():
        began = time.monotonic()
        job.model(batch.to(job.runtime.device))
        _settle(job.runtime.device)
        took = time.monotonic() - began
    return {
        "scoring_bytes": peak.bytes,
        "scoring_seconds": took / (len(largest) * float(costs[largest].max())),
    }


# ------------------------------------------------------------------------------------------------------------
# memory and disk


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_used(device: torch.device) -> int:
    """Bytes in use now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def memory_there(device: torch.device) -> int:
    """Bytes that this process can have, those it has included: the GPU's that are free, or the machine's,
    within its control group.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    told = Path("/proc/meminfo")
    if not told.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = next(
        int(line.split()[1]) * 1024
        for line in told.read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    limit, taken = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and taken.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(taken.read_text()))
    return free + memory_used(device)


class Peak:
    bytes = 0


@contextmanager
def peak_of(device: torch.device) -> Iterator[Peak]:
    """The most memory in use at any time inside: the allocator's own count on a GPU, on a CPU a look every
    few milliseconds.
    """
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(0.003):
            peak.bytes = max(peak.bytes, memory_used(device))

    watcher = threading.Thread(target=watch, daemon=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        watcher.start()
    try:
        yield peak
    finally:
        over.set()
        if device.type == "cuda":
            peak.bytes = torch.cuda.max_memory_allocated(device)
        else:
            watcher.join()
            peak.bytes = max(peak.bytes, memory_used(device))


def checkpoint_bytes(job: TrainingSetup, average: int) -> int:
    """Bytes of a run folder's checkpoints at their most: best and last, one more while it is written, and
    those to be averaged.
    """
    weights = 4 * sum(p.numel() for p in job.model.parameters())
    moments = 8 * sum(p.numel() for p in job.trained)
    smoothed = 4 * sum(p.numel() for p in job.trained) if job.ema else 0
    last = weights + moments + smoothed
    return weights + 2 * last + (average * weights if average > 1 else 0)


def existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
