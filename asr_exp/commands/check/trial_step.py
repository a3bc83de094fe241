"""Runs steps of a training run on the device, and measures memory and time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from asr_exp.commands.check.memory import available_memory, track_peak, used_memory
from asr_exp.core.errors import UserError
from asr_exp.data.audio import decode
from asr_exp.data.batch import collate
from asr_exp.data.batch_plan import cost
from asr_exp.data.corpora.base import Utterance
from asr_exp.data.prepare import Split
from asr_exp.evaluation.emission_cache import plan_passes
from asr_exp.training.loop import train_step
from asr_exp.training.setup import TrainingSetup

MAX_TIMED = 12  # micro-batches that are timed,
TIMED_SECONDS = 10.0  # unless they take this long before
MAX_EXPECTED = 0.95  # share of the available memory that a micro-batch may be expected to take when it is run


class DecodeOnDemand:
    """Audio that is decoded when it is needed, in place of an `AudioStore`: a trial needs few clips of a
    corpus.
    """

    def __init__(self, utterances: Sequence[Utterance], seconds: np.ndarray, rate: int):
        self.utterances = utterances
        self.seconds = seconds
        self.rate = rate

    def __getitem__(self, index: int) -> np.ndarray:
        """The audio of an utterance, (samples,) int16; silence of its length where it cannot be decoded."""
        clip = decode(self.utterances[index].audio, self.rate)
        if clip.samples is None:
            return np.zeros(round(self.seconds[index] * self.rate), dtype=np.int16)
        return clip.samples

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        """The audio of several utterances."""
        return [self[int(i)] for i in indices]


@dataclass(frozen=True)
class MicroBatch:
    """The utterances of one forward and backward pass. indices: of the training split. cost: see
    `batch_plan.PassCost`.
    """

    indices: np.ndarray
    cost: float


@dataclass(frozen=True)
class TrialResult:
    """Measurements of a trial.

    Memory is in bytes: of the GPU, or of this process where it runs on a CPU. None stands for
    a pass that was not run.
    """

    median: MicroBatch
    worst: MicroBatch
    available_bytes: int  # that this run can have
    idle_bytes: int  # before the first pass: weights, libraries
    median_bytes: int = 0
    seconds_per_cost: float = 0.0  # of training
    worst_bytes: int | None = None
    reserved_bytes: int = 0  # by the allocator of a GPU, in the worst pass
    scoring_bytes: int | None = None
    scoring_seconds_per_cost: float | None = None
    in_parts: bool = False  # whether the worst pass did not fit as a whole, and fitted in parts
    out_of_memory: str = ""  # the pass that did not fit, or was not expected to

    @property
    def expected_bytes(self) -> float:
        """What the worst micro-batch is expected to take: the memory that the median one takes beyond the
        weights, in proportion to their costs.
        """
        return self.idle_bytes + (self.median_bytes - self.idle_bytes) * max(
            1.0, self.worst.cost / self.median.cost
        )


def first_epoch(setup: TrainingSetup, world_size: int) -> list[list[MicroBatch]]:
    """The micro-batches of rank 0 in each step of the first epoch."""
    costs = setup.plan.costs
    steps = range(1, min(setup.total, setup.plan.steps_per_epoch) + 1)
    return [
        [
            MicroBatch(indices, setup.plan.pass_cost.of_pass(costs[indices]))
            for indices in setup.plan.micro_batches(step, 0, world_size)
        ]
        for step in steps
    ]


def run_trial(
    setup: TrainingSetup,
    steps: Sequence[Sequence[MicroBatch]],
    scored: Split | None,
    scoring_seconds: float,
) -> TrialResult:
    """Run the median micro-batch, the worst where it is expected to fit, some of all sizes to measure the
    time, and the largest forward pass of scoring.

    The weights of `setup` are of no use afterwards. scored: the split for the forward pass of scoring.
    scoring_seconds: the size of the passes of scoring.
    """
    ordered = sorted((one for step in steps for one in step), key=lambda one: one.cost)
    median, worst = ordered[len(ordered) // 2], ordered[-1]
    device = setup.runtime.device
    result = TrialResult(median, worst, available_memory(device), used_memory(device))
    try:
        _timed_step(setup, median)
        with track_peak(device) as peak:
            seconds = _timed_step(setup, median)
        result = replace(result, median_bytes=peak.bytes, seconds_per_cost=seconds / median.cost)
        # On a CPU there is no error to catch: the kernel kills the process.
        if device.type == "cpu" and result.expected_bytes > MAX_EXPECTED * result.available_bytes:
            return replace(result, out_of_memory="the worst pass")
        with track_peak(device) as peak:
            _timed_step(setup, worst)
        in_parts = setup.pass_limit.seconds is not None
        result = replace(result, worst_bytes=peak.bytes, reserved_bytes=peak.reserved, in_parts=in_parts)
        result = replace(result, seconds_per_cost=_seconds_per_cost(setup, ordered))
        return replace(result, **_measure_scoring(setup, scored, scoring_seconds)) if scored else result
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        failed = "the worst pass" if result.median_bytes else "a median pass"
        return replace(result, out_of_memory="scoring" if result.worst_bytes else failed)


def _seconds_per_cost(setup: TrainingSetup, ordered: Sequence[MicroBatch]) -> float:
    """The time of a micro-batch relative to its cost, measured over micro-batches of all sizes.

    No micro-batch is run twice: libraries prepare themselves for every new shape, and a run meets new shapes
    at every step.
    """
    places = np.linspace(0, len(ordered) - 1, MAX_TIMED + 2).astype(int)[1:-1]
    sample = [ordered[i] for i in dict.fromkeys(places)]
    seconds = 0.0
    costs = 0.0
    for number in np.random.default_rng(setup.seed).permutation(len(sample)):
        if seconds < TIMED_SECONDS:
            seconds += _timed_step(setup, sample[number])
            costs += sample[number].cost
    return seconds / costs


def _timed_step(setup: TrainingSetup, micro_batch: MicroBatch) -> float:
    """Run an optimiser step on one micro-batch, with the encoder unfrozen if it ever is -> its seconds."""
    step = setup.freeze_encoder_steps + 1
    batch = collate(setup.split, micro_batch.indices, setup.masks, step, setup.speed)
    _synchronize(setup.runtime.device)
    start = time.monotonic()
    try:
        train_step(setup, step, [batch])
    except UserError as why:  # an utterance does not fit alone
        raise torch.OutOfMemoryError(str(why)) from why
    _synchronize(setup.runtime.device)
    return time.monotonic() - start


def _measure_scoring(setup: TrainingSetup, split: Split, largest_seconds: float) -> dict[str, Any]:
    """Run the largest forward pass of `evaluate`, in fp32 -> the fields of `TrialResult` for scoring."""
    device = setup.runtime.device
    costs = cost(split.seconds)
    largest = max(plan_passes(split, largest_seconds, device), key=lambda p: len(p) * costs[p].max())
    batch = collate(split, largest)
    setup.model.eval()
    with track_peak(device) as peak, torch.inference_mode():
        start = time.monotonic()
        setup.model(batch.to(device))
        _synchronize(device)
        seconds = time.monotonic() - start
    return {
        "scoring_bytes": peak.bytes,
        "scoring_seconds_per_cost": seconds / (len(largest) * float(costs[largest].max())),
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def checkpoint_bytes(setup: TrainingSetup, averaged: int) -> int:
    """The most that the checkpoints of a run take on the disk, in bytes: the best, the last twice while it is
    replaced, and those to be averaged.
    """
    weights = 4 * sum(p.numel() for p in setup.model.parameters())
    adam_moments = 8 * sum(p.numel() for p in setup.trained)
    ema = 4 * sum(p.numel() for p in setup.trained) if setup.ema else 0
    last = weights + adam_moments + ema
    return weights + 2 * last + (averaged * weights if averaged > 1 else 0)
