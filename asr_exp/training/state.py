"""Where a run stands, and what the training loop calls: scoring, saving, writing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from asr_exp.training.metrics_file import MetricsFile
from asr_exp.training.profiler import Profile
from asr_exp.training.trackers import Tracker


@dataclass
class State:
    """Where a run stands: what a checkpoint keeps besides weights and optimizer."""

    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)  # step, metric, value, loss, summary
    stale: int = 0  # evaluations since the best
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    skipped_steps: int = 0  # without a finite gradient
    skipped_in_a_row: int = 0
    lines: int = 0  # of metrics.jsonl
    averaged: bool = False  # the weights are the mean of the last evaluations'
    data: str = ""  # fingerprint of the training split
    pass_seconds: float | None = None  # the most audio of a pass, where a larger one did not fit into memory
    sizes: list[tuple[int, float]] = field(
        default_factory=list
    )  # of passes, as `BatchPlan.set_sizes` takes them
    memory_ratio: float = 0.0  # of the memory that passes took, to what was forecast
    warned: list[str] = field(default_factory=list)  # kinds of trouble that the monitor has warned of


class Scored(Protocol):
    """A score of dev: its summary, as in result.json, and the mean loss of the utterances that can be
    aligned.
    """

    summary: dict[str, Any]
    loss: float | None


@dataclass(frozen=True)
class Hooks:
    """What the training loop calls without knowing what is inside.

    evaluate: scores dev at a step. save: saves a checkpoint, the best (True) or the last (False). metrics, on
    rank 0: the lines of metrics.jsonl. pruner: gets the step and the metric of each score, and returns why
    the run should end, or None. losses, on rank 0: a line for each step, with the loss of each utterance.
    """

    evaluate: Callable[[int], Scored]
    save: Callable[[State, bool], None]
    metrics: MetricsFile | None
    tracker: Tracker
    profile: Profile
    pruner: Callable[[int, float], str | None] = lambda step, rate: None
    losses: MetricsFile | None = None


def save(state: State, hooks: Hooks) -> None:
    """Save all that it takes to resume at this step, with the number of lines that metrics.jsonl has now."""
    state.lines = hooks.metrics.lines if hooks.metrics else 0
    hooks.save(state, False)
